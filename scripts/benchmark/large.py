"""What the turns of other clients wait beside one of 48 MiB: when it is stored, continued, and continued after a restart."""

import http.client
import json
import subprocess
import time

from processes import RELEASE, Gateway, Upstream
from tables import header, row, spread

MIB = 48
ITEM = {"role": "user", "content": [{"type": "input_text", "text": 'hello world \\ " é ' * 24}]}
# How long the others run: longer than the large turn takes.
SECONDS = "3s"


def large(figures, binaries, rounds):
    items = [ITEM] * (MIB * 2**20 // len(json.dumps(ITEM)))
    first = json.dumps({"model": "large", "input": items, "store": True})
    header("beside a turn of 48 MiB", "gateway", "it takes, ms", "others' p99, us", "others' max, ms")
    # An upstream of its own: what delays the others is the gateway.
    with Upstream() as others, Upstream() as upstream:
        accounts = (f'[{{name = "others", base_url = "http://127.0.0.1:{others.port}/v1", models = ["sim"]}}, '
                    f'{{name = "large", base_url = "http://127.0.0.1:{upstream.port}/v1", models = ["large"]}}]')
        for name, binary in binaries.items():
            taken = {}
            for _ in range(rounds):
                with Gateway(accounts, binary) as gateway:
                    id = beside(gateway, first, taken, "stored")
                    next = json.dumps({"model": "large", "input": "x", "previous_response_id": id, "store": True})
                    beside(gateway, next, taken, "continued")
                    gateway.restart()
                    beside(gateway, next, taken, "continued after a restart")
            for what, values in taken.items():
                for took, p99, most in values:
                    figures.add("large", f"{what}, {name}", ms=took, p99=p99, max_ms=most)
                row(what, name, *(spread(column, digits) for column, digits in zip(zip(*values), (0, 0, 1))))


def beside(gateway, body, taken, what):
    """Runs a turn beside those of two other clients, and yields its response's id."""
    command = [RELEASE / "antiphon-load", "--url", f"http://127.0.0.1:{gateway.port}/v1", "--mode", "json",
               "--concurrency", "2", "--store", "false", "--duration", SECONDS, "--json"]
    load = subprocess.Popen(command, stdout=subprocess.PIPE)
    time.sleep(0.5)
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port)
    began = time.perf_counter()
    connection.request("POST", "/v1/responses", body, {"content-type": "application/json"})
    reply = json.loads(connection.getresponse().read())
    took = (time.perf_counter() - began) * 1e3
    connection.close()
    latency = json.loads(load.communicate()[0])["latency"]
    taken.setdefault(what, []).append((took, latency["p99_us"], latency["max_us"] / 1e3))
    return reply["id"]
