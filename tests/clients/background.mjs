// Background responses with the OpenAI SDK for Node.js. ANTIPHON_URL is the gateway, CLIENTS the folder with the installed packages.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const require = createRequire(`${process.env.CLIENTS}/package.json`);
const OpenAI = require("openai");

const client = new OpenAI({ apiKey: "any", baseURL: `${process.env.ANTIPHON_URL}/v1`, maxRetries: 0 });
const background = { model: "sim", background: true };

// Polled.
let response = await client.responses.create({ ...background, input: "SAY{later}" });
assert.equal(response.status, "queued");
while (["queued", "in_progress"].includes(response.status)) {
  response = await client.responses.retrieve(response.id);
}
assert.equal(response.status, "completed");
assert.equal(response.output_text, "later");

// Streamed, and resumed after the fourth event.
const seen = [];
for await (const event of await client.responses.create({ ...background, input: "SAY{one two three}", stream: true })) {
  seen.push(event);
  if (event.sequence_number >= 3) break;
}
const id = seen[0].response.id;
const after = seen.at(-1).sequence_number;
const rest = [];
for await (const event of await client.responses.retrieve(id, { stream: true, starting_after: after })) rest.push(event);
assert.deepEqual(rest.map((event) => event.sequence_number), rest.map((_, index) => after + 1 + index));
assert.equal(rest.at(-1).type, "response.completed");
const whole = await client.responses.stream({ response_id: id, starting_after: after }).finalResponse();
assert.equal(whole.output_text, "one two three");

// Cancelled, and cancelled again.
const slow = await client.responses.create({ ...background, input: "DELAY{60000}" });
for (let times = 0; times < 2; times++) {
  const cancelled = await client.responses.cancel(slow.id);
  assert.equal(cancelled.status, "cancelled");
  assert.deepEqual(cancelled.output, []);
}
await assert.rejects(client.responses.cancel(response.id), /Cannot cancel a completed response/);
console.log("ok");
