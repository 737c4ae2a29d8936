// Thoughts are folded, and calls of tools are shown; the reader plays the tools.

import assert from "node:assert/strict";
import { answerWith, answered, answers, ask, assertAccessible, button, chunk, close, end, events, open } from "./browser.mjs";

const page = await open();
const think = (reasoning_content) => ({ choices: [{ index: 0, delta: { reasoning_content }, finish_reason: null }] });
await page.getByRole("heading", { name: "Ask storyteller" }).waitFor();
await answerWith(page, "/v1/chat/completions", events(think("First 2 "), think("and 3."), chunk("It is "), chunk("5.", "stop"), "[DONE]"));
await ask(page, "What is 2 plus 3?");
await answered(page);
const thought = answers(page).locator("details.thought");
assert.equal(await thought.locator(".text").isVisible(), false);
assert.equal((await answers(page).locator(".text").last().innerText()).trim(), "It is 5.");
await thought.locator("summary").click();
assert.equal(await thought.locator(".text").innerText(), "First 2 and 3.");
await assertAccessible(page);

// The thought goes back to the server, whose template decides on its use.
const sent = page.waitForRequest("**/v1/chat/completions");
await ask(page, "And 3 plus 3?");
assert.deepEqual((await sent).postDataJSON().messages[1], { role: "assistant", content: "It is 5.", reasoning_content: "First 2 and 3." });
await answered(page);
await page.unroute("**/v1/chat/completions");

// A tool: the model calls it, the reader answers, the model goes on. All of it is kept.
await button(page, "New chat").click();
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const tools = [{ type: "function", function: { name: "get_weather", description: "Get the weather of a city.", parameters } }];
const box = page.getByRole("textbox", { name: "Tools" });
await box.fill("[{ get");
await ask(page, "What is the weather in Paris?");
await page.getByRole("alert").filter({ hasText: "list of tools in the settings is not valid JSON" }).waitFor();
await box.fill(JSON.stringify(tools));
await page.getByRole("slider", { name: "Temperature" }).fill("0");
await ask(page, "What is the weather in Paris?");
await answered(page);
const call = page.getByRole("region", { name: "Call of get_weather" });
assert.match(await call.locator("pre").innerText(), /"city": "Paris"/);
await assertAccessible(page);
await page.getByRole("textbox", { name: "Result of get_weather" }).fill('{"sky": "sunny"}');
const results = page.waitForRequest("**/v1/chat/completions");
await button(page, "Send results").click();
const { messages } = (await results).postDataJSON();
assert.deepEqual(messages.map(({ role }) => role), ["user", "user", "assistant", "tool"]);
assert.equal(messages[3].tool_call_id, messages[2].tool_calls[0].id);
assert.equal(messages[3].content, '{"sky": "sunny"}');
await answered(page);
assert.equal(await page.getByRole("article", { name: "Tool result" }).count(), 1);
await page.waitForTimeout(300);
await page.reload();
await call.waitFor();
assert.equal(await page.getByRole("article", { name: "Tool result" }).count(), 1);
await close(page);
await end();
