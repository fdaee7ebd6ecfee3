"""Streams whose upstream pauses between events: CPU time and delay of each event, memory of each stream."""

import threading
import time

from processes import Gateway, Nginx, Upstream, load
from tables import header, number, row

# How many at once, and the milliseconds between two events of each: the last two have as many events a second in all.
STREAMS = ((16, 20), (256, 20), (2000, 156))
# Of one reply: 50 deltas and what is around them.
EVENTS = 57


def paced(figures, binaries, _rounds):
    header("streams at once", "pause, ms", "through", "store", "CPU us/event", "x nginx", "delay p50, us",
           "delay p99, us", "delay max, us", "KiB/stream")
    for streams, pause in STREAMS:
        with Upstream("--event-by-event", "--between-events", f"{pause}ms") as upstream, Nginx(upstream) as nginx:
            run = Run(figures, streams, pause)
            run.line("direct", "", load(upstream.port, *run.arguments("false"), warmup=0), None)
            yardstick = run.through(nginx, "nginx", "false", None)
            for name, binary in binaries.items():
                for store in ("false", "true"):
                    with Gateway(upstream.account(), binary) as gateway:
                        load(gateway.port, "sse", 16, "false", "--requests", "16", warmup=0)
                        run.through(gateway, name, store, yardstick)


class Run:
    def __init__(self, figures, streams, pause):
        self.figures, self.streams, self.pause = figures, streams, pause

    def arguments(self, store):
        """Of the load: as many turns as take about four seconds, and at least two of each client, which do not run in step."""
        turn_ms = EVENTS * self.pause
        turns = self.streams * max(2, round(4000 / turn_ms))
        return ("sse", self.streams, store, "--delays", "--requests", str(turns), "--ramp", f"{turn_ms}ms")

    def through(self, server, name, store, yardstick):
        before, peak = server.resident_kib(), Peak(server)
        report, cpu = server.measured(*self.arguments(store), warmup=0)
        per_stream = (peak.end() - before) / self.streams
        per_event = cpu / report["requests"] / EVENTS * 1e6
        self.line(name, store, report, per_event, yardstick, per_stream)
        return per_event

    def line(self, name, store, report, per_event, yardstick=None, per_stream=None):
        delay = report["delta_delay"]
        figures = {"delay_p50": delay["p50_us"], "delay_p99": delay["p99_us"], "delay_max": delay["max_us"]}
        if per_event is not None:
            figures |= {"us_per_event": per_event, "kib_per_stream": per_stream}
        self.figures.add("paced", f"{self.streams} streams, {self.pause} ms, {name}, store {store}", **figures)
        row(self.streams, self.pause, name, store, number(per_event, 1),
            number(yardstick and per_event / yardstick, 1), number(delay["p50_us"]), number(delay["p99_us"]),
            number(delay["max_us"]), number(per_stream, 1))


class Peak:
    """The most that a process has resident from now to the end."""

    def __init__(self, server):
        self.server, self.most, self.over = server, 0, threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()

    def watch(self):
        while not self.over.is_set():
            self.most = max(self.most, self.server.resident_kib())
            time.sleep(0.1)

    def end(self):
        self.over.set()
        self.thread.join()
        return self.most
