#!/usr/bin/env python3
"""Prints the tables of docs/benchmarks.md."""

import json
import os
import pathlib
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time

RELEASE = pathlib.Path("target/release")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
SECONDS = os.environ.get("BENCH_SECONDS", "4")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port):
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"nothing listens on port {port}")


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def load(port, mode, concurrency, store, *extra):
    command = [
        RELEASE / "antiphon-simulator", "load", "--url", f"http://127.0.0.1:{port}/v1", "--mode", mode,
        "--concurrency", str(concurrency), "--warmup", "200", "--store", store, "--json", *extra,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{mode} at {concurrency}: {done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def start(arguments, port, **environment):
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("OPENAI_", "ANTIPHON_"))}
    process = subprocess.Popen(
        arguments, env={**clean, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for(port)
    return process


def row(name, report, cpu, direct):
    latency = report["latency"]
    per_request = "" if cpu is None else f"{cpu / report['requests'] * 1e6:.0f}"
    added = lambda key: "" if direct is None else f"{latency[key] - direct['latency'][key]:.0f}"
    ratio = "1.00" if direct is None else f"{report['requests_per_second'] / direct['requests_per_second']:.2f}"
    print(
        f"| {name} | {report['concurrency']} | {report['requests_per_second']:.0f} | {added('p50_us')} | "
        f"{added('p99_us')} | {per_request} | {ratio} |", flush=True,
    )


def throughput(upstream_port, gateway_port, gateway):
    print("| what | concurrency | requests/s | added p50, us | added p99, us | CPU us/request | to direct |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for mode in ("json", "sse"):
        for concurrency in (1, 16, 64):
            direct = load(upstream_port, mode, concurrency, "false", "--duration", f"{SECONDS}s")
            row(f"{mode}, direct", direct, None, None)
            for store in ("false", "true"):
                before = cpu_seconds(gateway.pid)
                report = load(gateway_port, mode, concurrency, store, "--duration", f"{SECONDS}s")
                row(f"{mode}, store {store}", report, cpu_seconds(gateway.pid) - before, direct)
    for concurrency in (1, 16, 64):
        before = cpu_seconds(gateway.pid)
        report = load(gateway_port, "chain", concurrency, "true", "--duration", f"{SECONDS}s", "--turns", "6")
        row("chain of 6, store true", report, cpu_seconds(gateway.pid) - before, load(
            upstream_port, "json", concurrency, "false", "--duration", f"{SECONDS}s"))


def depth(port):
    """What a turn takes at its depth, in chains of 1,000 turns."""
    turns = ("2", "100", "1000")
    asked = [argument for turn in turns for argument in ("--report-turn", turn)]
    report = load(port, "chain", 1, "true", "--turns", "1000", "--requests", "5000", *asked)
    print("\n| turn of a chain | latency, us |\n| --- | --- |")
    for turn in turns:
        print(f"| {turn} | {report['turns'][turn]:.0f} |", flush=True)


NGINX = """worker_processes 2; daemon off; pid {folder}/pid; error_log {folder}/errors; events {{}}
http {{ access_log off; upstream up {{ server 127.0.0.1:{upstream}; keepalive 64; }}
server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://up; proxy_http_version 1.1;
proxy_set_header Connection ""; proxy_buffering off; }} }} }}
"""


def yardstick(upstream_port, folder):
    """What nginx takes on this machine to relay the same, where it is installed: machines differ, and this tells how much."""
    if shutil.which("nginx") is None:
        return
    port, config = free_port(), pathlib.Path(folder) / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, upstream=upstream_port, port=port))
    nginx = start(["nginx", "-e", f"{folder}/errors", "-c", config], port)
    children = pathlib.Path(f"/proc/{nginx.pid}/task/{nginx.pid}/children").read_text().split()
    cpu = lambda: sum(cpu_seconds(int(child)) for child in children)
    try:
        for mode in ("json", "sse"):
            before = cpu()
            report = load(port, mode, 16, "false", "--duration", f"{SECONDS}s")
            print(f"\nnginx, relaying {mode}: {(cpu() - before) / report['requests'] * 1e6:.0f} CPU us/request")
    finally:
        nginx.terminate()
        nginx.wait()


def main():
    with tempfile.TemporaryDirectory() as folder:
        database = pathlib.Path(folder) / "antiphon.db"
        upstream_port, gateway_port = free_port(), free_port()
        upstream = start(
            [RELEASE / "antiphon-simulator", "upstream", "--bench", "--listen", f"127.0.0.1:{upstream_port}"],
            upstream_port,
        )
        accounts = f'[{{name = "sim", base_url = "http://127.0.0.1:{upstream_port}/v1"}}]'
        gateway = start(
            [RELEASE / "antiphon", "serve"], gateway_port, HOME=folder,
            ANTIPHON_LISTEN=f"127.0.0.1:{gateway_port}", ANTIPHON_STORE__URL=os.environ.get("BENCH_STORE_URL", f"sqlite://{database}"),
            ANTIPHON_ACCOUNTS=accounts, ANTIPHON_LOG__FILTER=os.environ.get("BENCH_LOG", "info"),
        )
        try:
            throughput(upstream_port, gateway_port, gateway)
            depth(gateway_port)
            yardstick(upstream_port, folder)
        finally:
            gateway.terminate()
            gateway.wait()
            upstream.terminate()
            upstream.wait()
        if "BENCH_STORE_URL" in os.environ:
            return
        stored = sqlite3.connect(database).execute("select count(*) from responses").fetchone()[0]
        print(f"\nBytes on disk per stored turn: {database.stat().st_size / stored:.0f} ({stored} turns)")


main()
