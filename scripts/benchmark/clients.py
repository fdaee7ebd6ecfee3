"""What a turn takes with few clients and with many, relayed and stored, beside nginx."""

from processes import BURST, FOR_SECONDS, Nginx, Upstream, gateways
from tables import header, row, spread

CLIENTS = (1, 4, 16, 64, 256)
# Of each kind of reply, how it is read and whether it is stored.
KINDS = {"collected": ("json", ("false", "true")), "burst stream": ("sse", ("true",))}


def clients(figures, binaries, rounds):
    with Upstream(*BURST) as upstream, Nginx(upstream) as nginx, gateways(upstream, binaries) as measured:
        for _ in range(rounds):
            for kind in KINDS:
                for count in CLIENTS:
                    one_round(figures, kind, count, nginx, measured)
    table(figures)


def one_round(figures, kind, count, nginx, measured):
    wire, stores = KINDS[kind]
    figures.add("clients", f"{kind}, {count} clients, relayed, nginx", **nginx.cost(wire, count, "false", *FOR_SECONDS))
    for name, gateway in measured.items():
        for store in stores:
            what = "stored" if store == "true" else "relayed"
            cost = gateway.cost(wire, count, store, *FOR_SECONDS)
            figures.add("clients", f"{kind}, {count} clients, {what}, {name}", **cost)


def table(figures):
    header("what", "clients", "", "through", "turns/s", "p50, us", "p99, us", "CPU us/turn")
    for key, values in figures.tables["clients"].items():
        kind, count, what, through = key.split(", ", 3)
        row(kind, count.split()[0], what, through, *(spread(values[name]) for name in ("per_second", "p50", "p99", "us")))
