"""The OpenAI Python SDK against a running gateway ($ANTIPHON_URL) over the simulated upstream."""

import json
import os
import pathlib

import httpx2
import jsonschema
import openai
import pytest

MODEL = "sim"
BASE_URL = os.environ["ANTIPHON_URL"] + "/v1"
SCHEMA = json.loads((pathlib.Path(__file__).parents[1] / "schema/openai-responses.json").read_text())


@pytest.fixture
def client():
    return openai.OpenAI(api_key="sk-any", base_url=BASE_URL, max_retries=0, timeout=30)


def without_unpublished_nulls(value):
    """Without the nulls that the real API sends where its own published document knows none."""
    if "response" in value:
        return value | {"response": without_unpublished_nulls(value["response"])}
    never_null = ("user", "safety_identifier", "prompt_cache_key", "usage")
    return {key: member for key, member in value.items() if key not in never_null or member is not None}


def assert_is(schema, value):
    """The value has the shape of OpenAI's published document."""
    value = without_unpublished_nulls(value)
    jsonschema.Draft202012Validator(
        {"$ref": f"#/components/schemas/{schema}", "components": SCHEMA["components"]}
    ).validate(value)


def echoed(response):
    """The input that the upstream got, as the ECHO directive repeats it."""
    return json.loads(response.output_text)


def texts(items):
    """The texts of messages, short-hand or written out."""
    return [
        item["content"] if isinstance(item["content"], str) else item["content"][0]["text"]
        for item in items
        if item.get("type", "message") == "message"
    ]


def test_a_plain_response(client):
    raw = client.responses.with_raw_response.create(model=MODEL, input="Hello")
    response = raw.parse()
    assert response.status == "completed"
    assert response.output_text
    assert response.id.startswith("resp_")
    assert response.store is True
    assert raw.headers["x-request-id"]
    assert_is("Response", json.loads(raw.text))


def test_a_stream_has_one_id_and_ends_with_the_response(client):
    events = list(client.responses.create(model=MODEL, input="Hello", stream=True))
    assert [events[0].type, events[-1].type] == ["response.created", "response.completed"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    ids = {event.response.id for event in events if hasattr(event, "response")}
    assert len(ids) == 1
    stored = client.responses.retrieve(ids.pop())
    assert stored.output_text == events[-1].response.output_text


def test_every_event_has_the_published_shape():
    text = httpx2.post(BASE_URL + "/responses", json={"model": MODEL, "input": "REASON", "stream": True}).text
    events = [json.loads(line[len("data: "):]) for line in text.splitlines() if line.startswith("data: ")]
    assert len(events) > 10
    for event in events:
        assert_is("ResponseStreamEvent", event)


def test_a_second_turn_sees_the_first(client):
    first = client.responses.create(model=MODEL, input="one")
    second = client.responses.create(model=MODEL, input="ECHO two", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    assert texts(echoed(second)) == ["one", first.output_text, "ECHO two"]


def test_ten_turns_are_replayed_in_order(client):
    previous, said = None, []
    for turn in range(10):
        text = f"ECHO turn {turn}" if turn == 9 else f"turn {turn}"
        extra = {"previous_response_id": previous.id} if previous else {}
        previous = client.responses.create(model=MODEL, input=text, stream=False, **extra)
        said += [text, previous.output_text]
    assert texts(echoed(previous)) == said[:-1]


def test_forks_share_only_their_trunk(client):
    trunk = client.responses.create(model=MODEL, input="trunk")
    client.responses.create(model=MODEL, input="left", previous_response_id=trunk.id)
    right = client.responses.create(model=MODEL, input="ECHO right", previous_response_id=trunk.id)
    assert texts(echoed(right)) == ["trunk", trunk.output_text, "ECHO right"]


def test_instructions_are_not_inherited(client):
    first = client.responses.create(model=MODEL, input="one", instructions="Be brief.")
    second = client.responses.create(model=MODEL, input="two", previous_response_id=first.id)
    assert (first.instructions, second.instructions) == ("Be brief.", None)


def test_a_deleted_response_is_gone(client):
    response = client.responses.create(model=MODEL, input="one")
    client.responses.delete(response.id)
    for gone in (
        lambda: client.responses.retrieve(response.id),
        lambda: client.responses.delete(response.id),
        lambda: client.responses.input_items.list(response.id),
    ):
        with pytest.raises(openai.NotFoundError) as refused:
            gone()
        assert refused.value.body["message"] == f"Response with id '{response.id}' not found."
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=MODEL, input="two", previous_response_id=response.id)
    assert refused.value.code == "previous_response_not_found"


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_previous_response_is_a_bad_request(client, stream):
    unknown = "resp_" + "0" * 32
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=MODEL, input="x", previous_response_id=unknown, stream=stream)
    assert refused.value.code == "previous_response_not_found"
    assert refused.value.param == "previous_response_id"
    assert refused.value.body["message"] == f"Previous response with id '{unknown}' not found."


def test_a_response_that_is_not_stored_can_not_be_read_or_continued(client):
    response = client.responses.create(model=MODEL, input="x", store=False)
    assert response.store is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)
    with pytest.raises(openai.BadRequestError):
        client.responses.create(model=MODEL, input="y", previous_response_id=response.id)


def test_input_items_are_paged_both_ways(client):
    sent = [{"role": "user", "content": f"p{n}"} for n in range(5)]
    response = client.responses.create(model=MODEL, input=sent)
    for order, expected in (("asc", ["p0", "p1", "p2", "p3", "p4"]), ("desc", ["p4", "p3", "p2", "p1", "p0"])):
        listed = list(client.responses.input_items.list(response.id, limit=2, order=order))
        assert [item.content[0].text for item in listed] == expected
        assert len({item.id for item in listed}) == 5
    page = client.responses.input_items.with_raw_response.list(response.id, limit=2)
    assert_is("ResponseItemList", json.loads(page.text))
    assert page.parse().has_more is True


def test_a_chain_is_compacted_and_goes_on_from_there(client):
    first = client.responses.create(model=MODEL, input="one")
    raw = client.responses.with_raw_response.compact(model=MODEL, previous_response_id=first.id, input="two")
    assert_is("CompactResource", json.loads(raw.text))
    compacted = raw.parse()
    assert compacted.output[-1].type == "compaction"
    context = [item.model_dump(exclude_none=True) for item in compacted.output]
    second = client.responses.create(model=MODEL, input=[*context, {"role": "user", "content": "ECHO three"}])
    assert texts(echoed(second)) == ["one", "two", "ECHO three"]
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.compact(model=MODEL, previous_response_id=compacted.id)
    assert refused.value.code == "previous_response_not_found"


def test_input_tokens_are_counted_with_the_chain(client):
    first = client.responses.create(model=MODEL, input="one")
    raw = client.responses.input_tokens.with_raw_response.count(model=MODEL, input="two")
    assert_is("TokenCountsResource", json.loads(raw.text))
    longer = client.responses.input_tokens.count(model=MODEL, input="two", previous_response_id=first.id)
    assert longer.input_tokens > raw.parse().input_tokens
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.input_tokens.count(model=MODEL, input="x", previous_response_id="resp_" + "0" * 32)
    assert refused.value.code == "previous_response_not_found"


def test_a_tool_call_and_its_output(client):
    tool = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}
    first = client.responses.create(model=MODEL, input="TOOLCALL please", tools=[tool])
    call = next(item for item in first.output if item.type == "function_call")
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    second = client.responses.create(model=MODEL, input=[output], tools=[tool], previous_response_id=first.id)
    assert second.status == "completed" and second.output_text


def test_models_are_listed(client):
    raw = httpx2.get(BASE_URL + "/models").json()
    assert_is("ListModelsResponse", raw)
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("no-such-model")
    assert refused.value.code == "model_not_found"


def test_errors_have_the_published_shape(client):
    for path, body in (
        ("/responses", {"input": "x"}),
        ("/responses", {"model": MODEL}),
        ("/responses", {"model": "no-such-model", "input": "x"}),
        ("/nothing", {}),
    ):
        reply = httpx2.post(BASE_URL + path, json=body)
        assert 400 <= reply.status_code < 500
        assert_is("ErrorResponse", reply.json())


def test_a_chat_completion_passes_through(client):
    messages = [{"role": "user", "content": "SAY{hello}"}]
    completion = client.chat.completions.create(model=MODEL, messages=messages)
    assert completion.choices[0].message.content == "hello"
    assert completion.usage.total_tokens > 0
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    call = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "TOOLCALL"}], tools=tools
    ).choices[0]
    assert (call.finish_reason, call.message.tool_calls[0].function.name) == ("tool_calls", "f")


def test_a_chat_completion_streams(client):
    messages = [{"role": "user", "content": "SAY{hello there}"}]
    options = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(model=MODEL, messages=messages, stream=True, stream_options=options)
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "hello there"
    assert chunks[-1].usage.prompt_tokens > 0


def test_a_chat_completion_that_breaks_off_raises(client):
    messages = [{"role": "user", "content": "CUT{2}"}]
    with pytest.raises(openai.APIError, match="interrupted"):
        list(client.chat.completions.create(model=MODEL, messages=messages, stream=True))


def test_embeddings_pass_through(client):
    embeddings = client.embeddings.create(model=MODEL, input=["one", "two"])
    assert [len(entry.embedding) for entry in embeddings.data] == [8, 8]
    assert embeddings.data[0].embedding != embeddings.data[1].embedding
    floats = client.embeddings.create(model=MODEL, input="one", encoding_format="float")
    assert floats.data[0].embedding == pytest.approx(embeddings.data[0].embedding)


def test_encrypted_reasoning_comes_only_if_it_is_included(client):
    plain = client.responses.create(model=MODEL, input="Please REASON")
    assert plain.output[0].encrypted_content is None
    included = ["reasoning.encrypted_content"]
    assert client.responses.retrieve(plain.id, include=included).output[0].encrypted_content
    assert client.responses.retrieve(plain.id).output[0].encrypted_content is None
    # What came without it can be sent back with the rest of the output.
    context = [{"role": "user", "content": "Please REASON"}, *plain.output, {"role": "user", "content": "Go on"}]
    assert client.responses.create(model=MODEL, input=context).status == "completed"
    asked = client.responses.create(model=MODEL, input="Please REASON", include=included)
    assert asked.output[0].encrypted_content
