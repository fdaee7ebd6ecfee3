"""A real model server for tests: llama.cpp's own, with a tiny model made on the spot. Prints its base URL.

Usage: serve.py FOLDER [--key KEY] [--context TOKENS] [--slots COUNT] [--text-only]. Ends when its standard input is closed.
"""

import argparse
import os
import sys

import xllamacpp

from tiny_model import write_model


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--key")
    parser.add_argument("--context", type=int, default=2048, help="tokens for each slot")
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--text-only", action="store_true", help="calls no tools unless it must")
    arguments = parser.parse_args()

    params = xllamacpp.CommonParams()
    params.model.path = os.path.join(arguments.folder, "tiny.gguf")
    write_model(params.model.path, calls=not arguments.text_only)
    params.model_alias = {"tiny"}
    params.port = 0
    params.n_ctx = arguments.context * arguments.slots
    params.n_parallel = arguments.slots
    params.n_threads_http = 8
    # Threads of one computation wait for each other busily, which is slow on a machine that is busy.
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.warmup = False
    params.fit_params = False
    params.cache_ram_mib = 0
    params.verbosity = 1
    if arguments.key:
        params.api_keys = [arguments.key]
    server = xllamacpp.Server(params)
    print(f"{server.listening_address}/v1", flush=True)
    sys.stdin.read()
    # The threads of the server would go on serving.
    os._exit(0)


if __name__ == "__main__":
    main()
