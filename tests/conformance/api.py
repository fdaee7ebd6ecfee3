"""The API under test: requests, streams and sockets."""

import contextlib
import json

import httpx2
from websockets.sync.client import connect

TERMINAL = ("response.completed", "response.incomplete", "response.failed")


class Api:
    def __init__(self, base_url, api_key, model, timeout):
        self.base_url = base_url.rstrip("/")
        self.model = model
        self.timeout = timeout
        self.headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self.http = httpx2.Client(timeout=timeout, headers=self.headers)

    def send(self, method, path, body=None, **params):
        return self.http.request(method, self.base_url + path, json=body, params=params)

    def get(self, path, **params):
        return ok(self.send("GET", path, **params))

    def post(self, path, body):
        return ok(self.send("POST", path, body))

    def delete(self, path):
        return ok(self.send("DELETE", path))

    def create(self, text="Say hello.", **body):
        return self.post("/responses", self.request(text, **body))

    def stream(self, text="Say hello.", **body):
        """The events of a stream, in order."""
        return self.events("POST", "/responses", self.request(text, stream=True, **body))

    def events(self, method, path, body=None, **params):
        with self.http.stream(method, self.base_url + path, json=body, params=params) as reply:
            if reply.status_code != 200:
                reply.read()
                ok(reply)
            kind = reply.headers["content-type"]
            assert kind.startswith("text/event-stream"), f"the content type of a stream is {kind}"
            return list(read_events(reply.iter_lines()))

    def request(self, text, **body):
        body.setdefault("model", self.model)
        body.setdefault("input", text)
        return {name: value for name, value in body.items() if value is not None}

    def refused(self, method, path, body=None, **params):
        """The status and the error of a request that has to fail."""
        reply = self.send(method, path, body, **params)
        assert reply.status_code >= 400, f"{method} {path} was accepted: {reply.text[:300]}"
        return reply.status_code, error_of(reply.json())

    @contextlib.contextmanager
    def socket(self):
        url = "ws" + self.base_url.removeprefix("http") + "/responses"
        with connect(url, additional_headers=self.headers, max_size=None, open_timeout=self.timeout) as socket:
            yield Socket(self, socket)


class Socket:
    def __init__(self, api, socket):
        self.api = api
        self.socket = socket

    def send(self, frame):
        self.socket.send(json.dumps(frame))

    def receive(self):
        return json.loads(self.socket.recv(timeout=self.api.timeout))

    def ask(self, text="Say hello.", **body):
        self.send({"type": "response.create", **self.api.request(text, **body)})

    def turn(self, text="Say hello.", **body):
        """The frames of one turn, up to its terminal event or its error."""
        self.ask(text, **body)
        return self.frames()

    def frames(self):
        frames = [self.receive()]
        while frames[-1]["type"] not in (*TERMINAL, "error"):
            frames.append(self.receive())
        return frames

    def completed(self, text="Say hello.", **body):
        """The response of a turn that has to be completed."""
        last = self.turn(text, **body)[-1]
        assert last["type"] == "response.completed", f"the turn ended with {json.dumps(last)[:300]}"
        return last["response"]

    def refused(self, text="Say hello.", **body):
        """The frame of a turn that has to fail."""
        last = self.turn(text, **body)[-1]
        assert last["type"] in ("error", "response.failed"), f"the turn ended with {last['type']}"
        return last


def ok(reply):
    assert reply.status_code == 200, f"{reply.request.method} {reply.request.url}: {reply.status_code} {reply.text[:300]}"
    return reply.json()


def error_of(body):
    error = body.get("error")
    assert isinstance(error, dict), f"there is no error envelope: {json.dumps(body)[:300]}"
    lacking = {"message", "type", "param", "code"} - error.keys()
    assert not lacking, f"the error lacks {', '.join(sorted(lacking))}"
    return error


def read_events(lines):
    name, data = None, []
    for line in lines:
        if line.startswith("event:"):
            name = line[6:].strip()
        elif line.startswith("data:"):
            data.append(line[5:].strip())
        elif not line and data:
            text = "\n".join(data)
            if text != "[DONE]":
                event = json.loads(text)
                assert name in (None, event["type"]), f"the event {name} carries the type {event['type']}"
                yield event
            name, data = None, []
