"""Prints the tables of docs/benchmarks.md: all of them, or those that are named."""

import argparse
import json
import os
import pathlib
import resource
import time

from chat import chat
from clients import clients
from depth import depth
from large import large
from limits import limits
from paced import paced
from postgres import postgres
from processes import RELEASE, Others
from replies import replies
from size import size
from sockets import calls, idle
from tables import Figures

PARTS = {
    part.__name__: part
    for part in (replies, clients, chat, paced, depth, size, large, limits, postgres, calls, idle)
}


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"the parts to run: {' '.join(PARTS)} [default: all]")
    parser.add_argument("--json", metavar="FILE", help="also write all figures to a file, as JSON")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the parts that have several [default: 3]")
    parser.add_argument(
        "--gateway", action="append", metavar="NAME=PATH", default=[],
        help="a gateway's binary to measure; several are measured side by side [default: the one that was just built]",
    )
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no such part: {' '.join(unknown)}; there are {' '.join(PARTS)}")
    return given


def main():
    given = arguments()
    binaries = dict(gateway.split("=", 1) for gateway in given.gateway) or {"antiphon": RELEASE / "antiphon"}
    # For thousands of connections, here and in what is started from here.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    figures, others, began = Figures(), Others(), time.strftime("%F %T %Z")
    for part in given.parts or PARTS:
        PARTS[part](figures, binaries, given.rounds)
    busy = others.cores()
    if given.json:
        run = {"began": began, "cores": os.cpu_count(), "others_busy_cores": busy, "tables": figures.as_json()}
        pathlib.Path(given.json).write_text(json.dumps(run, indent=1) + "\n")
    print(f"\nBegan {began}. Meanwhile the rest of the machine (servers of this run included) kept {busy:.2f} of "
          f"{os.cpu_count()} cores busy.")


main()
