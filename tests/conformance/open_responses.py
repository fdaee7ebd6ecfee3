"""The 17 cases of the Open Responses acceptance suite, written anew from their description."""

import checks
from suite import case

GROUP = "open-responses"
UNKNOWN = "resp_openresponses_missing_00000000000000000000"
PIXEL = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Tells the weather of a place.",
    "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
}


def user(text):
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def not_found(frame):
    error = frame["error"] if frame["type"] == "error" else frame["response"]["error"]
    checks.same(error["code"], "previous_response_not_found", "code")


@case("basic-response", GROUP)
def basic_response(api):
    """A message gets a completed response with output."""
    checks.is_completed(api.create([user("Say hello in exactly 3 words.")]))
    checks.is_completed(api.create("Say hello in exactly 3 words."))


@case("assistant-phase", GROUP)
def assistant_phase(api):
    """Assistant messages with a phase are accepted as input."""
    history = [
        {"type": "message", "role": "assistant", "phase": phase, "content": [{"type": "output_text", "text": phase}]}
        for phase in checks.PHASES
    ]
    checks.is_completed(api.create([user("Hello"), *history, user("Go on.")]))


@case("response-output-phase-schema", GROUP)
def response_output_phase_schema(api):
    """The check of responses knows the phases of output messages; no request is sent."""
    item = {"type": "message", "id": "msg_1", "role": "assistant", "phase": "final_answer", "content": []}
    samples = {str: "x", int: 1, bool: True, list: [], dict: {}}
    response = {
        key: samples[types] if isinstance(types, type) else samples.get(types[0], 1)
        for key, types in checks.RESPONSE.items()
    }
    response |= {"object": "response", "output": [item], "usage": None}
    checks.is_response(response)
    item["phase"] = "thinking"
    try:
        checks.is_response(response)
    except AssertionError:
        return
    raise AssertionError("an unknown phase was accepted")


@case("streaming-response", GROUP)
def streaming_response(api):
    """A stream has valid events and ends with a completed response."""
    checks.is_completed(checks.is_stream(api.stream("Count from 1 to 5.")))


@case("websocket-response", GROUP)
def websocket_response(api):
    """A turn on a WebSocket has the events of a stream."""
    with api.socket() as socket:
        checks.is_completed(checks.is_stream(socket.turn(store=False)))


@case("websocket-sequential-responses", GROUP)
def websocket_sequential_responses(api):
    """One socket serves one turn after the other."""
    with api.socket() as socket:
        first, second = (checks.is_stream(socket.turn(store=False)) for _ in range(2))
    assert first["id"] != second["id"], "both turns have the same id"


@case("websocket-continuation", GROUP)
def websocket_continuation(api):
    """A turn that is not stored can be continued on its socket."""
    with api.socket() as socket:
        first = socket.completed("Remember the word papaya.", store=False)
        second = socket.completed("Which word?", store=False, previous_response_id=first["id"])
    checks.same(second["previous_response_id"], first["id"], "previous_response_id")


@case("websocket-reconnect-store-false-recovery", GROUP)
def websocket_reconnect(api):
    """A turn that is not stored is unknown to another socket, where the whole input works."""
    with api.socket() as socket:
        first = socket.completed("Remember the word papaya.", store=False)
    with api.socket() as socket:
        not_found(socket.refused("Which word?", store=False, previous_response_id=first["id"]))
        whole = [user("Remember the word papaya."), *first["output"], user("Which word?")]
        socket.completed(whole, store=False)


@case("websocket-previous-response-not-found", GROUP)
def websocket_previous_response_not_found(api):
    """An unknown previous response gets an error frame."""
    with api.socket() as socket:
        frame = socket.refused(store=False, previous_response_id=UNKNOWN)
        not_found(frame)
        checks.same(frame.get("status"), 400, "status")


@case("websocket-failed-continuation-evicts-cache", GROUP)
def websocket_failed_continuation(api):
    """A continuation that fails makes the socket forget the response that it named."""
    orphan = [{"type": "function_call_output", "call_id": "call_orphan", "output": "none"}]
    with api.socket() as socket:
        first = socket.completed(store=False)
        socket.refused(orphan, store=False, previous_response_id=first["id"])
        not_found(socket.refused(store=False, previous_response_id=first["id"]))


@case("websocket-compact-new-chain", GROUP)
def websocket_compact_new_chain(api):
    """A compacted context begins a chain on a socket."""
    compacted = api.post("/responses/compact", {"model": api.model, "input": [user("Remember papaya.")]})
    with api.socket() as socket:
        socket.completed([*compacted["output"], user("Which word?")], store=False)


@case("system-prompt", GROUP)
def system_prompt(api):
    """A system message is accepted."""
    system = {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "Talk like a pirate."}]}
    checks.is_completed(api.create([system, user("Hello")]))


@case("tool-calling", GROUP)
def tool_calling(api):
    """The model calls a function."""
    # The capital word makes the simulated upstream call the function.
    text = "What is the weather in Paris? TOOLCALL"
    response = api.create(text, tools=[WEATHER], tool_choice="required")
    checks.is_completed(response)
    calls = [item for item in response["output"] if item["type"] == "function_call"]
    assert calls and calls[0]["name"] == "get_weather" and calls[0]["call_id"], "there is no call of the function"


@case("image-input", GROUP)
def image_input(api):
    """An image as a data URL is accepted."""
    image = {"type": "input_image", "image_url": PIXEL, "detail": "auto"}
    content = [{"type": "input_text", "text": "What is this?"}, image]
    checks.is_completed(api.create([{"type": "message", "role": "user", "content": content}]))


@case("multi-turn", GROUP)
def multi_turn(api):
    """A conversation is accepted as input."""
    answer = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello, Ada."}]}
    checks.is_completed(api.create([user("My name is Ada."), answer, user("What is my name?")]))


@case("compact-response", GROUP)
def compact_response(api):
    """A context is compacted into a compaction item."""
    body = {"model": api.model, "input": [user("Remember papaya.")], "prompt_cache_key": "conformance"}
    compacted = api.post("/responses/compact", body)
    checks.same(compacted["object"], "response.compaction", "object")
    assert any(item["type"] == "compaction" for item in compacted["output"]), "there is no compaction item"
    checks.adds_up(compacted["usage"])


@case("compact-missing-model", GROUP)
def compact_missing_model(api):
    """Compacting without a model is refused."""
    status, _ = api.refused("POST", "/responses/compact", {"input": [user("x")]})
    assert status in (400, 422), f"the status is {status}"
