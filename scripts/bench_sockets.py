"""Chains of calls over every transport, and what idle sockets hold."""

import base64
import os
import pathlib
import re
import socket
import struct
import threading
import time

from bench_tools import FOR_SECONDS, WARMUP, load, measured, start_gateway, start_upstream, stop

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


def calls(folder):
    """Chains in which every turn brings the output of a call and gets the next call, one client."""
    upstream_port, upstream = start_upstream("--calls")
    relay = Relay(upstream_port)
    # The model says which way a turn goes.
    account = lambda transport, name, port: (
        f'{{name = "{name}", models = ["{name}"], transport = "{transport}", base_url = "http://127.0.0.1:{port}/v1"}}'
    )
    accounts = ", ".join(
        account(transport, transport + suffix, port)
        for transport in ("http", "websocket") for suffix, port in (("", upstream_port), ("-counted", relay.port))
    )
    database = pathlib.Path(folder) / "calls.db"
    port, gateway = start_gateway(folder, f"sqlite://{database}", f"[{accounts}]")
    print(f"\n| a chain of {TURNS} calls, from the client | to the upstream | time, ms | CPU, ms | KiB sent upstream |")
    print("| --- | --- | --- | --- | --- |")
    chain = ("--tools", "--turns", str(TURNS), "--input-chars", str(OUTPUT_CHARS))
    try:
        for transport in ("http", "websocket"):
            for mode, store in (("json", "true"), ("sse", "true"), ("ws", "true"), ("ws", "false")):
                report, cpu = measured(gateway, port, mode, 1, store, *chain, *FOR_SECONDS, "--model", transport)
                chains = report["requests"] / TURNS
                before = relay.sent
                load(port, mode, 1, store, *chain, "--requests", "400", "--model", f"{transport}-counted")
                sent = (relay.sent - before) / ((WARMUP + 400) / TURNS)
                print(
                    f"| {mode}, store {store} | {transport} | {report['seconds'] / chains * 1e3:.2f} | "
                    f"{cpu / chains * 1e3:.2f} | {sent / 1024:.1f} |", flush=True,
                )
    finally:
        stop(gateway)
        stop(upstream)


def resident(pid):
    """KiB."""
    return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1])


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


def idle(folder, accounts):
    """What sockets cost while nothing happens on them: before their first turn, and after it."""
    port, gateway = start_gateway(folder, f"sqlite://{pathlib.Path(folder) / 'idle.db'}", accounts)
    print("\n| idle sockets | resident, MiB | KiB a socket |\n| --- | --- | --- |")

    def settled(what, empty=None):
        time.sleep(3)
        now = resident(gateway.pid)
        share = "" if empty is None else f"{(now - empty) / IDLE_SOCKETS:.1f}"
        print(f"| {what} | {now / 1024:.1f} | {share} |", flush=True)
        return now

    try:
        settled("none, the process is new")
        load(port, "ws", 16, "false", "--requests", "2000")
        empty = settled("none, after 2,200 turns")
        clients = [Client(port) for _ in range(IDLE_SOCKETS)]
        settled(f"{IDLE_SOCKETS:,} without a turn", empty)
        for client in clients:
            client.turn()
        settled(f"{IDLE_SOCKETS:,} after a turn each, store false", empty)
        for client in clients:
            client.wire.close()
            client.reply.close()
        settled("none again", empty)
    finally:
        stop(gateway)
