"""Background responses."""

import time

import checks
from suite import case

GROUP = "background"
RUNNING = ("queued", "in_progress")


def finished(api, response):
    deadline = time.monotonic() + api.timeout
    while response["status"] in RUNNING:
        checks.same(response["output"], [], "output while it runs")
        assert time.monotonic() < deadline, f"it is still {response['status']}"
        time.sleep(0.05)
        response = api.get(f"/responses/{response['id']}")
    return response


@case("background-polls", GROUP)
def background_polls(api):
    """A background response is answered at once, and completed by polling."""
    created = api.create(background=True)
    checks.same((created["object"], created["output"]), ("response", []), "object and output")
    for name in ("error", "incomplete_details", "usage", "completed_at"):
        checks.same(created.get(name), None, name)
    assert created["status"] in RUNNING and created["background"] is True, created["status"]
    done = finished(api, created)
    checks.is_completed(done)
    checks.same((done["id"], done["background"]), (created["id"], True), "id and background")


@case("background-refuses-at-once", GROUP)
def background_refuses_at_once(api):
    """What can be refused is refused before anything is queued."""
    got = api.refused("POST", "/responses", {"model": api.model, "background": True})
    checks.refuses(got, 400, "missing_required_parameter", "input")


@case("background-stream-resumes", GROUP)
def background_stream_resumes(api):
    """The events of a streamed one can be read again, from any number on."""
    events = api.stream("Count from 1 to 5.", background=True)
    final = checks.is_stream(events)
    path = f"/responses/{final['id']}"
    checks.same(api.events("GET", path, stream="true"), events, "events from the start")
    middle = len(events) // 2
    rest = api.events("GET", path, stream="true", starting_after=middle)
    checks.same(rest, events[middle + 1 :], "events after the middle")
    checks.same(api.events("GET", path, stream="true", starting_after=len(events)), [], "events after the last")
    checks.same(api.get(path)["status"], final["status"], "status")


@case("background-cancels", GROUP)
def background_cancels(api):
    """A running response is cancelled, again with the same result; a completed one is not."""
    # The capital word makes the simulated upstream take its time.
    created = api.create("Please DELAY{2000} and write a long essay.", background=True)
    cancelled = api.post(f"/responses/{created['id']}/cancel", None)
    checks.same((cancelled["status"], cancelled["output"]), ("cancelled", []), "status and output")
    checks.same(api.post(f"/responses/{created['id']}/cancel", None), cancelled, "the second reply")
    done = finished(api, api.create(background=True))
    status, error = api.refused("POST", f"/responses/{done['id']}/cancel")
    checks.same((status, error["message"]), (400, "Cannot cancel a completed response."), "status and message")


@case("background-is-not-streamed-afterwards", GROUP)
def background_is_not_streamed_afterwards(api):
    """Only a response that was created with background and stream can be streamed again."""
    for body, text in [({"background": True}, "stream=true"), ({}, "background=true")]:
        created = finished(api, api.create(**body))
        status, error = api.refused("GET", f"/responses/{created['id']}", stream="true")
        expected = f"This response cannot be streamed because it was not created with {text}."
        checks.same((status, error["message"]), (400, expected), "status and message")


@case("background-chains", GROUP)
def background_chains(api):
    """A completed background response can be continued."""
    done = finished(api, api.create("One.", background=True))
    checks.is_completed(api.create("Two.", previous_response_id=done["id"]))
