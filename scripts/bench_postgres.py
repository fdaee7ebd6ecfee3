"""The same turns, kept on PostgreSQL."""

import os
import pathlib
import shutil
import subprocess
import sys

from bench_tools import FOR_SECONDS, free_port, measured, start_gateway, stop


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


def postgres(folder, accounts):
    """The same turns, kept on a server that shares the machine."""
    installed = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if not installed:
        print("\nPostgreSQL is not installed (make test installs it): no figures for it")
        return
    with Cluster(installed[-1], folder) as cluster:
        port, gateway = start_gateway(folder, cluster.url(), accounts)
        try:
            empty = int(cluster.query("select pg_database_size('postgres')"))
            print(f"\nPostgreSQL {cluster.query('show server_version')}\n")
            print("| what | concurrency | turns/s | p50, us | p99, us | CPU us/turn of the gateway |")
            print("| --- | --- | --- | --- | --- | --- |")
            for name, concurrency in (("json", 1), ("json", 16), ("json", 64), ("sse", 64), ("chain", 64)):
                mode, turns = ("json", ("--turns", "6")) if name == "chain" else (name, ())
                report, cpu = measured(gateway, port, mode, concurrency, "true", *FOR_SECONDS, *turns)
                cpu = cpu / report["requests"] * 1e6
                latency = report["latency"]
                print(
                    f"| {name}, store true | {concurrency} | {report['requests_per_second']:.0f} | "
                    f"{latency['p50_us']:.0f} | {latency['p99_us']:.0f} | {cpu:.0f} |", flush=True,
                )
            stored = int(cluster.query("select count(*) from responses"))
            size = int(cluster.query("select pg_database_size('postgres')")) - empty
            print(f"\nBytes on disk per stored turn on PostgreSQL: {size / stored:.0f} ({stored} turns)")
        finally:
            stop(gateway)
