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

// A run with thirty items of its own: they are posted at once.
const large = new agents.OpenAIConversationsSession({ client });
const together = (history, items) => [...history, ...items];
for (const _ of [1, 2]) await agents.run(agent, many, { session: large, sessionInputCallback: together });
const kept = await large.getItems();
assert.equal(kept.length, 62);
assert.deepEqual(texts(kept.filter((item) => item.role === "user")), [...many, ...many].map((item) => item.content));

// A session that is compacted, by the id of its last response and by its items.
for (const compactionMode of ["previous_response_id", "input"]) {
  const compacted = new agents.OpenAIResponsesCompactionSession({
    client,
    model: "gpt-5.4",
    compactionMode,
    shouldTriggerCompaction: () => false,
  });
  await agents.run(agent, "one", { session: compacted });
  const last = await agents.run(agent, "two", { session: compacted });
  await compacted.runCompaction({ force: true, responseId: last.lastResponseId });
  assert.equal((await compacted.getItems()).at(-1).type, "compaction");
  const said = JSON.parse((await agents.run(agent, "ECHO three", { session: compacted })).finalOutput);
  assert.equal(said.filter((item) => item.type === "compaction").length, 1);
  assert.equal(texts(said).at(-1), "ECHO three");
}

// A second run while a turn is there for longer than the gateway waits is told so, and works after it.
const busy = await client.conversations.create({});
const isLocked = (error) => error instanceof OpenAI.BadRequestError && error.code === "conversation_locked";
for (let locked = false; !locked; ) {
  const slow = client.responses.create({ model: "sim", input: "DELAY{3500} SAY{slow}", conversation: busy.id });
  const posted = client.conversations.items.create(busy.id, { items: [{ role: "user", content: "early" }] });
  const refused = await posted.then(() => undefined, (error) => error);
  assert.ok(refused === undefined || isLocked(refused), `${refused}`);
  locked = refused !== undefined;
  await slow;
}
const after = await agents.run(agent, "ECHO after", { conversationId: busy.id });
assert.deepEqual(texts(JSON.parse(after.finalOutput)).slice(-2), ["slow", "ECHO after"]);

console.log("ok");
