"""Draws the pictures of docs/benchmarks.md with gnuplot, from the figures of a run as JSON."""

import json
import pathlib
import re
import subprocess
import sys

# How rows are read: their place on the x axis, and what tells their line from others.
DEPTH = r"turn (?P<x>\d+), (?P<name>.+)"
CLIENTS = r"(?P<kind>.+), (?P<x>\d+) clients, (?P<what>.+), (?P<name>.+)"
SIZE = r"(?P<x>.+) GiB, (?P<name>.+)"
# Of each picture: its title, its axes, its table, how rows are read, and the figures with what they are called. All of them are
# microseconds.
PICTURES = {
    "depth": (
        "A stored turn at its depth in a chain", "depth", "ms, logarithmic", "depth", DEPTH,
        {"hot": "right after its parent", "cold": "first after a restart"},
    ),
    "clients-cpu": ("CPU time of a turn, by the number of clients", "clients", "us", "clients", CLIENTS, {"us": ""}),
    "clients-p99": ("p99 of turns, by the number of clients", "clients", "ms, logarithmic", "clients", CLIENTS, {"p99": ""}),
    "size-cpu": (
        "CPU time of a stored turn, by the size of the database", "GiB", "us", "size", SIZE,
        {"us": "16 clients", "purging_us": "16 clients while a purge runs, which is included"},
    ),
    "size-times": (
        "Times, by the size of the database", "GiB", "ms, logarithmic", "size", SIZE,
        {
            "p99": "p99 of 16 clients", "purging_p99": "p99 of 16 clients while a purge runs", "new": "first turn of a new chain",
            "disk": "first turn of an old chain, on the disk", "ready": "start until ready",
        },
    ),
}
SCRIPT = """
set terminal svg size 720,420 font "sans-serif,13" background "white"
set output "{path}"
set colors podo
set title "{title}"
set xlabel "{x}"
set ylabel "{y}"
set logscale x
set xtics ({ticks})
{scale}
set grid
set key below
plot {lines}
"""


def main():
    results, folder = sys.argv[1:]
    tables = json.loads(pathlib.Path(results).read_text())["tables"]
    for name, (title, x, y, table, rows, figures) in PICTURES.items():
        path = pathlib.Path(folder) / f"benchmark-{name}.svg"
        if table not in tables:
            print(f"{path} is left as it is: {results} has no figures of the part '{table}'")
            continue
        draw(path, title, x, y, lines_of(tables[table], rows, figures, 1000 if y.startswith("ms") else 1))


def lines_of(table, rows, figures, unit):
    """The points of each line, in a unit of so many microseconds."""
    lines = {}
    for key, values in table.items():
        row = re.fullmatch(rows, key).groupdict()
        x = float(row.pop("x"))
        for figure, what in figures.items():
            if figure in values:
                label = ", ".join(filter(None, (what, *row.values()))).removesuffix(", antiphon")
                lines.setdefault(label, []).append((x, values[figure]["median"] / unit))
    return lines


def draw(path, title, x, y, lines):
    data = "".join(
        f"$line{number} << END\n" + "".join(f"{at} {value}\n" for at, value in sorted(points)) + "END\n"
        for number, points in enumerate(lines.values())
    )
    script = SCRIPT.format(
        path=path, title=title, x=x, y=y,
        ticks=", ".join(f"{at:g}" for at in sorted({at for points in lines.values() for at, _ in points})),
        scale="set logscale y" if "logarithmic" in y else "set yrange [0:*]",
        lines=", ".join(f'$line{number} with linespoints linewidth 2 title "{label}"' for number, label in enumerate(lines)),
    )
    subprocess.run(["gnuplot"], input=data + script, text=True, check=True)


main()
