"""WebSocket mode."""

import checks
from open_responses import not_found
from suite import case

GROUP = "sockets"


@case("socket-continues-http", GROUP)
def socket_continues_http(api):
    """A stored response is continued on a socket, and the other way round."""
    first = api.create("One.")
    with api.socket() as socket:
        second = socket.completed("Two.", previous_response_id=first["id"])
    third = api.create("Three.", previous_response_id=second["id"])
    checks.same(third["previous_response_id"], second["id"], "previous_response_id")
    checks.same(api.get(f"/responses/{second['id']}")["id"], second["id"], "id of the stored response")


@case("socket-warm-up", GROUP)
def socket_warm_up(api):
    """generate: false answers without output, and can be continued."""
    with api.socket() as socket:
        warm = socket.completed("You are brief.", generate=False, store=False)
        checks.same(warm["output"], [], "output")
        socket.completed("Hello.", previous_response_id=warm["id"], store=False)


@case("socket-lanes", GROUP)
def socket_lanes(api):
    """Turns of different lanes run at once, and their events carry the lane's name."""
    lanes = ["a", "b", "c-1.x"]
    with api.socket() as socket:
        for lane in lanes:
            socket.ask(store=False, stream_id=lane)
        events = {lane: [] for lane in lanes}
        while not all(frames and frames[-1]["type"].endswith("completed") for frames in events.values()):
            frame = socket.receive()
            events[frame["stream_id"]].append(frame)
        for frames in events.values():
            checks.is_stream(frames)
        unnamed = socket.turn(store=False)
        assert not any("stream_id" in frame for frame in unnamed), "an unnamed lane has a name"


@case("socket-survives-errors", GROUP)
def socket_survives_errors(api):
    """Invalid frames get an error frame, unknown ones nothing; the socket stays open."""
    with api.socket() as socket:
        for frame in ({"type": "response.create", "model": api.model}, {"type": "response.create", "input": "x"}):
            socket.send(frame)
            error = socket.receive()
            checks.same((error["type"], error["status"]), ("error", 400), "type and status")
        socket.socket.send("{")
        checks.same(socket.receive()["type"], "error", "type")
        socket.send({"type": "response.processed", "response_id": "resp_1"})
        socket.completed(store=False)


@case("socket-store-true-does-not-continue-store-false", GROUP)
def socket_store(api):
    """A stored turn can't continue one that is not stored."""
    with api.socket() as socket:
        first = socket.completed(store=False)
        not_found(socket.refused(previous_response_id=first["id"], store=True))


@case("socket-has-no-codex-events", GROUP)
def socket_has_no_codex_events(api):
    """A client that is not Codex gets no events without a number."""
    with api.socket() as socket:
        assert all("sequence_number" in frame for frame in socket.turn(store=False)), "an event has no number"
