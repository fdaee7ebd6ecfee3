"""What a turn takes at its depth in a chain: right after its parent, and as the first one after a restart."""

import http.client
import json
import sqlite3
import statistics
import time

from processes import Gateway, Upstream, load
from tables import header, number, row

DEPTHS = (2, 10, 100, 300, 1000)
CHAINS = 8


def depth(figures, binaries, _rounds):
    header("turn of a chain", "gateway", "hot, us", "cold, us")
    with Upstream() as upstream:
        for name, binary in binaries.items():
            with Gateway(upstream.account(), binary) as gateway:
                turns = max(DEPTHS)
                load(gateway.port, "json", CHAINS, "true", "--turns", str(turns), "--requests", str(turns * CHAINS), warmup=0)
                database = sqlite3.connect(f"file:{gateway.database()}?mode=ro", uri=True)
                parents = {at: parents_of(database, at) for at in DEPTHS}
                database.close()
                for at in DEPTHS:
                    gateway.restart()
                    # A first turn, so that the restart itself is not measured.
                    took(gateway.port, None)
                    cold = [took(gateway.port, parent) for parent in parents[at]]
                    hot = [took(gateway.port, parent) for parent in parents[at] for _ in range(5)]
                    figures.add("depth", f"turn {at}, {name}", hot=statistics.median(hot), cold=statistics.median(cold))
                    row(at, name, number(statistics.median(hot)), number(statistics.median(cold)))


def parents_of(database, at):
    """The ids of responses that the turn at a depth continues."""
    rows = database.execute("select id from responses where depth = ? limit ?", (at - 1, CHAINS)).fetchall()
    return [f"resp_{bytes(id).hex()}" for (id,) in rows]


def took(port, parent, **headers):
    """Microseconds of a turn on a connection of its own, which is open before."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.connect()
    body = {"model": "sim", "input": "x" * 200, "store": True}
    if parent:
        body["previous_response_id"] = parent
    body = json.dumps(body)
    began = time.perf_counter()
    connection.request("POST", "/v1/responses", body, {"content-type": "application/json", **headers})
    reply = connection.getresponse()
    text = reply.read()
    ended = time.perf_counter()
    assert reply.status == 200, text
    connection.close()
    return (ended - began) * 1e6
