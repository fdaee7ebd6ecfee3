"""What a turn costs when its upstream has chat completions only, beside the same turn with the Responses API."""

from processes import FOR_SECONDS, Gateway, Upstream
from tables import header, number, row, spread

CLIENTS = 16
MODES = {"collected": "json", "burst stream": "sse"}
# Both have to take the same bytes in the same pieces, so nothing is prepared.
UPSTREAM = ("--rendered",)


def chat(figures, binaries, rounds):
    with Upstream(*UPSTREAM) as upstream:
        accounts = {api: upstream.account(f'api = "{api}"') for api in ("responses", "chat")}
        gateways = {
            (name, api): Gateway(account, binary) for name, binary in binaries.items() for api, account in accounts.items()
        }
        try:
            for _ in range(rounds):
                for mode, wire in MODES.items():
                    for (name, api), gateway in gateways.items():
                        for store in ("false", "true"):
                            report, cpu = gateway.measured(wire, CLIENTS, store, *FOR_SECONDS)
                            key = f"{mode}, store {store}, {name}, {api}"
                            figures.add("chat", key, us=cpu / report["requests"] * 1e6)
        finally:
            for gateway in gateways.values():
                gateway.__exit__()
    table(figures, binaries)


def table(figures, binaries):
    header(f"CPU us per request, {CLIENTS} clients", "store", "responses", "chat", "x responses")
    for name in binaries:
        for mode in MODES:
            for store in ("false", "true"):
                keys = [f"{mode}, store {store}, {name}, {api}" for api in ("responses", "chat")]
                values = [figures.tables["chat"][key]["us"] for key in keys]
                responses, over_chat = (figures.median("chat", key, "us") for key in keys)
                what = mode if len(binaries) == 1 else f"{mode}, {name}"
                row(what, store, *map(spread, values), number(over_chat / responses, 2))
