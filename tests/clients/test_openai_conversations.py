"""Conversations with the OpenAI Python SDK and the Agents SDK against a running gateway ($ANTIPHON_URL)."""

import asyncio
import json
import os
import threading

import agents
import httpx2
import openai
import pytest
from agents.memory import OpenAIResponsesCompactionSession

from test_openai_sdk import BASE_URL, MODEL, assert_is, client, echoed, texts  # noqa: F401

USER = {"role": "user", "content": "zero"}


@pytest.fixture(autouse=True)
def agents_use_the_gateway():
    agents.set_tracing_disabled(True)
    agents.set_default_openai_client(openai.AsyncOpenAI(api_key="sk-any", base_url=BASE_URL, max_retries=0))


def agent(**options):
    return agents.Agent(name="tester", model=MODEL, **options)


def test_a_conversation_is_created_changed_and_deleted(client):
    made = client.conversations.create(metadata={"a": "b"}, items=[USER])
    assert_is("ConversationResource", json.loads(client.conversations.with_raw_response.retrieve(made.id).text))
    assert client.conversations.update(made.id, metadata={"c": "d"}).metadata == {"c": "d"}
    assert client.conversations.retrieve(made.id).metadata == {"c": "d"}
    deleted = client.conversations.delete(made.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (made.id, True, "conversation.deleted")
    for gone in (client.conversations.retrieve, client.conversations.delete, client.conversations.items.list):
        with pytest.raises(openai.NotFoundError) as refused:
            gone(made.id)
        assert refused.value.body["message"] == f"Conversation with id '{made.id}' not found."


def test_items_are_created_listed_and_deleted(client):
    made = client.conversations.create()
    sent = [{"role": "user", "content": f"p{n}"} for n in range(5)]
    raw = client.conversations.items.with_raw_response.create(made.id, items=sent)
    assert_is("ConversationItemList", json.loads(raw.text))
    for order, expected in (("asc", ["p0", "p1", "p2", "p3", "p4"]), ("desc", ["p4", "p3", "p2", "p1", "p0"])):
        listed = list(client.conversations.items.list(made.id, limit=2, order=order))
        assert [item.content[0].text for item in listed] == expected
    item = client.conversations.items.retrieve(listed[0].id, conversation_id=made.id)
    assert item == listed[0]
    assert client.conversations.items.delete(item.id, conversation_id=made.id).id == made.id
    assert len(list(client.conversations.items.list(made.id))) == 4


def test_responses_are_created_in_a_conversation(client):
    made = client.conversations.create(items=[USER])
    first = client.responses.create(model=MODEL, input="one", conversation=made.id)
    assert first.conversation.id == made.id and first.previous_response_id is None
    second = client.responses.create(model=MODEL, input="ECHO two", conversation={"id": made.id}, stream=True)
    done = [event for event in second if event.type == "response.completed"][0].response
    assert texts(echoed(done)) == ["zero", "one", first.output_text, "ECHO two"]
    page = client.conversations.items.with_raw_response.list(made.id, order="asc")
    assert_is("ConversationItemList", json.loads(page.text))
    assert len(page.parse().data) == 5


def test_an_agent_runs_in_a_conversation(client):
    made = client.conversations.create()

    @agents.function_tool
    def get_weather() -> str:
        return "sunny"

    async def run():
        first = await agents.Runner.run(
            agent(tools=[get_weather]), "TOOLCALL please", conversation_id=made.id
        )
        return first, await agents.Runner.run(agent(), "ECHO two", conversation_id=made.id)

    _, second = asyncio.run(run())
    said = json.loads(second.final_output)
    assert [item.get("type", "message") for item in said] == [
        "message", "function_call", "function_call_output", "message", "message",
    ]
    assert said[2]["output"] == "sunny"


def test_a_session_of_an_agent_takes_thirty_items_at_once(client):
    session = agents.OpenAIConversationsSession()

    async def run():
        await session.add_items([{"role": "user", "content": f"p{n}"} for n in range(30)])
        await agents.Runner.run(agent(), "one", session=session)
        popped = await session.pop_item()
        items = await session.get_items()
        latest = await session.get_items(limit=2)
        echo = await agents.Runner.run(agent(), "ECHO two", session=session)
        await session.clear_session()
        return popped, items, latest, echo.final_output

    popped, items, latest, echo = asyncio.run(run())
    assert popped["role"] == "assistant"
    assert texts(items) == [f"p{n}" for n in range(30)] + ["one"]
    assert texts(latest) == ["p29", "one"]
    assert texts(json.loads(echo)) == [f"p{n}" for n in range(30)] + ["one", "ECHO two"]


def test_an_agent_tries_again_when_its_conversation_is_locked(client):
    made = client.conversations.create()
    slow = threading.Thread(
        target=client.responses.create,
        kwargs={"model": MODEL, "input": "DELAY{3500} SAY{slow}", "conversation": made.id},
    )
    slow.start()
    while httpx2.get(f"{BASE_URL}/conversations/{made.id}").status_code == 200:
        posted = httpx2.post(f"{BASE_URL}/conversations/{made.id}/items", json={"items": [USER]}, timeout=10)
        if posted.status_code == 400:
            assert posted.json()["error"]["code"] == "conversation_locked"
            break
    result = asyncio.run(agents.Runner.run(agent(), "ECHO two", conversation_id=made.id))
    slow.join()
    assert texts(json.loads(result.final_output))[-2:] == ["slow", "ECHO two"]


def test_a_run_with_thirty_items_fills_a_session(client):
    session = agents.OpenAIConversationsSession()
    many = [{"role": "user", "content": f"p{n}"} for n in range(30)]
    together = agents.RunConfig(session_input_callback=lambda history, new: history + new)

    async def run():
        for _ in range(2):
            await agents.Runner.run(agent(), many, session=session, run_config=together)
        return await session.get_items()

    items = asyncio.run(run())
    users = [item for item in items if item["role"] == "user"]
    assert texts(users) == [item["content"] for item in many] * 2
    assert len(items) == 62


@pytest.mark.parametrize("mode", ["previous_response_id", "input"])
def test_a_session_of_an_agent_is_compacted(client, mode):
    session = OpenAIResponsesCompactionSession(
        "compacted", agents.SQLiteSession("compacted"), model="gpt-5.4", should_trigger_compaction=lambda _: False
    )

    async def run():
        first = await agents.Runner.run(agent(), "one", session=session)
        second = await agents.Runner.run(agent(), "two", session=session)
        assert len(await session.get_items()) == 4
        await session.run_compaction(
            {"force": True, "compaction_mode": mode, "response_id": second.last_response_id}
        )
        items = await session.get_items()
        echo = await agents.Runner.run(agent(), "ECHO three", session=session)
        return first, items, json.loads(echo.final_output)

    _, items, said = asyncio.run(run())
    assert items[-1]["type"] == "compaction" and items[-1]["encrypted_content"]
    assert [item["type"] for item in said if item.get("type") == "compaction"] == ["compaction"]
    assert texts(said)[-1] == "ECHO three"


def test_a_conversation_is_compacted(client):
    made = client.conversations.create(items=[USER])
    client.responses.create(model=MODEL, input="one", conversation=made.id)
    items = [item.to_dict() for item in client.conversations.items.list(made.id, order="asc")]
    compacted = client.responses.compact(model=MODEL, input=items)
    last = compacted.output[-1]
    assert last.type == "compaction"
    client.conversations.items.create(made.id, items=[last.to_dict()])
    echo = client.responses.create(model=MODEL, input="ECHO two", conversation=made.id)
    assert [item.get("type", "message") for item in echoed(echo)] == ["compaction", "message"]
