"""What a start, turns and a purge take with databases of several sizes."""

import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
import time

from depth import took
from processes import BURST, FOLDER, FOR_SECONDS, Gateway, Upstream
from tables import header, row, spread

GIB = 1 << 30
SIZES = os.environ.get("BENCH_SIZES", "0.1,1,10").split(",")
# Of text in each turn, and what a turn with it takes on disk.
TEXT_BYTES, TURN_BYTES = 3000, 4550
TURNS_OF_A_CHAIN = 4
# scripts/fill adds one chain of so many turns.
LONG_CHAIN = 5000
# Turns are spread over thirty days, so that a third of them has expired.
RETENTION_DAYS = 20
# One of those that are filled in.
PROJECT = "p7"
STARTS = 4
CLIENTS = 16
OLD_CHAINS = 24
DAY_MS = 86_400_000
# Expired turns are kept for less than this, as running ones may replay them.
PURGE_DELAY_DAYS = 2
# How late a purge may begin.
PURGE_PATIENCE_SECONDS = 60
PURGE_INTERVAL = "ANTIPHON_STORE__PURGE_INTERVAL"

# Of each table: its title, and the figures in its columns with what they are called.
TABLES = (
    ("start", {
        "turns": "turns", "ready": "until ready, us", "ready_cpu": "CPU until then, us", "later_cpu": "CPU afterwards, us",
    }),
    (f"stored turns, {CLIENTS} clients", {
        "per_second": "turns/s", "us": "CPU us/turn", "p50": "p50, us", "p99": "p99, us", "max": "max, us",
    }),
    ("first turn", {
        "new": "of a new chain, us", "page_cache": "of an old one in the page cache, us", "disk": "of an old one on the disk, us",
    }),
    (f"stored turns while a purge runs, {CLIENTS} clients", {
        "purged": "purged/s", "purging_per_second": "turns/s", "purging_us": "CPU us/turn, purge included",
        "purging_p50": "p50, us", "purging_p99": "p99, us", "purging_max": "max, us",
    }),
)


def size(figures, binaries, rounds):
    with Upstream(*BURST) as upstream:
        for gib in filter(has_room, map(float, SIZES)):
            for name, binary in binaries.items():
                with Gateway(upstream.account(), binary, **{PURGE_INTERVAL: "1d"}) as gateway:
                    run = Run(figures, gateway, f"{gib:g} GiB, {name}")
                    run.fill(gib)
                    run.starts()
                    run.turns(rounds)
                    run.old_chains()
                    run.purge(rounds)
    tables(figures.tables.get("size", {}))


def has_room(gib):
    """Whether there is place for a database, its write-ahead log and what the measurement adds."""
    needed, free = gib * 1.2 + 1, shutil.disk_usage(FOLDER).free / GIB
    if free < needed:
        print(f"\n{gib:g} GiB is left out: it needs {needed:.1f} GiB of disk, and {FOLDER} has {free:.1f} (see BENCH_DIR)")
    return free >= needed


class Run:
    """The measurements of one database."""

    def __init__(self, figures, gateway, key):
        self.figures, self.gateway, self.key = figures, gateway, key

    def add(self, **figures):
        self.figures.add("size", self.key, **figures)

    def fill(self, gib):
        turns = max(int(gib * GIB / TURN_BYTES) - LONG_CHAIN, TURNS_OF_A_CHAIN)
        print(f"filling in {self.key}: {turns + LONG_CHAIN:,} turns", file=sys.stderr)
        self.gateway.stop()
        self.gateway.command("migrate")
        subprocess.run([
            "scripts/fill", self.gateway.store_url, "--turns", str(turns), "--chains", str(turns // TURNS_OF_A_CHAIN),
            "--bytes", str(TEXT_BYTES), "--retention", str(RETENTION_DAYS),
        ], check=True)
        made = json.loads(self.gateway.command("keys", "create", "bench", "--project", PROJECT, "--json"))
        self.secret = made["secret"]
        self.add(turns=turns + LONG_CHAIN, gib=self.gateway.database().stat().st_size / GIB)
        # Everything that was filled in is rolled up, once.
        self.gateway.serve()
        self.gateway.settle()

    def starts(self):
        """Starts without anything of the database in memory, and the work that each leaves for later."""
        for _ in range(STARTS):
            self.gateway.stop()
            self.forget()
            began = time.perf_counter()
            self.gateway.serve()
            ready, cpu = time.perf_counter() - began, self.gateway.cpu_seconds()
            self.gateway.settle()
            self.settled_seconds = time.perf_counter() - began
            self.add(ready=ready * 1e6, ready_cpu=cpu * 1e6, later_cpu=(self.gateway.cpu_seconds() - cpu) * 1e6)

    def load(self):
        return self.gateway.cost("json", CLIENTS, "true", *FOR_SECONDS, "--api-key", self.secret)

    def turns(self, rounds):
        for _ in range(rounds):
            self.add(**self.load())

    def old_chains(self):
        """First turns of chains that the gateway does not have in memory: read from the disk, then from the page cache."""
        parents = self.parents()
        for _ in parents:
            self.add(new=self.took(None))
        for figure in ("disk", "page_cache"):
            self.gateway.restart()
            self.gateway.settle()
            if figure == "disk":
                self.forget()
            # So that the restart itself is not measured.
            self.took(None)
            for parent in parents:
                self.add(**{figure: self.took(parent)})

    def took(self, parent):
        return took(self.gateway.port, parent, authorization=f"Bearer {self.secret}")

    def parents(self):
        """The ids of the last responses of chains, spread over all that have not expired."""
        now = int(time.time() * 1000)
        moments = (now + RETENTION_DAYS * DAY_MS * place // (OLD_CHAINS + 1) for place in range(1, OLD_CHAINS + 1))
        found = [
            self.query(
                "select id from responses where expires_at > ? and project = ? and depth = ? order by expires_at limit 1",
                moment, PROJECT, TURNS_OF_A_CHAIN,
            )
            for moment in moments
        ]
        return [f"resp_{id.hex()}" for id in dict.fromkeys(found) if id]

    def purge(self, rounds):
        """Turns while expired ones are purged, whose pages are on the disk only."""
        self.gateway.restart(**{PURGE_INTERVAL: f"{math.ceil(self.settled_seconds)}s"})
        self.forget()
        moment = int(time.time() * 1000) - PURGE_DELAY_DAYS * DAY_MS
        left = all_expired = self.expired(moment)
        deadline = time.monotonic() + self.settled_seconds + PURGE_PATIENCE_SECONDS
        while left == all_expired and time.monotonic() < deadline:
            time.sleep(0.01)
            left = self.expired(moment)
        for _ in range(rounds):
            before, began = left, time.perf_counter()
            cost = self.load()
            seconds, left = time.perf_counter() - began, self.expired(moment)
            if left == before:
                # The purge is over, or there is nothing to purge.
                break
            self.add(**{f"purging_{name}": value for name, value in cost.items()}, purged=(before - left) / seconds)

    def expired(self, moment):
        """The number of turns that had expired at a moment."""
        return self.query("select count(*) from responses where expires_at < ?", moment)

    def query(self, sql, *values):
        database = sqlite3.connect(f"file:{self.gateway.database()}?mode=ro", uri=True)
        found = database.execute(sql, values).fetchone()
        database.close()
        return found and found[0]

    def forget(self):
        """Leaves nothing of the database in the page cache."""
        for path in filter(os.path.isfile, self.gateway.folder.iterdir()):
            with open(path, "rb") as file:
                os.fsync(file)
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def tables(databases):
    for title, columns in TABLES:
        header(title, *columns.values())
        for key, values in databases.items():
            row(key, *(spread(values.get(name)) for name in columns))
