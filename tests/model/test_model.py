"""The OpenAI Python SDK against a gateway ($ANTIPHON_URL) whose upstream is a real model server without the Responses API."""

import json
import os

import openai
import pytest

MODEL = "tiny"
# The model is random: left free, it may call until its context is full.
ONE_CALL = {"tool_choice": "required", "parallel_tool_calls": False}
SWITCH = {
    "type": "function",
    "name": "switch",
    "parameters": {
        "type": "object",
        "properties": {"on": {"type": "boolean"}, "lamp": {"enum": ["red", "blue"]}},
        "required": ["on", "lamp"],
        "additionalProperties": False,
    },
}
LONG = {
    "type": "object",
    "properties": {"numbers": {"type": "array", "items": {"type": "integer"}, "minItems": 1000}},
    "required": ["numbers"],
    "additionalProperties": False,
}


def schema(value):
    return {"format": {"type": "json_schema", "name": "answer", "schema": value}}


@pytest.fixture
def client():
    url = os.environ["ANTIPHON_URL"] + "/v1"
    return openai.OpenAI(api_key="any", base_url=url, max_retries=0, timeout=120)


def calls(response):
    return [item for item in response.output if item.type == "function_call"]


def outputs(response):
    return [{"type": "function_call_output", "call_id": call.call_id, "output": "done"} for call in calls(response)]


def assert_switches(found):
    assert found
    for call in found:
        arguments = json.loads(call.arguments)
        assert call.name == "switch" and isinstance(arguments["on"], bool) and arguments["lamp"] in ("red", "blue")


def test_a_text_and_its_usage(client):
    response = client.responses.create(model=MODEL, input="Hello", instructions="Be brief.")
    assert response.status in ("completed", "incomplete")
    assert response.usage.input_tokens > 5 and response.usage.output_tokens > 0
    assert client.responses.retrieve(response.id).output == response.output


def test_tools_are_called_and_their_outputs_continue_the_chain(client):
    first = client.responses.create(model=MODEL, input="Light!", tools=[SWITCH], **ONE_CALL)
    assert first.status == "completed"
    assert_switches(calls(first))
    second = client.responses.create(
        model=MODEL, input=outputs(first), previous_response_id=first.id, text=schema(SWITCH["parameters"])
    )
    assert json.loads(second.output_text)["lamp"] in ("red", "blue")
    assert second.usage.input_tokens > first.usage.output_tokens


def test_a_streamed_call_is_put_together_by_the_sdk(client):
    with client.responses.stream(model=MODEL, input="Light!", tools=[SWITCH], **ONE_CALL) as stream:
        events = list(stream)
    final = events[-1].response
    assert final.status == "completed"
    assert_switches(calls(final))
    deltas = {}
    for event in events:
        if event.type == "response.function_call_arguments.delta":
            deltas[event.item_id] = deltas.get(event.item_id, "") + event.delta
    assert deltas == {call.id: call.arguments for call in calls(final)}


def test_one_function_is_forced_and_none_is_kept(client):
    other = SWITCH | {"name": "other"}
    forced = client.responses.create(
        model=MODEL, input="Light!", tools=[other, SWITCH],
        tool_choice={"type": "function", "name": "switch"}, parallel_tool_calls=False,
    )
    assert_switches(calls(forced))
    none = client.responses.create(model=MODEL, input="Light!", tools=[SWITCH], tool_choice="none")
    assert not calls(none)


def test_structured_output_has_the_shape_that_was_asked_for(client):
    response = client.responses.create(model=MODEL, input="Which?", text=schema(SWITCH["parameters"]))
    assert response.status == "completed"
    assert set(json.loads(response.output_text)) == {"on", "lamp"}


@pytest.mark.parametrize("limit", [16, None], ids=["by its limit", "by the context"])
def test_a_cut_text_is_incomplete(client, limit):
    response = client.responses.create(model=MODEL, input="Count.", text=schema(LONG), max_output_tokens=limit)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert response.output[-1].status == "incomplete"


def test_a_chain_goes_on_after_a_cut_call(client):
    count = {"type": "function", "name": "count", "parameters": LONG}
    cut = client.responses.create(
        model=MODEL, input="Count.", tools=[count], tool_choice="required", max_output_tokens=200
    )
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    following = client.responses.create(
        model=MODEL, previous_response_id=cut.id, input=outputs(cut) + [{"role": "user", "content": "Stop."}]
    )
    assert following.status in ("completed", "incomplete")


def test_a_context_that_is_too_long_is_refused_as_by_the_api(client):
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=MODEL, input="hello " * 5000)
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "input")


def test_a_chain_runs_over_a_socket(client):
    first = client.responses.create(model=MODEL, input="Which?", text=schema(SWITCH["parameters"]))
    with client.responses.connect() as socket:
        socket.response.create(
            model=MODEL, input="And now?", previous_response_id=first.id, text=schema(SWITCH["parameters"])
        )
        events = []
        for event in socket:
            events.append(event)
            if event.type in ("response.completed", "response.incomplete", "response.failed", "error"):
                break
    assert events[-1].type == "response.completed"
    assert json.loads(events[-1].response.output_text)["lamp"] in ("red", "blue")
