// The OpenAI SDK for Node.js over a WebSocket: what its users do with it. ANTIPHON_URL is the gateway, CLIENTS the folder with
// the installed packages, and REPLAYS says that the upstream gets whole chains, which it can then repeat.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const require = createRequire(`${process.env.CLIENTS}/package.json`);
const OpenAI = require("openai");
const { ResponsesWS } = require("openai/resources/responses/ws");

const client = new OpenAI({ apiKey: "any", baseURL: `${process.env.ANTIPHON_URL}/v1`, maxRetries: 0 });

// Sends turns, each to its lane, and gathers the events of each until its last.
async function turns(ws, frames) {
  const gathered = frames.map(() => []);
  const isLast = (event) => /^(response\.(completed|incomplete|failed)|error)$/.test(event.type);
  const over = new Promise((resolve) => {
    let left = frames.length;
    const hear = (event) => {
      const place = frames.findIndex((frame) => frame.stream_id === event.stream_id);
      gathered[place].push(event);
      if (isLast(event) && --left === 0) {
        ws.off("event", hear);
        resolve();
      }
    };
    ws.on("event", hear);
  });
  for (const frame of frames) ws.send({ type: "response.create", model: "sim", ...frame });
  await over;
  return gathered;
}

const text = (events) => events.at(-1).response.output[0].content[0].text;

const ws = new ResponsesWS(client);
// An error event is told to listeners of errors, too: without one it would be thrown.
ws.on("error", () => {});

const [first] = await turns(ws, [{ input: "My name is Ada." }]);
assert.equal(first[0].type, "response.created");
assert.equal(first.at(-1).type, "response.completed");
const root = first.at(-1).response.id;

const [second] = await turns(ws, [{ input: "ECHO: what is my name?", previous_response_id: root }]);
assert.match(text(second), process.env.REPLAYS ? /Ada/ : /what is my name/);
const latest = second.at(-1).response.id;

const lanes = await turns(ws, [
  { input: "ECHO: lane a", stream_id: "a", previous_response_id: root },
  // What is not stored goes on from what its socket remembers: the latest response of a lane.
  { input: "ECHO: lane b", stream_id: "b", previous_response_id: latest, store: false },
]);
assert.match(text(lanes[0]), /lane a/);
assert.match(text(lanes[1]), /lane b/);

const [unknown] = await turns(ws, [{ input: "x", previous_response_id: "resp_0" }]);
assert.equal(unknown[0].error.code, "previous_response_not_found");
assert.equal(unknown[0].status, 400);

const kept = lanes[1].at(-1).response.id;
const [after] = await turns(ws, [{ input: "ECHO: still there?", stream_id: "b", previous_response_id: kept, store: false }]);
assert.match(text(after), process.env.REPLAYS ? /lane b/ : /still there/);

const overHttp = await client.responses.create({ model: "sim", input: "ECHO: and over HTTP?", previous_response_id: latest });
assert.match(overHttp.output_text, process.env.REPLAYS ? /Ada/ : /over HTTP/);
await assert.rejects(client.responses.retrieve(kept), OpenAI.NotFoundError);

ws.close();
console.log("ok");
