"""Collected replies, burst streams, sockets and chains: CPU time beside nginx's, throughput and added latency."""

from processes import BURST, FOR_SECONDS, Nginx, Upstream, gateways, load
from tables import header, number, row, spread

# Of the table that counts CPU time in multiples of nginx's.
CLIENTS = 16
MODES = {"collected": "json", "burst stream": "sse", "burst over a socket": "ws", "turn of a 6-turn chain": "json"}
# What nginx relays in place of a mode that it cannot relay itself.
YARDSTICK = {"burst over a socket": "burst stream", "turn of a 6-turn chain": "collected"}


def extra(mode):
    return ("--turns", "6") if mode.startswith("turn of") else ()


def replies(figures, binaries, rounds):
    with Upstream(*BURST) as upstream, Nginx(upstream) as nginx, gateways(upstream, binaries) as measured:
        for _ in range(rounds):
            for mode in MODES:
                one_round(figures, mode, upstream, nginx, measured)
    cpu_table(figures, binaries)
    pace_table(figures, binaries)


def stores(mode):
    return ("true",) if mode.startswith("turn of") else ("false", "true")


def one_round(figures, mode, upstream, nginx, measured):
    wire = MODES[mode]
    if mode not in YARDSTICK:
        figures.add("cpu", f"{mode}, nginx", us=nginx.cost(wire, CLIENTS, "false", *FOR_SECONDS)["us"])
    for clients in (1, CLIENTS, 64):
        direct = load(upstream.port, wire, clients, "false", *FOR_SECONDS, *extra(mode))
        for name, gateway in measured.items():
            for store in stores(mode):
                cost = gateway.cost(wire, clients, store, *FOR_SECONDS, *extra(mode))
                figures.add(
                    "replies", f"{mode}, {clients} clients, store {store}, {name}", **cost,
                    added_p50=cost["p50"] - direct["latency"]["p50_us"], added_p99=cost["p99"] - direct["latency"]["p99_us"],
                )


def cpu_table(figures, names):
    header(f"CPU us per request, {CLIENTS} clients", "nginx", *(
        f"{name}, {store}" for name in names for store in ("relayed", "x nginx", "stored", "x nginx")
    ))
    for mode in MODES:
        yardstick = figures.tables["cpu"][f"{YARDSTICK.get(mode, mode)}, nginx"]["us"]
        nginx = figures.median("cpu", f"{YARDSTICK.get(mode, mode)}, nginx", "us")
        cells = []
        for name in names:
            for store in ("false", "true"):
                key = f"{mode}, {CLIENTS} clients, store {store}, {name}"
                values = figures.tables["replies"].get(key, {}).get("us")
                median = figures.median("replies", key, "us")
                cells += [spread(values), number(median and median / nginx, 1)]
        row(mode, spread(yardstick), *cells)


def pace_table(figures, names):
    header("what", "clients", "store", "turns/s", "p50, us", "p99, us", "added p50, us", "added p99, us", "CPU us/turn")
    for key, values in figures.tables["replies"].items():
        mode, clients, store, name = key.rsplit(", ", 3)
        what = mode if len(names) == 1 else f"{mode}, {name}"
        row(
            what, clients.split()[0], store.split()[1], spread(values["per_second"]), spread(values["p50"]),
            spread(values["p99"]), spread(values["added_p50"]), spread(values["added_p99"]), spread(values["us"]),
        )
