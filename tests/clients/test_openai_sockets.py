"""The OpenAI Python SDK's WebSocket mode against a running gateway ($ANTIPHON_URL) over the simulated upstream."""

import json

import openai
import pytest

from test_openai_sdk import BASE_URL, MODEL, assert_is, texts


@pytest.fixture
def client():
    return openai.OpenAI(api_key="sk-any", base_url=BASE_URL, max_retries=0, timeout=30)


@pytest.fixture
def socket(client):
    with client.responses.connect() as connection:
        yield connection


def turn(socket, **members):
    """Every event of a turn."""
    socket.response.create(model=MODEL, **members)
    return rest(socket)


def rest(socket):
    events = []
    while True:
        event = json.loads(socket.recv_bytes())
        events.append(event)
        if event["type"] in ("response.completed", "response.failed", "response.incomplete"):
            return events
        if event["type"] == "error" and "status" in event:
            return events


def response(events):
    assert events[-1]["type"] == "response.completed", events[-1]
    return events[-1]["response"]


def echoed(response):
    return json.loads(response["output"][0]["content"][0]["text"])


def test_every_event_has_the_published_shape(socket):
    events = turn(socket, input="REASON", store=False)
    assert len(events) > 10
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        assert_is("ResponsesServerEvent", event)


def test_a_chain_that_is_not_stored(socket, client):
    first = response(turn(socket, input="one", store=False))
    second = response(turn(socket, input="two", store=False, previous_response_id=first["id"]))
    third = response(turn(socket, input="ECHO three", store=False, previous_response_id=second["id"]))
    assert texts(echoed(third))[::2] == ["one", "two", "ECHO three"]
    with client.responses.connect() as other:
        refused = turn(other, input="y", previous_response_id=third["id"])[-1]
        assert (refused["status"], refused["error"]["code"]) == (400, "previous_response_not_found")


def test_a_warm_up(socket):
    shown = {"instructions": "Be brief.", "metadata": {"a": "b"}, "temperature": 0.5}
    events = turn(socket, input="context", store=False, generate=False, **shown)
    assert [event["type"] for event in events] == ["response.created", "response.completed"]
    for event in events:
        assert_is("ResponsesServerEvent", event)
    assert {name: response(events)[name] for name in shown} == shown
    next = response(turn(socket, input="ECHO x", store=False, previous_response_id=response(events)["id"]))
    assert texts(echoed(next)) == ["context", "ECHO x"]


def test_a_chain_over_both_transports(socket, client):
    first = client.responses.create(model=MODEL, input="one")
    second = response(turn(socket, input="two", previous_response_id=first.id))
    third = client.responses.create(model=MODEL, input="ECHO three", previous_response_id=second["id"])
    assert texts(json.loads(third.output_text))[::2] == ["one", "two", "ECHO three"]


def test_an_error_leaves_the_socket_open(socket):
    socket.response.create(model=MODEL, input="x", previous_response_id="resp_zz")
    error = socket.recv()
    assert (error.type, error.status, error.error.code) == ("error", 400, "previous_response_not_found")
    response(turn(socket, input="still"))


def test_two_lanes_at_once(socket):
    socket.response.create(model=MODEL, input="DELAY{200} slow", store=False, stream_id="a")
    socket.response.create(model=MODEL, input="quick", store=False, stream_id="b")
    events = rest(socket) + rest(socket)
    assert {event["stream_id"] for event in events} == {"a", "b"}
    ended = [event["stream_id"] for event in events if event["type"] == "response.completed"]
    assert ended == ["b", "a"]


def test_a_tools_answer(socket):
    tools = [{"type": "function", "name": "f", "strict": False, "parameters": {"type": "object", "properties": {}}}]
    first = response(turn(socket, input="TOOLCALL", store=False, tools=tools))
    call = next(item for item in first["output"] if item["type"] == "function_call")
    answer = {"type": "function_call_output", "call_id": call["call_id"], "output": "42"}
    second = turn(socket, input=[answer], store=False, tools=tools, previous_response_id=first["id"])
    assert response(second)["output"][0]["type"] == "message"
