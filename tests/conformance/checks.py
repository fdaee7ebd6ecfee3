"""What holds for every response, stream and list."""

from api import TERMINAL

NUMBER, TEXT, NULL = (int, float), str, type(None)
# Of Open Responses, which is stricter than the published document of OpenAI: every key is there.
RESPONSE = {
    "id": TEXT,
    "object": TEXT,
    "created_at": NUMBER,
    "completed_at": (*NUMBER, NULL),
    "status": TEXT,
    "incomplete_details": (dict, NULL),
    "model": TEXT,
    "previous_response_id": (TEXT, NULL),
    "instructions": (TEXT, list, NULL),
    "output": list,
    "error": (dict, NULL),
    "tools": list,
    "tool_choice": (TEXT, dict),
    "truncation": TEXT,
    "parallel_tool_calls": bool,
    "text": dict,
    "top_p": NUMBER,
    "presence_penalty": NUMBER,
    "frequency_penalty": NUMBER,
    "top_logprobs": int,
    "temperature": NUMBER,
    "reasoning": (dict, NULL),
    "usage": (dict, NULL),
    "max_output_tokens": (int, NULL),
    "max_tool_calls": (int, NULL),
    "store": bool,
    "background": bool,
    "service_tier": TEXT,
    "metadata": (dict, NULL),
    "safety_identifier": (TEXT, NULL),
    "prompt_cache_key": (TEXT, NULL),
}
PHASES = ("commentary", "final_answer")


def same(got, expected, what):
    assert got == expected, f"{what}: {got!r}, expected {expected!r}"


def is_response(value):
    for key, types in RESPONSE.items():
        assert key in value, f"the response lacks {key}"
        assert isinstance(value[key], types), f"{key} of the response is {value[key]!r}"
    same(value["object"], "response", "object")
    for item in value["output"]:
        assert isinstance(item.get("type"), str), f"an item has no type: {item}"
        assert item.get("phase") in (None, *PHASES), f"an item has the phase {item['phase']}"
    if value["usage"]:
        adds_up(value["usage"])


def is_completed(value):
    is_response(value)
    same(value["status"], "completed", "status")
    same(value["error"], None, "error")
    assert value["output"], "the output is empty"
    assert value["completed_at"] >= value["created_at"], "it was completed before it was created"


def adds_up(usage):
    total = usage["input_tokens"] + usage["output_tokens"]
    same(usage["total_tokens"], total, "total_tokens")
    assert usage["input_tokens_details"]["cached_tokens"] <= usage["input_tokens"], "more cached than input tokens"
    reasoning = usage["output_tokens_details"]["reasoning_tokens"]
    assert reasoning <= usage["output_tokens"], "more reasoning than output tokens"


def is_stream(events):
    """The order of events, their numbers, and their ids. Returns the final response."""
    assert events, "there are no events"
    numbers = [event["sequence_number"] for event in events]
    same(numbers, list(range(len(events))), "sequence numbers")
    kinds = [event["type"] for event in events]
    assert kinds[0] in ("response.created", "response.queued"), f"the first event is {kinds[0]}"
    same([kind for kind in kinds if kind in TERMINAL], kinds[-1:], "terminal events")
    responses = [event["response"] for event in events if "response" in event]
    same({response["id"] for response in responses}, {responses[0]["id"]}, "ids of the response")
    final = events[-1]["response"]
    is_response(final)
    has_whole_items(events, final)
    return final


def has_whole_items(events, final):
    added, done = {}, {}
    for event in events:
        index = event.get("output_index")
        if event["type"] == "response.output_item.added":
            same(index, len(added), "output_index of an item that is added")
            added[index] = event["item"]
        elif event["type"] == "response.output_item.done":
            same(event["item"].get("id"), added[index].get("id"), "id of an item that is done")
            done[index] = event["item"]
        elif index is not None:
            assert index in added and index not in done, f"{event['type']} is outside its item"
            same(event.get("item_id"), added[index].get("id"), f"item_id of {event['type']}")
    same([done[index] for index in sorted(done)], final["output"], "items that are done")
    for index, item in done.items():
        has_whole_text(events, index, item)


def has_whole_text(events, index, item):
    own = [event for event in events if event.get("output_index") == index]
    for position, part in enumerate(item.get("content") or []):
        if part.get("type") != "output_text":
            continue
        deltas = [
            event["delta"]
            for event in own
            if event["type"] == "response.output_text.delta" and event["content_index"] == position
        ]
        same("".join(deltas), part["text"], "text of the deltas")


def is_list(value):
    same(value["object"], "list", "object")
    lacking = {"data", "first_id", "last_id", "has_more"} - value.keys()
    assert not lacking, f"the list lacks {', '.join(sorted(lacking))}"
    ids = [item["id"] for item in value["data"]]
    if ids:
        same((value["first_id"], value["last_id"]), (ids[0], ids[-1]), "first_id and last_id")
    same(len(set(ids)), len(ids), "different ids")
    return ids


def refuses(got, status, code, param):
    got_status, error = got
    same((got_status, error["code"], error["param"]), (status, code, param), f"the error '{error['message']}'")
