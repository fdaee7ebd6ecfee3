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
