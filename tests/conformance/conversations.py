"""The Conversations API."""

import checks
from open_responses import user
from suite import case

GROUP = "conversations"


def items_of(api, conversation, **query):
    return api.get(f"/conversations/{conversation['id']}/items", **query)


@case("conversation-lifecycle", GROUP)
def conversation_lifecycle(api):
    """A conversation is created, read, changed and deleted."""
    created = api.post("/conversations", {"metadata": {"a": "b"}})
    checks.same((created["object"], created["metadata"]), ("conversation", {"a": "b"}), "object and metadata")
    path = f"/conversations/{created['id']}"
    checks.same(api.get(path), created, "the conversation that was read")
    checks.same(api.post(path, {"metadata": {"c": "d"}})["metadata"], {"c": "d"}, "metadata")
    deleted = {"id": created["id"], "object": "conversation.deleted", "deleted": True}
    checks.same(api.delete(path), deleted, "the reply")
    for method in ("GET", "DELETE"):
        checks.refuses(api.refused(method, path), 404, None, None)


@case("conversation-items", GROUP)
def conversation_items(api):
    """Items are posted, listed, read and deleted."""
    conversation = api.post("/conversations", {"items": [user("One.")]})
    path = f"/conversations/{conversation['id']}/items"
    posted = checks.is_list(api.post(path, {"items": [user("Two."), user("Three.")]}))
    checks.same(len(posted), 2, "number of items")
    ids = checks.is_list(items_of(api, conversation, order="asc"))
    checks.same(ids[1:], posted, "ids in order")
    checks.same(checks.is_list(items_of(api, conversation)), ids[::-1], "ids in the other order")
    checks.same(api.get(f"{path}/{ids[0]}")["content"][0]["text"], "One.", "text of an item")
    checks.same(api.delete(f"{path}/{ids[0]}")["object"], "conversation", "object after a deletion")
    checks.same(checks.is_list(items_of(api, conversation, order="asc")), posted, "ids after a deletion")
    checks.refuses(api.refused("GET", f"{path}/{ids[0]}"), 404, None, None)


@case("conversation-grows-with-turns", GROUP)
def conversation_grows_with_turns(api):
    """A turn appends its input and its output."""
    conversation = api.post("/conversations", {})
    for turn in (1, 2):
        response = api.create("Hello.", conversation=conversation["id"])
        checks.is_completed(response)
        checks.same(response["conversation"], {"id": conversation["id"]}, "conversation")
        listed = items_of(api, conversation, order="asc")["data"]
        checks.same(len(listed), turn * (1 + len(response["output"])), "number of items")
        last = [item["id"] for item in listed[-len(response["output"]) :]]
        checks.same(last, [item["id"] for item in response["output"]], "ids of the output")


@case("conversation-unknown", GROUP)
def conversation_unknown(api):
    """An unknown conversation is 404, and never created."""
    for method, path in [("GET", ""), ("GET", "/items"), ("DELETE", "")]:
        checks.refuses(api.refused(method, f"/conversations/conv_unknown{path}"), 404, None, None)
    status, error = api.refused("POST", "/responses", api.request("x", conversation="conv_unknown"))
    checks.same((status, error["message"]), (404, "Conversation with id 'conv_unknown' not found."), "error")


@case("conversation-pages", GROUP)
def conversation_pages(api):
    """Items are listed in pages of 1 to 100."""
    conversation = api.post("/conversations", {"items": [user(f"{n}.") for n in range(5)]})
    whole = checks.is_list(items_of(api, conversation, order="asc"))
    paged, after = [], {}
    while True:
        page = items_of(api, conversation, order="asc", limit=2, **after)
        paged += checks.is_list(page)
        after = {"after": page["last_id"]}
        if not page["has_more"]:
            break
    checks.same(paged, whole, "ids of all pages")
    for limit in (0, 101):
        status, error = api.refused("GET", f"/conversations/{conversation['id']}/items", limit=limit)
        checks.same((status, error["param"]), (400, "limit"), f"status and param of the limit {limit}")


@case("conversation-metadata", GROUP)
def conversation_metadata(api):
    """Metadata follow the rules of the API, and an update needs some."""
    path = f"/conversations/{api.post('/conversations', {})['id']}"
    many = {str(n): "x" for n in range(17)}
    for metadata, code in [
        (many, "object_above_max_properties"),
        ({"a": "x" * 513}, "string_above_max_length"),
        ("text", "invalid_type"),
    ]:
        for target in ("/conversations", path):
            status, error = api.refused("POST", target, {"metadata": metadata})
            checks.same((status, error["code"]), (400, code), "status and code")
    checks.refuses(api.refused("POST", path, {}), 400, "missing_required_parameter", "metadata")


@case("conversation-is-read-without-storing", GROUP)
def conversation_is_read_without_storing(api):
    """A turn with store: false appends nothing."""
    conversation = api.post("/conversations", {"items": [user("One.")]})
    checks.is_completed(api.create("Two.", conversation=conversation["id"], store=False))
    checks.same(len(items_of(api, conversation)["data"]), 1, "number of items")


@case("conversation-is-left-by-a-chain", GROUP)
def conversation_is_left_by_a_chain(api):
    """A response of a conversation is continued by its id, and the conversation does not grow."""
    conversation = api.post("/conversations", {})
    first = api.create("One.", conversation=conversation["id"])
    before = checks.is_list(items_of(api, conversation))
    second = api.create("Two.", previous_response_id=first["id"])
    checks.is_completed(second)
    checks.same((second.get("conversation"), second["previous_response_id"]), (None, first["id"]), "what it continues")
    checks.same(checks.is_list(items_of(api, conversation)), before, "ids of the items")
    api.delete(f"/conversations/{conversation['id']}")
    checks.same(api.get(f"/responses/{first['id']}")["id"], first["id"], "id of the response")


@case("conversation-holds-its-history", GROUP)
def conversation_holds_its_history(api):
    """All items are replayed, but not those that were deleted."""
    conversation = api.post("/conversations", {"items": [user("papaya " * 200), user("mango " * 200)]})

    def counted():
        body = {"model": api.model, "input": "Which word?", "conversation": conversation["id"]}
        return api.post("/responses/input_tokens", body)["input_tokens"]

    both = counted()
    last = items_of(api, conversation)["data"][0]
    api.delete(f"/conversations/{conversation['id']}/items/{last['id']}")
    one = counted()
    assert both > one + 100 > 200, f"{both} tokens with both items, {one} with one"
