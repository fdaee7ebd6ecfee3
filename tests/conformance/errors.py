"""Requests that have to be refused, and how."""

import checks
from api import error_of
from suite import case

GROUP = "errors"
UNKNOWN = "resp_0199a1b2c3d47e5f8a9b0c1d2e3f4a5b"


def refused(api, **body):
    return api.refused("POST", "/responses", body)


@case("missing-parameters", GROUP)
def missing_parameters(api):
    """model and input are required."""
    checks.refuses(refused(api, input="x"), 400, "missing_required_parameter", "model")
    checks.refuses(refused(api, model=api.model), 400, "missing_required_parameter", "input")


@case("wrong-types", GROUP)
def wrong_types(api):
    """A parameter of a wrong type is named."""
    for name, value in [("store", "no"), ("stream", 1), ("previous_response_id", 7), ("background", "yes")]:
        checks.refuses(refused(api, model=api.model, input="x", **{name: value}), 400, "invalid_type", name)


@case("invalid-json", GROUP)
def invalid_json(api):
    """A body that is not JSON is refused."""
    reply = api.http.post(f"{api.base_url}/responses", content=b"{", headers={"content-type": "application/json"})
    checks.same(reply.status_code, 400, "status")
    error_of(reply.json())


@case("unknown-previous-response", GROUP)
def unknown_previous_response(api):
    """An unknown previous response is refused before a stream begins."""
    for stream in (False, True):
        got = refused(api, model=api.model, input="x", previous_response_id=UNKNOWN, stream=stream)
        checks.refuses(got, 400, "previous_response_not_found", "previous_response_id")
        checks.same(got[1]["message"], f"Previous response with id '{UNKNOWN}' not found.", "message")


@case("mutually-exclusive", GROUP)
def mutually_exclusive(api):
    """A previous response and a conversation exclude each other."""
    body = {"previous_response_id": UNKNOWN, "conversation": "conv_1"}
    checks.refuses(refused(api, model=api.model, input="x", **body), 400, "mutually_exclusive_parameters", None)


@case("unknown-response", GROUP)
def unknown_response(api):
    """An unknown response is 404 at every endpoint."""
    for method, below in [("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")]:
        got = api.refused(method, f"/responses/{UNKNOWN}{below}")
        checks.refuses(got, 404, None, None)
        checks.same(got[1]["message"], f"Response with id '{UNKNOWN}' not found.", "message")


@case("cancel-synchronous", GROUP)
def cancel_synchronous(api):
    """A response that did not run in the background can't be cancelled."""
    created = api.create()
    status, error = api.refused("POST", f"/responses/{created['id']}/cancel")
    checks.same((status, error["message"]), (400, "Cannot cancel a synchronous response."), "status and message")


@case("unknown-model", GROUP)
def unknown_model(api):
    """An unknown model is refused."""
    status, error = refused(api, model="conformance-no-such-model", input="x")
    assert status in (400, 404), f"the status is {status}"
    checks.same(error["code"], "model_not_found", "code")


@case("unknown-path", GROUP)
def unknown_path(api):
    """An unknown path has the error envelope."""
    status, _ = api.refused("GET", "/no-such-path")
    checks.same(status, 404, "status")


@case("upstream-errors-end-streams", GROUP)
def upstream_errors_end_streams(api):
    """A stream ends with exactly one terminal event, also if the model fails in its middle."""
    # The capital word makes the simulated upstream fail; another upstream completes.
    events = api.stream("Please FAIL.")
    final = checks.is_stream(events)
    assert final["status"] in ("failed", "completed"), final["status"]
