// From the first visit to the first answer, and what else a chat can do.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { answered, answers, ask, button, close, end, message, open } from "./browser.mjs";

const page = await open();
await page.getByRole("heading", { name: "Ask storyteller" }).waitFor();
assert.equal(await page.getByRole("combobox", { name: "Model" }).inputValue(), "storyteller");
await page.getByRole("spinbutton", { name: "Seed" }).fill("1");
const temperature = page.getByRole("slider", { name: "Temperature" });
assert.equal(await temperature.inputValue(), "0.7", "the model's default");
await temperature.fill("0");
await page.getByText("2 changed").waitFor();

// The first answer; only changed parameters are sent.
const sent = page.waitForRequest("**/v1/chat/completions");
await ask(page, "What is the capital of France?");
const { messages, ...parameters } = (await sent).postDataJSON();
assert.deepEqual(messages, [{ role: "user", content: "What is the capital of France?" }]);
const stream = { stream: true, stream_options: { include_usage: true }, timings: true };
assert.deepEqual(parameters, { model: "storyteller", temperature: 0, seed: 1, ...stream });
await answered(page);
assert.equal(await answers(page).locator(".text").innerText(), "The capital of France is Paris.");
assert.match(await answers(page).locator(".figures").innerText(), /8 tokens · \d+ tokens\/s · first after \d+ ms · context 18 of 1024/);

// A stream is stopped, goes on from the text so far, and is kept.
await message(page).fill("Tell me a story about a brave knight.");
await message(page).press("Enter");
const story = answers(page).nth(1).locator(".text");
await page.waitForFunction(() => document.querySelectorAll(".text")[3]?.innerText.length > 30);
await button(page, "Stop").click();
await answered(page);
const part = (await story.innerText()).trim();
assert.match(await answers(page).nth(1).locator(".figures").innerText(), /stopped/);
await page.waitForTimeout(300);
assert.equal((await story.innerText()).trim(), part);
await button(page, "Continue").click();
await button(page, "Continue").waitFor({ state: "detached" });
await answered(page);
const whole = (await story.innerText()).trim();
assert.ok(whole.startsWith(part) && whole.length > part.length, whole);
const reference = await page.evaluate(async (messages) => {
  const body = { model: "storyteller", messages, temperature: 0 };
  const headers = { "Content-Type": "application/json" };
  const answer = await fetch("v1/chat/completions", { method: "POST", headers, body: JSON.stringify(body) });
  return (await answer.json()).choices[0].message.content;
}, [
  { role: "user", content: "What is the capital of France?" },
  { role: "assistant", content: "The capital of France is Paris." },
  { role: "user", content: "Tell me a story about a brave knight." },
]);
assert.equal(whole, reference.trim(), "the continued answer is the uninterrupted one");

// Branches: another answer, and another question.
await page.getByRole("slider", { name: "Temperature" }).fill("1");
await button(page, "Regenerate").click();
await page.getByText("2 / 2").waitFor();
await answered(page);
await button(page, "Previous branch").click();
await page.getByText("1 / 2").waitFor();
assert.equal((await story.innerText()).trim(), whole);
await button(page, "Edit").first().click();
await page.getByRole("textbox", { name: "Edited message" }).fill("What is the capital of Italy?");
await page.getByRole("slider", { name: "Temperature" }).fill("0");
await button(page, "Save and answer").click();
await answers(page).getByText("The capital of Italy is Rome.").waitFor();
await answered(page);
assert.equal(await answers(page).count(), 1);
await button(page, "Previous branch").click();
await answers(page).nth(1).waitFor();

// A reload keeps the chat with the branch that was shown; files carry it to other browsers.
await page.waitForTimeout(300);
await page.reload();
await answers(page).nth(1).waitFor();
assert.equal((await story.innerText()).trim(), whole);
const saving = page.waitForEvent("download");
await button(page, "Export").click();
const file = await (await saving).path();
assert.equal(JSON.parse(readFileSync(file, "utf8")).chats.length, 1);
await button(page, "New chat").click();
await answers(page).first().waitFor({ state: "detached" });
assert.equal(await page.getByRole("spinbutton", { name: "Seed" }).inputValue(), "1");
page.once("dialog", (dialog) => dialog.accept());
await page.getByRole("button", { name: "Delete the chat: What is the capital of France?" }).click();
await page.getByRole("navigation", { name: "Chats" }).getByRole("listitem").waitFor({ state: "detached" });
await page.getByLabel("File of chats").setInputFiles(file);
await answers(page).nth(1).waitFor();
assert.equal((await story.innerText()).trim(), whole);
await page.getByLabel("File of chats").setInputFiles({ name: "x.json", mimeType: "application/json", buffer: Buffer.from('{"chats": [{"messages": {"m1": {"id": "__proto__"}}}]}') });
await page.getByRole("alert").filter({ hasText: "no chats that can be read" }).waitFor();

// The system prompt is part of the conversation. The answer goes on while another view is shown.
await button(page, "New chat").click();
await page.getByRole("textbox", { name: "System prompt" }).fill("Be brief.");
const second = page.waitForRequest("**/v1/chat/completions");
await ask(page, "What is the opposite of hot?");
assert.deepEqual((await second).postDataJSON().messages[0], { role: "system", content: "Be brief." });
await page.getByRole("link", { name: "Prompt and tokens" }).first().click();
await page.getByRole("textbox", { name: "Prompt" }).waitFor();
await page.getByRole("link", { name: "Chat", exact: true }).click();
await answered(page);
assert.ok((await answers(page).locator(".text").innerText()).length > 3);

// Answers fit a schema; one that is no JSON is refused with the question kept.
await button(page, "New chat").click();
const schema = { type: "object", properties: { city: { enum: ["Paris", "Rome"] } }, required: ["city"] };
const box = page.getByRole("textbox", { name: "JSON schema" });
await box.fill("{ city");
await ask(page, "What is the capital of France?");
await page.getByRole("alert").filter({ hasText: "not valid JSON" }).waitFor();
await box.fill(JSON.stringify(schema));
await ask(page, "What is the capital of France?");
await answered(page);
assert.ok(["Paris", "Rome"].includes(JSON.parse(await answers(page).locator(".text").innerText()).city));
assert.equal(await page.getByRole("alert").count(), 0);

await close(page);
await end();
