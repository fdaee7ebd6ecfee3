// The OpenAI Node SDK's WebSocket mode against a running gateway ($ANTIPHON_URL) over the simulated upstream. It stands beside the
// installed clients when it runs, so that it finds them.

import assert from "node:assert/strict";
import OpenAI from "openai";
import { ResponsesWS } from "openai/resources/responses/ws";

const client = new OpenAI({ apiKey: "sk-any", baseURL: process.env.ANTIPHON_URL + "/v1" });
const socket = new ResponsesWS(client);
const lanes = new Map();
const failed = [];

// An error frame is emitted as an error, and must leave the socket open.
socket.on("error", (error) => failed.shift()?.(error));
socket.on("event", (event) => {
  const lane = lanes.get(event.stream_id ?? "");
  lane?.events.push(event);
  if (event.type === "response.completed") lane.done(lane.events);
});

function turn(members) {
  return new Promise((done) => {
    lanes.set(members.stream_id ?? "", { events: [], done });
    socket.send({ type: "response.create", model: "sim", store: false, ...members });
  });
}

const response = (events) => events.at(-1).response;
const texts = (response) => JSON.parse(response.output[0].content[0].text).map((item) => item.content[0].text);

const first = response(await turn({ input: "one" }));
const second = response(await turn({ input: "ECHO two", previous_response_id: first.id }));
assert.deepEqual(texts(second), ["one", first.output[0].content[0].text, "ECHO two"]);

const refused = new Promise((resolve) => failed.push(resolve));
turn({ input: "x", previous_response_id: "resp_zz" });
assert.equal((await refused).error.error.code, "previous_response_not_found");

const ended = [];
await Promise.all([
  turn({ input: "DELAY{200} slow", stream_id: "a" }).then(() => ended.push("a")),
  turn({ input: "quick", stream_id: "b" }).then(() => ended.push("b")),
]);
assert.deepEqual(ended, ["b", "a"]);

const stored = response(await turn({ input: "three", store: true }));
const third = await client.responses.create({ model: "sim", input: "ECHO four", previous_response_id: stored.id });
assert.deepEqual(JSON.parse(third.output_text).map((item) => item.content[0].text).filter((_, n) => n !== 1), ["three", "ECHO four"]);

socket.close();
