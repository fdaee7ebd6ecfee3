// Tool loops, streams and chains with the Vercel AI SDK and the Agents SDK. ANTIPHON_URL is the gateway, CLIENTS the folder
// with the installed packages.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const require = createRequire(`${process.env.CLIENTS}/package.json`);
const { createOpenAI } = require("@ai-sdk/openai");
const ai = require("ai");
const agents = require("@openai/agents");
const OpenAI = require("openai");
const { z } = require("zod");

const baseURL = `${process.env.ANTIPHON_URL}/v1`;
const ANSWER = "The tool has answered.";
const CALL = 'Please REASON and TOOLCALL{"city":"Oslo"}';

// The AI SDK runs the tool and sends the whole context again; it throws at an event of an item that was not announced.
const model = createOpenAI({ apiKey: "any", baseURL }).responses("sim");
const seen = [];
const weather = ai.tool({
  description: "The weather of a city.",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => {
    seen.push(city);
    return `sunny in ${city}`;
  },
});
const options = { model, maxRetries: 0, tools: { weather }, stopWhen: ai.stepCountIs(3), prompt: CALL };
const generated = await ai.generateText(options);
assert.equal(generated.text, ANSWER);
assert.deepEqual(generated.steps.map((step) => step.toolCalls.length), [1, 0]);
assert.deepEqual(seen, ["Oslo"]);

let text = "";
const failures = [];
const streamed = ai.streamText({ ...options, onError: ({ error }) => failures.push(error) });
for await (const piece of streamed.textStream) text += piece;
assert.deepEqual(failures, []);
assert.equal(text, ANSWER);
assert.deepEqual(seen, ["Oslo", "Oslo"]);

const previousResponseId = generated.providerMetadata.openai.responseId;
const continued = await ai.generateText({ model, prompt: "SAY{and on}", providerOptions: { openai: { previousResponseId } } });
assert.equal(continued.text, "and on");

// The Agents SDK, collected and streamed, with a chain.
agents.setTracingDisabled(true);
agents.setDefaultOpenAIClient(new OpenAI({ apiKey: "any", baseURL, maxRetries: 0 }));
const lookup = agents.tool({
  name: "lookup",
  description: "Looks up a city.",
  parameters: z.object({ city: z.string() }),
  execute: async ({ city }) => {
    seen.push(city);
    return `found ${city}`;
  },
});
const agent = new agents.Agent({ name: "tester", model: "sim", tools: [lookup] });
const run = await agents.run(agent, CALL);
assert.equal(run.finalOutput, ANSWER);
const following = await agents.run(agent, CALL, { stream: true, previousResponseId: run.lastResponseId });
for await (const event of following) assert.ok(event.type);
await following.completed;
assert.equal(following.finalOutput, ANSWER);
assert.equal(seen.length, 4);

console.log("ok");
