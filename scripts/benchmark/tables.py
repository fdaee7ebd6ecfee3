"""Figures of several rounds, and the tables that show them."""

import statistics


class Figures:
    """All figures of a run: of each row of a table, the values that its rounds gave."""

    def __init__(self):
        self.tables = {}

    def add(self, table, row, **figures):
        values = self.tables.setdefault(table, {}).setdefault(row, {})
        for name, value in figures.items():
            values.setdefault(name, []).append(value)

    def median(self, table, row, name):
        values = self.tables.get(table, {}).get(row, {}).get(name)
        return statistics.median(values) if values else None

    def as_json(self):
        return {
            table: {
                row: {
                    name: {"median": statistics.median(values), "min": min(values), "max": max(values)}
                    for name, values in figures.items()
                }
                for row, figures in rows.items()
            }
            for table, rows in self.tables.items()
        }


def number(value, digits=0):
    return "" if value is None else f"{value:,.{digits}f}"


def spread(values, digits=0):
    """The median, and the least and the most where there are several rounds."""
    if not values:
        return ""
    middle = number(statistics.median(values), digits)
    if len(values) == 1:
        return middle
    return f"{middle} ({number(min(values), digits)}-{number(max(values), digits)})"


def header(*titles):
    print(f"\n| {' | '.join(titles)} |\n| {' | '.join('---' for _ in titles)} |", flush=True)


def row(*cells):
    print(f"| {' | '.join(str(cell) for cell in cells)} |", flush=True)
