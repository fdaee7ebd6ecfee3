"""Stored responses and their chains over HTTP."""

import checks
from open_responses import user
from suite import case

GROUP = "chains"


def tokens(api, **body):
    counted = api.post("/responses/input_tokens", {"model": api.model, **body})
    checks.same(counted["object"], "response.input_tokens", "object")
    return counted["input_tokens"]


@case("get-equals-created", GROUP)
def get_equals_created(api):
    """A stored response reads as it was created."""
    created = api.create(metadata={"a": "b"})
    read = api.get(f"/responses/{created['id']}")
    # Who pays is only said to the one who does.
    created.pop("billing", None)
    read.pop("billing", None)
    checks.same(read, created, "the response that was read")


@case("chain-continues", GROUP)
def chain_continues(api):
    """A response continues another one by its id."""
    first = api.create("My name is Ada.")
    second = api.create("What is my name?", previous_response_id=first["id"])
    checks.is_completed(second)
    checks.same(second["previous_response_id"], first["id"], "previous_response_id")
    third = checks.is_stream(api.stream("Once more.", previous_response_id=second["id"]))
    checks.same(third["previous_response_id"], second["id"], "previous_response_id of a stream")


@case("chain-holds-its-history", GROUP)
def chain_holds_its_history(api):
    """The input of a continuation holds the items of the chain."""
    first = api.create("Remember: " + "papaya " * 200)
    alone = tokens(api, input="Which word?")
    chained = tokens(api, input="Which word?", previous_response_id=first["id"])
    assert chained > alone + 100, f"{chained} tokens with the chain, {alone} without"


@case("chain-branches", GROUP)
def chain_branches(api):
    """Two responses continue the same one, and a store: false turn continues it, too."""
    root = api.create("One.")
    branches = [api.create(text, previous_response_id=root["id"]) for text in ("Two.", "Three.")]
    assert branches[0]["id"] != branches[1]["id"]
    checks.is_completed(api.create("Four.", previous_response_id=branches[0]["id"], store=False))
    checks.is_completed(api.create("Five.", previous_response_id=branches[1]["id"]))


@case("store-false-is-gone", GROUP)
def store_false_is_gone(api):
    """A response with store: false can be neither read nor continued."""
    created = api.create(store=False)
    checks.same(created["store"], False, "store")
    checks.refuses(api.refused("GET", f"/responses/{created['id']}"), 404, None, None)
    refused = api.refused("POST", "/responses", api.request("x", previous_response_id=created["id"]))
    checks.refuses(refused, 400, "previous_response_not_found", "previous_response_id")


@case("delete-hides", GROUP)
def delete_hides(api):
    """A deleted response is gone at once, while its continuation still works."""
    first = api.create("One.")
    second = api.create("Two.", previous_response_id=first["id"])
    path = f"/responses/{first['id']}"
    deleted = api.delete(path)
    checks.same(deleted, {"id": first["id"], "object": "response", "deleted": True}, "the reply")
    for method, below in [("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")]:
        checks.refuses(api.refused(method, path + below), 404, None, None)
    refused = api.refused("POST", "/responses", api.request("x", previous_response_id=first["id"]))
    checks.refuses(refused, 400, "previous_response_not_found", "previous_response_id")
    checks.is_completed(api.create("Three.", previous_response_id=second["id"]))


@case("input-items-page", GROUP)
def input_items_page(api):
    """Input items are listed in both orders, page by page, with ids that stay."""
    texts = [f"Item {number}." for number in range(5)]
    created = api.create([user(text) for text in texts])
    path = f"/responses/{created['id']}/input_items"
    newest_first = checks.is_list(api.get(path))
    oldest_first = checks.is_list(api.get(path, order="asc"))
    checks.same(newest_first[::-1], oldest_first, "ids in the other order")
    pages, after = [], None
    while True:
        page = api.get(path, order="asc", limit=2, **({"after": after} if after else {}))
        pages += checks.is_list(page)
        after = page["last_id"]
        if not page["has_more"]:
            break
    checks.same(pages, oldest_first, "ids of all pages")
    listed = api.get(path, order="asc")["data"]
    checks.same([item["content"][0]["text"] for item in listed], texts, "texts")
    for name, value in [("limit", 0), ("limit", 101), ("order", "up")]:
        status, error = api.refused("GET", path, **{name: value})
        checks.same((status, error["param"]), (400, name), "status and param")


@case("input-items-are-own", GROUP)
def input_items_are_own(api):
    """The input items of a continuation are its own, not those of the chain."""
    first = api.create("One.")
    second = api.create("Two.", previous_response_id=first["id"])
    listed = api.get(f"/responses/{second['id']}/input_items")["data"]
    checks.same([item["content"][0]["text"] for item in listed], ["Two."], "texts")


@case("item-references", GROUP)
def item_references(api):
    """Input and output items can be named by their ids, without a previous response."""
    first = api.create("Remember: " + "papaya " * 200)
    input_id = api.get(f"/responses/{first['id']}/input_items")["first_id"]
    ids = [input_id, *(item["id"] for item in first["output"])]
    references = [{"type": "item_reference", "id": item_id} for item_id in ids]
    checks.is_completed(api.create([*references, user("Which word?")]))
    referenced = tokens(api, input=[*references, user("Which word?")])
    assert referenced > tokens(api, input="Which word?") + 100, "the references are not resolved"
    unknown = [{"type": "item_reference", "id": "msg_conformance_unknown"}]
    status, _ = api.refused("POST", "/responses", api.request(unknown))
    checks.same(status, 404, "status of an unknown reference")


@case("output-comes-back", GROUP)
def output_comes_back(api):
    """The output of a response is accepted as input, as it came."""
    first = api.create("REASON about a riddle.")
    checks.is_completed(api.create([user("REASON about a riddle."), *first["output"], user("Go on.")]))


@case("include-decides", GROUP)
def include_decides(api):
    """Encrypted reasoning and image addresses are shown only to who asks for them."""
    image = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo=", "detail": "auto"}
    content = [{"type": "input_text", "text": "REASON about this."}, image]
    created = api.create([{"type": "message", "role": "user", "content": content}])
    assert "encrypted_content" not in str(created["output"]), "encrypted reasoning was not asked for"
    path = f"/responses/{created['id']}"
    plain, full = (api.get(f"{path}/input_items", **query)["data"] for query in (
        {}, {"include[]": "message.input_image.image_url"}))
    assert not plain[0]["content"][1].get("image_url"), "the image's address was not asked for"
    checks.same(full[0]["content"][1]["image_url"], image["image_url"], "image_url")
    if any(item["type"] == "reasoning" for item in created["output"]):
        read = api.get(path, **{"include[]": "reasoning.encrypted_content"})
        assert any(item.get("encrypted_content") for item in read["output"]), "the store does not keep it"


@case("usage-adds-up", GROUP)
def usage_adds_up(api):
    """Usage is a sum, in a collected response and at the end of a stream."""
    for response in (api.create(), api.stream()[-1]["response"]):
        assert response["usage"]["input_tokens"] > 0 and response["usage"]["output_tokens"] > 0
        checks.adds_up(response["usage"])


@case("models-are-listed", GROUP)
def models_are_listed(api):
    """The model is in the list, and can be read."""
    listed = api.get("/models")
    checks.same(listed["object"], "list", "object")
    assert api.model in [model["id"] for model in listed["data"]], f"{api.model} is not listed"
    checks.same(api.get(f"/models/{api.model}")["object"], "model", "object of the model")
