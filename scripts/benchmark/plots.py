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
        {"us": "16 clients", "purging_us": "with a purge"},
    ),
    "size-times": (
        "Times, by the size of the database", "GiB", "ms, logarithmic", "size", SIZE,
        {
            "p99": "p99 of 16 clients", "purging_p99": "the same during a purge", "new": "first turn of a new chain",
            "disk": "of an old chain, on the disk", "ready": "start until ready",
        },
    ),
}
SCRIPT = """
set terminal svg size 860,380 font "sans-serif,13" background "white"
set output "{path}"
set colors podo
# Instead of yellow, which white swallows.
set linetype 5 linecolor "#cc3311"
set title "{title}"
set xlabel "{x}"
set ylabel "{y}"
set logscale x
set xtics ({ticks})
{scale}
set xrange [{least} * 0.9:{most} * 1.1]
set grid
set style data linespoints
set for [number=1:8] linetype number linewidth 2 pointtype 7 pointsize 0.6
set key outside right center Left reverse spacing 1.4
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
    places = sorted({at for points in lines.values() for at, _ in points})
    script = SCRIPT.format(
        path=path, title=title, x=x, y=y, ticks=", ".join(f"{at:g}" for at in places), least=places[0], most=places[-1],
        scale="set logscale y" if "logarithmic" in y else "set yrange [0:*]",
        lines=", ".join(f'$line{number} title "{label}"' for number, label in enumerate(lines)),
    )
    subprocess.run(["gnuplot"], input=data + script, text=True, check=True)


main()
