// What users of OpenAI's client for Node do: streams and their helper, raw answers, tools, errors by
// class.

import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({
  baseURL: `${process.env.SERVER_URL}/v1`,
  apiKey: "none",
  maxRetries: 0,
});
const model = "storyteller";
const messages = [{ role: "user", content: "What is the capital of Italy?" }];
const chat = { model, messages, temperature: 0 };
const ANSWER = "The capital of Italy is Rome.";

const answer = await client.chat.completions.create(chat);
assert.equal(answer.choices[0].message.content, ANSWER);
assert.equal(answer.choices[0].finish_reason, "stop");
assert.equal(answer.usage.completion_tokens, 8);
assert.ok(answer._request_id);

const { response } = await client.chat.completions
  .create(chat, { headers: { "X-Request-ID": "find-me" } })
  .withResponse();
assert.equal(response.headers.get("x-request-id"), "find-me");

const texts = ["", "", ""];
const indexes = [];
let usage = null;
const several = { ...chat, n: 3, stream: true, stream_options: { include_usage: true } };
for await (const chunk of await client.chat.completions.create(several)) {
  for (const { index, delta } of chunk.choices) {
    texts[index] += delta.content ?? "";
    indexes.push(index);
  }
  usage = chunk.usage;
}
assert.deepEqual(texts, [ANSWER, ANSWER, ANSWER]);
assert.notDeepEqual(indexes, indexes.toSorted());
assert.equal(usage.completion_tokens, 24);

const runner = client.chat.completions.stream({ ...chat, logprobs: true });
assert.equal(await runner.finalContent(), ANSWER);
const final = await runner.finalChatCompletion();
assert.equal(final.choices[0].finish_reason, "stop");
assert.equal(final.choices[0].logprobs.content[0].token, "The");

const text = { model, prompt: "The capital of Italy is", temperature: 0 };
assert.equal((await client.completions.create(text)).choices[0].text, " Rome.");
let streamed = "";
for await (const chunk of await client.completions.create({ ...text, stream: true })) {
  streamed += chunk.choices[0].text;
}
assert.equal(streamed, " Rome.");

const schema = { type: "object", properties: { name: { enum: ["Rome"] } }, required: ["name"] };
const shaped = await client.chat.completions.parse({
  ...chat,
  response_format: { type: "json_schema", json_schema: { name: "city", schema, strict: true } },
});
assert.equal(JSON.parse(shaped.choices[0].message.content).name, "Rome");
const sentBack = [...messages, shaped.choices[0].message, ...messages];
assert.ok((await client.chat.completions.create({ ...chat, messages: sentBack })).choices[0]);

const parameters = {
  type: "object",
  properties: { city: { enum: ["Rome", "Oslo"] } },
  required: ["city"],
  additionalProperties: false,
};
const weather = { name: "weather", description: "Tells the weather in a city.", parameters };
const tools = [{ type: "function", function: { ...weather, strict: true } }];
const wanted = { ...chat, tools, parallel_tool_calls: false, tool_choice: "required" };
const calling = await client.chat.completions.parse(wanted);
assert.equal(calling.choices[0].finish_reason, "tool_calls");
const [call] = calling.choices[0].message.tool_calls;
const { city } = call.function.parsed_arguments;
assert.ok(["Rome", "Oslo"].includes(city));
const streaming = client.chat.completions.stream(wanted);
const doneCalls = [];
streaming.on("tool_calls.function.arguments.done", (one) => doneCalls.push(one));
const calledAgain = (await streaming.finalChatCompletion()).choices[0];
assert.equal(calledAgain.finish_reason, "tool_calls");
assert.deepEqual(
  doneCalls.map((one) => [one.name, one.arguments]),
  [["weather", call.function.arguments]],
);
for (const { message } of [calling.choices[0], calledAgain]) {
  const result = { role: "tool", tool_call_id: message.tool_calls[0].id, content: "sunny" };
  const after = { ...chat, messages: [...messages, message, result] };
  assert.ok((await client.chat.completions.create(after)).choices[0]);
}
const run = client.chat.completions.runTools(
  {
    ...chat,
    tools: [
      {
        type: "function",
        function: { ...weather, parse: JSON.parse, function: (got) => `sunny in ${got.city}` },
      },
    ],
    tool_choice: { type: "function", function: { name: "weather" } },
  },
  { maxChatCompletions: 2 },
);
assert.ok(await run.finalFunctionToolCallResult());
assert.equal(await run.finalFunctionToolCallResult(), `sunny in ${city}`);

const newer = await client.responses.create({ model, input: messages, temperature: 0 });
assert.equal(newer.output_text, ANSWER);
const events = client.responses.stream({ model, input: messages, temperature: 0 });
let told = "";
events.on("response.output_text.delta", ({ delta }) => (told += delta));
assert.equal((await events.finalResponse()).output_text, ANSWER);
assert.equal(told, ANSWER);
const called = await client.responses.create({
  model,
  input: messages,
  temperature: 0,
  tools: [{ type: "function", ...weather, strict: true }],
  tool_choice: "required",
  parallel_tool_calls: false,
});
const item = called.output.find((one) => one.type === "function_call");
assert.equal(item.name, "weather");
assert.equal(JSON.parse(item.arguments).city, city);
const output = { type: "function_call_output", call_id: item.call_id, output: "sunny" };
const returned = [...messages, ...called.output, output];
assert.ok((await client.responses.create({ model, input: returned, temperature: 0 })).output_text);

const { data } = await client.embeddings.create({ model, input: ["a", "a"] });
assert.equal(data.length, 2);
assert.deepEqual(data[0].embedding, data[1].embedding);

const broken = await client.completions.create({ ...text, ignore_eos: true, stream: true });
for await (const _ of broken) break; // leaving closes the connection
assert.ok(broken.controller.signal.aborted);

const models = [];
for await (const one of client.models.list()) models.push(one.id);
assert.deepEqual(models, [model]);

await assert.rejects(client.chat.completions.create({ ...chat, model: "gpt-4" }), (error) => {
  assert.ok(error instanceof OpenAI.NotFoundError);
  assert.deepEqual(
    [error.status, error.code, error.param, error.type],
    [404, "model_not_found", "model", "invalid_request_error"],
  );
  return Boolean(error.requestID);
});
await assert.rejects(
  client.chat.completions.create({ ...chat, temperature: 3 }),
  OpenAI.BadRequestError,
);
await assert.rejects(
  client.completions.create({ ...text, ignore_eos: true, max_tokens: 900 }, { timeout: 1 }),
  OpenAI.APIConnectionTimeoutError,
);
