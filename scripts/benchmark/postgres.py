"""The same turns, kept on PostgreSQL."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from processes import BURST, FOR_SECONDS, TICKS_PER_SECOND, Gateway, Upstream, free_port
from tables import header, number, row


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


    def cpu_seconds(self):
        """Of the server and all its processes."""
        main = int((self.folder / "data/postmaster.pid").read_text().split()[0])
        total = 0
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                pid, rest = int(stat.parent.name), stat.read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if main in (pid, int(rest[1])):
                total += int(rest[11]) + int(rest[12])
        return total / TICKS_PER_SECOND


def postgres(figures, binaries, _rounds):
    """The same turns, kept on a server that shares the machine."""
    installed = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if not installed:
        print("\nPostgreSQL is not installed (make test installs it): no figures for it")
        return
    with Upstream(*BURST) as upstream:
        for name, binary in binaries.items():
            with tempfile.TemporaryDirectory() as folder, Cluster(installed[-1], folder) as cluster:
                with Gateway(upstream.account(), binary, cluster.url()) as gateway:
                    on_cluster(figures, gateway, cluster, name)


def on_cluster(figures, gateway, cluster, name):
    empty = int(cluster.query("select pg_database_size('postgres')"))
    header(f"on PostgreSQL {cluster.query('show server_version')}, {name}", "clients", "turns/s", "p50, us", "p99, us",
           "CPU us/turn of the gateway", "of the server")
    def measure(what, clients, mode, *options):
        before = cluster.cpu_seconds()
        report, cpu = gateway.measured(mode, clients, "true", *FOR_SECONDS, *options)
        requests, latency = report["requests"], report["latency"]
        ours, theirs = cpu / requests * 1e6, (cluster.cpu_seconds() - before) / requests * 1e6
        figures.add("postgres", f"{what}, {clients} clients, {name}", per_second=report["requests_per_second"],
                    p50=latency["p50_us"], p99=latency["p99_us"], us=ours, server_us=theirs)
        row(what, clients, number(report["requests_per_second"]), number(latency["p50_us"]),
            number(latency["p99_us"]), number(ours), number(theirs))

    for clients in (1, 16, 64):
        measure("collected", clients, "json")
    for clients in (16, 64):
        measure("burst stream", clients, "sse")
    measure("turn of a 6-turn chain", 64, "json", "--turns", "6")
    gateway.restart(ANTIPHON_STORE__CACHE="0")
    measure("the same, read from the database", 64, "json", "--turns", "6")
    stored = int(cluster.query("select count(*) from responses"))
    size = int(cluster.query("select pg_database_size('postgres')")) - empty
    figures.add("bytes", f"PostgreSQL, {name}", per_turn=size / stored)
    print(f"\nBytes on disk per stored turn on PostgreSQL, {name}: {size / stored:,.0f} ({stored:,} turns)", flush=True)
