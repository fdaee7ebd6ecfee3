"""Tool loops, streams and chains with the OpenAI Python SDK and the Agents SDK, over whatever upstream the gateway has."""

import agents
import openai
import pytest

from test_openai_sdk import BASE_URL, MODEL, client  # noqa: F401

CALL = 'Please REASON and TOOLCALL{"city":"Oslo"}'
ANSWER = "The tool has answered."
TOOLS = [
    {
        "type": "function",
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }
]


@pytest.fixture(autouse=True)
def agents_use_the_gateway():
    agents.set_tracing_disabled(True)
    agents.set_default_openai_client(openai.AsyncOpenAI(api_key="sk-any", base_url=BASE_URL, max_retries=0))


def output_of(response):
    (call,) = [item for item in response.output if item.type == "function_call"]
    assert (call.name, call.arguments) == ("weather", '{"city":"Oslo"}')
    return [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}]


def test_a_tool_loop_continues_a_chain(client):
    called = client.responses.create(model=MODEL, input=CALL, tools=TOOLS)
    answered = client.responses.create(
        model=MODEL, input=output_of(called), tools=TOOLS, previous_response_id=called.id
    )
    assert answered.output_text == ANSWER


def test_a_tool_loop_without_stored_responses_sends_everything(client):
    alone = {"model": MODEL, "tools": TOOLS, "store": False, "include": ["reasoning.encrypted_content"]}
    called = client.responses.create(input=CALL, **alone)
    history = [{"role": "user", "content": CALL}, *called.output, *output_of(called)]
    answered = client.responses.create(input=history, **alone)
    assert answered.output_text == ANSWER


def test_a_streamed_tool_loop_is_put_together_by_the_sdk(client):
    with client.responses.stream(model=MODEL, input=CALL, tools=TOOLS) as stream:
        called = stream.get_final_response()
    with client.responses.stream(
        model=MODEL, input=output_of(called), tools=TOOLS, previous_response_id=called.id
    ) as stream:
        pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
        assert "".join(pieces) == stream.get_final_response().output_text == ANSWER


def test_a_tool_loop_over_a_socket(client):
    def turn(socket, **members):
        socket.response.create(model=MODEL, tools=TOOLS, store=False, **members)
        for event in socket:
            if event.type in ("response.completed", "response.failed", "error"):
                assert event.type == "response.completed", event
                return event.response

    with client.responses.connect() as socket:
        called = turn(socket, input=CALL)
        answered = turn(socket, input=output_of(called), previous_response_id=called.id)
    assert answered.output[-1].content[0].text == ANSWER


def test_an_agent_runs_its_tools(client):
    cities = []

    @agents.function_tool
    def weather(city: str) -> str:
        cities.append(city)
        return f"sunny in {city}"

    agent = agents.Agent(name="tester", model=MODEL, tools=[weather])
    first = agents.Runner.run_sync(agent, CALL)
    assert first.final_output == ANSWER
    second = agents.Runner.run_sync(agent, CALL, previous_response_id=first.last_response_id)
    assert second.final_output == ANSWER
    assert cities == ["Oslo", "Oslo"]
