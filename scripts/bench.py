#!/usr/bin/env python3
"""Prints the tables of docs/benchmarks.md: all of them, or those that are named."""

import os
import pathlib
import resource
import shutil
import sqlite3
import sys
import tempfile
import time

from bench_postgres import postgres
from bench_sockets import calls, idle
from bench_tools import (
    FOR_SECONDS, Others, cpu_seconds, free_port, load, measured, start, start_gateway, start_upstream, stop,
)

PARTS = ("json", "sse", "ws", "chain", "depth", "nginx", "postgres", "calls", "idle")


def row(name, report, cpu, direct):
    latency, first = report["latency"], report["first_event"]
    per_request = "" if cpu is None else f"{cpu / report['requests'] * 1e6:.0f}"
    added = lambda key: "" if direct is None else f"{latency[key] - direct['latency'][key]:.0f}"
    added_first = f"{first['p50_us'] - direct['first_event']['p50_us']:.0f}" if direct and first else ""
    ratio = "1.00" if direct is None else f"{report['requests_per_second'] / direct['requests_per_second']:.2f}"
    print(
        f"| {name} | {report['concurrency']} | {report['requests_per_second']:.0f} | {added('p50_us')} | "
        f"{added('p99_us')} | {added_first} | {per_request} | {ratio} |", flush=True,
    )


def throughput(parts, upstream_port, gateway_port, gateway):
    modes = [mode for mode in ("json", "sse", "ws") if mode in parts]
    if not modes and "chain" not in parts:
        return
    print("| what | concurrency | requests/s | added p50, us | added p99, us | added to first event, p50, us | "
          "CPU us/request | to direct |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for mode in modes:
        for concurrency in (1, 16, 64):
            direct = load(upstream_port, mode, concurrency, "false", *FOR_SECONDS)
            row(f"{mode}, direct", direct, None, None)
            for store in ("false", "true"):
                report, cpu = measured(gateway, gateway_port, mode, concurrency, store, *FOR_SECONDS)
                row(f"{mode}, store {store}", report, cpu, direct)
    for concurrency in (1, 16, 64) if "chain" in parts else ():
        report, cpu = measured(gateway, gateway_port, "json", concurrency, "true", *FOR_SECONDS, "--turns", "6")
        direct = load(upstream_port, "json", concurrency, "false", *FOR_SECONDS)
        row("chain of 6, store true", report, cpu, direct)


def depth(port):
    """What a turn takes at its depth, in chains of 1,000 turns."""
    turns = ("2", "100", "1000")
    asked = [argument for turn in turns for argument in ("--report-turn", turn)]
    report = load(port, "json", 1, "true", "--turns", "1000", "--requests", "5000", *asked)
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
            report = load(port, mode, 16, "false", *FOR_SECONDS)
            print(f"\nnginx, relaying {mode}: {(cpu() - before) / report['requests'] * 1e6:.0f} CPU us/request")
    finally:
        stop(nginx)


def one_gateway(parts, upstream_port, folder, accounts):
    """The parts that put their load on one and the same process, and what that has kept on disk in the end."""
    database = pathlib.Path(folder) / "antiphon.db"
    store_url = os.environ.get("BENCH_STORE_URL", f"sqlite://{database}")
    port, gateway = start_gateway(folder, store_url, accounts)
    try:
        throughput(parts, upstream_port, port, gateway)
        if "depth" in parts:
            depth(port)
    finally:
        stop(gateway)
    if "BENCH_STORE_URL" not in os.environ:
        stored = sqlite3.connect(database).execute("select count(*) from responses").fetchone()[0]
        print(f"\nBytes on disk per stored turn: {database.stat().st_size / max(stored, 1):.0f} ({stored} turns)")


def main():
    parts = sys.argv[1:] or PARTS
    if unknown := set(parts) - set(PARTS):
        sys.exit(f"no such part: {' '.join(unknown)}; there are {' '.join(PARTS)}")
    # For a thousand sockets, here and in what is started from here.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    others, began = Others(), time.strftime("%F %T %Z")
    with tempfile.TemporaryDirectory() as folder:
        upstream_port, upstream = start_upstream()
        accounts = f'[{{name = "sim", base_url = "http://127.0.0.1:{upstream_port}/v1"}}]'
        try:
            if {"json", "sse", "ws", "chain", "depth"} & set(parts):
                one_gateway(parts, upstream_port, folder, accounts)
            if "nginx" in parts:
                yardstick(upstream_port, folder)
            if "postgres" in parts and "BENCH_STORE_URL" not in os.environ:
                postgres(folder, accounts)
            if "calls" in parts:
                calls(folder)
            if "idle" in parts:
                idle(folder, accounts)
        finally:
            stop(upstream)
    print(f"\nBegan {began}. Meanwhile the rest of the machine (a PostgreSQL server of this run included) kept "
          f"{others.cores():.2f} of {os.cpu_count()} cores busy.")


main()
