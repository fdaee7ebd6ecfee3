"""Chains of calls over every transport, and what idle sockets hold."""

import base64
import http.client
import os
import socket
import struct
import threading
import time

from processes import FOR_SECONDS, WARMUP, Gateway, Upstream, load
from tables import header, number, row

TURNS = 20
# What a tool says.
OUTPUT_CHARS = 2000
IDLE_SOCKETS = 1000


class Relay:
    """Passes connections on to a port, and counts the bytes that go there."""

    def __init__(self, port):
        self.target, self.sent = port, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            upstream = socket.create_connection(("127.0.0.1", self.target))
            for source, sink, counts in ((client, upstream, True), (upstream, client, False)):
                sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self.pump, args=(source, sink, counts), daemon=True).start()

    def pump(self, source, sink, counts):
        try:
            while data := source.recv(1 << 16):
                # The only writer at a time: the load has one connection, and what it waits for comes after the count.
                self.sent += len(data) if counts else 0
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def calls(figures, binaries, _rounds):
    """Chains in which every turn brings the output of a call and gets the next call, one client."""
    # The model says which way a turn goes.
    account = lambda transport, name, port: (
        f'{{name = "{name}", models = ["{name}"], transport = "{transport}", base_url = "http://127.0.0.1:{port}/v1"}}'
    )
    header(f"a chain of {TURNS} calls, from the client", "to the upstream", "gateway", "time, ms", "CPU, ms",
           "KiB sent upstream")
    with Upstream("--calls") as upstream:
        relay = Relay(upstream.port)
        accounts = ", ".join(
            account(transport, transport + suffix, port)
            for transport in ("http", "websocket") for suffix, port in (("", upstream.port), ("-counted", relay.port))
        )
        for name, binary in binaries.items():
            with Gateway(f"[{accounts}]", binary) as gateway:
                for transport in ("http", "websocket"):
                    for mode, store in (("json", "true"), ("sse", "true"), ("ws", "true"), ("ws", "false")):
                        chain_of_calls(figures, gateway, relay, name, transport, mode, store)


def chain_of_calls(figures, gateway, relay, name, transport, mode, store):
    chain = ("--tools", "--turns", str(TURNS), "--input-chars", str(OUTPUT_CHARS))
    report, cpu = gateway.measured(mode, 1, store, *chain, *FOR_SECONDS, "--model", transport)
    chains = report["requests"] / TURNS
    before = relay.sent
    load(gateway.port, mode, 1, store, *chain, "--requests", "400", "--model", f"{transport}-counted")
    sent = (relay.sent - before) / ((WARMUP + 400) / TURNS) / 1024
    ms, cpu_ms = report["seconds"] / chains * 1e3, cpu / chains * 1e3
    figures.add("calls", f"{mode}, store {store}, {transport}, {name}", ms=ms, cpu_ms=cpu_ms, kib=sent)
    row(f"{mode}, store {store}", transport, name, number(ms, 2), number(cpu_ms, 2), number(sent, 1))


class Client:
    """The client's end of a WebSocket, as little of it as one turn takes."""

    def __init__(self, port):
        self.wire = socket.create_connection(("127.0.0.1", port))
        key = base64.b64encode(os.urandom(16)).decode()
        self.wire.sendall(
            f"GET /v1/responses HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        reply = self.wire.makefile("rb")
        assert b" 101 " in reply.readline()
        while reply.readline().strip():
            pass
        self.reply = reply

    def turn(self):
        text = b'{"type":"response.create","model":"sim","store":false,"input":"' + b"x" * 200 + b'"}'
        # Masked with zeros, which leave it as it is.
        self.wire.sendall(struct.pack("!BBHI", 0x81, 0x80 | 126, len(text), 0) + text)
        while True:
            _, length = self.reply.read(2)
            if length >= 126:
                length = int.from_bytes(self.reply.read(2 if length == 126 else 8), "big")
            event = self.reply.read(length)
            if event.startswith((b'{"type":"response.completed"', b'{"type":"error"')):
                assert b"response.completed" in event, event
                return

    def close(self):
        self.wire.close()
        self.reply.close()


class IdleHttp:
    """A connection over which one stored turn went, and that stays open."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port)
        body = '{"model":"sim","store":true,"input":"' + "x" * 200 + '"}'
        self.connection.request("POST", "/v1/responses", body, {"content-type": "application/json"})
        reply = self.connection.getresponse()
        assert reply.status == 200, reply.read()
        reply.read()

    def close(self):
        self.connection.close()


def idle(figures, binaries, _rounds):
    """What connections and sockets cost while nothing happens on them: before their first turn, and after it."""
    header(f"{IDLE_SOCKETS:,} idle", "gateway", "resident, MiB", "KiB each")
    with Upstream() as upstream:
        for name, binary in binaries.items():
            with Gateway(upstream.account(), binary) as gateway:
                idle_of(figures, gateway, name)


def idle_of(figures, gateway, name):
    def settled(what, empty=None):
        time.sleep(3)
        now = gateway.resident_kib()
        each = None if empty is None else (now - empty) / IDLE_SOCKETS
        figures.add("idle", f"{what}, {name}", resident_kib=now, kib_each=each or 0)
        row(what, name, number(now / 1024, 1), number(each, 1))
        return now

    settled("none, the process is new")
    load(gateway.port, "ws", 16, "false", "--requests", "2000")
    empty = settled("none, after 2,200 turns")
    clients = [Client(gateway.port) for _ in range(IDLE_SOCKETS)]
    settled("sockets without a turn", empty)
    for client in clients:
        client.turn()
    settled("sockets after a turn each, store false", empty)
    for client in clients:
        client.close()
    settled("none again")
    gateway.restart()
    load(gateway.port, "json", 16, "true", "--requests", "2000")
    empty = settled("none, after a restart and 2,200 turns")
    clients = [IdleHttp(gateway.port) for _ in range(IDLE_SOCKETS)]
    settled("HTTP connections after a stored turn each", empty)
    for client in clients:
        client.close()
