// Conversations with the OpenAI SDK for Node.js and the Agents SDK. ANTIPHON_URL is the gateway, CLIENTS the folder with the
// installed packages.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const require = createRequire(`${process.env.CLIENTS}/package.json`);
const OpenAI = require("openai");
const agents = require("@openai/agents");

const client = new OpenAI({ apiKey: "any", baseURL: `${process.env.ANTIPHON_URL}/v1`, maxRetries: 0 });
agents.setTracingDisabled(true);
agents.setDefaultOpenAIClient(client);
const agent = new agents.Agent({ name: "tester", model: "sim" });

const texts = (items) =>
  items
    .filter((item) => (item.type ?? "message") === "message")
    .map((item) => (typeof item.content === "string" ? item.content : item.content[0].text));

// Created, changed, and filled.
const made = await client.conversations.create({ metadata: { a: "b" }, items: [{ role: "user", content: "zero" }] });
assert.deepEqual((await client.conversations.update(made.id, { metadata: { c: "d" } })).metadata, { c: "d" });
await client.conversations.items.create(made.id, { items: [{ role: "user", content: "more" }] });
const listed = [];
for await (const item of client.conversations.items.list(made.id, { order: "asc", limit: 1 })) listed.push(item);
assert.deepEqual(texts(listed), ["zero", "more"]);
await client.conversations.items.delete(listed[1].id, { conversation_id: made.id });

// Responses in it.
const first = await client.responses.create({ model: "sim", input: "one", conversation: made.id });
assert.equal(first.conversation.id, made.id);
const second = await client.responses.create({ model: "sim", input: "ECHO two", conversation: made.id });
assert.deepEqual(texts(JSON.parse(second.output_text)), ["zero", "one", first.output_text, "ECHO two"]);

// Runs of an agent in it.
const run = await agents.run(agent, "ECHO three", { conversationId: made.id });
assert.equal(texts(JSON.parse(run.finalOutput)).at(-1), "ECHO three");
assert.equal(texts(JSON.parse(run.finalOutput)).length, 6);
await client.conversations.delete(made.id);
await assert.rejects(client.conversations.retrieve(made.id), OpenAI.NotFoundError);

// A session: all of a run is posted at once.
const session = new agents.OpenAIConversationsSession({ client });
const many = Array.from({ length: 30 }, (_, n) => ({ type: "message", role: "user", content: `p${n}` }));
await session.addItems(many);
await agents.run(agent, "one", { session });
assert.equal((await session.getItems()).length, 32);
assert.equal((await session.popItem()).role, "assistant");
const echo = await agents.run(agent, "ECHO two", { session });
assert.deepEqual(texts(JSON.parse(echo.finalOutput)), [...many.map((item) => item.content), "one", "ECHO two"]);
await session.clearSession();

console.log("ok");
