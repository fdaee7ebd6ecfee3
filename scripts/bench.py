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


class Cluster:
    """A PostgreSQL server of its own on a free port, with the defaults of its version; gone afterwards."""

    def __init__(self, programs, folder):
        self.programs, self.folder, self.port = programs, pathlib.Path(folder) / "postgres", free_port()
        # The server does not run as root.
        self.as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []

    def __enter__(self):
        self.folder.mkdir()
        if self.as_user:
            pathlib.Path(self.folder.parent).chmod(0o755)
            shutil.chown(self.folder, "postgres", "postgres")
        self.run("initdb", "-U", "postgres", "-A", "trust", "-D", self.folder / "data")
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1"
        self.run("pg_ctl", "-D", self.folder / "data", "-w", "-l", self.folder / "log", "-o", options, "start")
        return self

    def __exit__(self, *_):
        self.run("pg_ctl", "-D", self.folder / "data", "-m", "fast", "-w", "stop")

    def run(self, program, *arguments):
        command = [*self.as_user, self.programs / program, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder)
        if done.returncode != 0:
            sys.exit(f"{program}: {done.stdout}{done.stderr}")
        return done.stdout

    def url(self):
        return f"postgres://postgres@127.0.0.1:{self.port}/postgres"

    def query(self, sql):
        return self.run("psql", "-h", self.folder, "-p", str(self.port), "-U", "postgres", "-Atc", sql).strip()


def postgres(upstream_port, folder, serve):
    """The same turns, kept on a server that shares the machine."""
    installed = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if not installed:
        print("\nPostgreSQL is not installed (make test installs it): no figures for it")
        return
    with Cluster(installed[-1], folder) as cluster:
        port, gateway = serve(cluster.url())
        try:
            empty = int(cluster.query("select pg_database_size('postgres')"))
            print(f"\nPostgreSQL {cluster.query('show server_version')}\n")
            print("| what | concurrency | turns/s | p50, us | p99, us | CPU us/turn of the gateway |")
            print("| --- | --- | --- | --- | --- | --- |")
            for mode, concurrency in (("json", 1), ("json", 16), ("json", 64), ("sse", 64), ("chain", 64)):
                turns = ("--turns", "6") if mode == "chain" else ()
                before = cpu_seconds(gateway.pid)
                report = load(port, mode, concurrency, "true", "--duration", f"{SECONDS}s", *turns)
                cpu = (cpu_seconds(gateway.pid) - before) / report["requests"] * 1e6
                latency = report["latency"]
                print(
                    f"| {mode}, store true | {concurrency} | {report['requests_per_second']:.0f} | "
                    f"{latency['p50_us']:.0f} | {latency['p99_us']:.0f} | {cpu:.0f} |", flush=True,
                )
            stored = int(cluster.query("select count(*) from responses"))
            size = int(cluster.query("select pg_database_size('postgres')")) - empty
            print(f"\nBytes on disk per stored turn on PostgreSQL: {size / stored:.0f} ({stored} turns)")
        finally:
            gateway.terminate()
            gateway.wait()


def main():
    with tempfile.TemporaryDirectory() as folder:
        database = pathlib.Path(folder) / "antiphon.db"
        upstream_port = free_port()
        upstream = start(
            [RELEASE / "antiphon-simulator", "upstream", "--bench", "--listen", f"127.0.0.1:{upstream_port}"],
            upstream_port,
        )
        accounts = f'[{{name = "sim", base_url = "http://127.0.0.1:{upstream_port}/v1"}}]'

        def serve(url):
            port = free_port()
            return port, start(
                [RELEASE / "antiphon", "serve"], port, HOME=folder, ANTIPHON_LISTEN=f"127.0.0.1:{port}",
                ANTIPHON_STORE__URL=url, ANTIPHON_ACCOUNTS=accounts,
                ANTIPHON_LOG__FILTER=os.environ.get("BENCH_LOG", "info"),
            )

        gateway_port, gateway = serve(os.environ.get("BENCH_STORE_URL", f"sqlite://{database}"))
        try:
            try:
                throughput(upstream_port, gateway_port, gateway)
                depth(gateway_port)
                yardstick(upstream_port, folder)
            finally:
                gateway.terminate()
                gateway.wait()
            if "BENCH_STORE_URL" not in os.environ:
                stored = sqlite3.connect(database).execute("select count(*) from responses").fetchone()[0]
                print(f"\nBytes on disk per stored turn: {database.stat().st_size / stored:.0f} ({stored} turns)")
                postgres(upstream_port, folder, serve)
        finally:
            upstream.terminate()
            upstream.wait()


main()
