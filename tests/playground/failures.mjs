// Each failure is a sentence with the role alert, and the text so far is kept.

import assert from "node:assert/strict";
import { answerWith, answers, ask, button, chunk, close, end, events, open } from "./browser.mjs";

const CHAT = "/v1/chat/completions";
const error = (message) => JSON.stringify({ error: { message, type: "x", param: null, code: null } });
const page = await open("/", { expected: /status of (4|5)\d\d|Failed to load resource/ });

async function fails(answer, sentence, text = "") {
  await page.unroute(`**${CHAT}`);
  await button(page, "New chat").click();
  if (answer === "unreachable") await page.route(`**${CHAT}`, (route) => route.abort());
  else await answerWith(page, CHAT, answer);
  await ask(page, "Hello");
  const alert = page.getByRole("alert").filter({ hasText: sentence });
  await alert.waitFor();
  assert.ok(!/undefined|null|\[object/.test(await alert.innerText()), await alert.innerText());
  await button(page, "Send").waitFor();
  assert.equal(await answers(page).count(), text ? 1 : 0);
  if (text) assert.match(await answers(page).innerText(), text);
}

const contentType = "application/json";
const status = (status, message, headers = {}) => ({ status, contentType, headers, body: error(message) });
await fails(status(429, "slow down", { "Retry-After": "7" }), "Too many requests for now. Try again in 7 seconds.");
await fails(status(503, "The queue is full.", { "Retry-After": "1" }), "The queue is full. Try again in 1 second.");
await fails(status(504, "timeout"), "did not begin an answer in time");
await fails(status(500, "x"), "The server failed on this request");
await fails(status(403, "The key lacks the scope `generate`."), "not allowed to do that. The key lacks the scope");
await fails(status(400, "temperature: at most 2"), "temperature: at most 2");
await fails({ status: 502, body: "<html>bad gateway" }, "the status 502");
await fails("unreachable", "The server cannot be reached");
await fails(events(chunk("Once upon")), "The connection broke", /Once upon[^]*broken off/);
await fails(
  events(chunk("Once upon"), { error: { message: "The engine has stopped." } }),
  "The engine has stopped. The text so far is kept.",
  /Once upon/,
);
await button(page, "Continue").waitFor();
await page.reload();
await answers(page).getByText("Once upon").waitFor();

// Under a tight rate limit the page opens all the same.
await answerWith(page, "/tokenizer_info", status(429, "slow down", { "Retry-After": "7" }));
await answerWith(page, "/tokenize", status(429, "slow down", { "Retry-After": "7" }));
await page.reload();
await button(page, "New chat").click();
await page.getByRole("heading", { name: "Ask storyteller" }).waitFor();
await page.getByRole("link", { name: "Prompt and tokens" }).first().click();
await page.getByText("Try again in 7 seconds").waitFor();
assert.equal(await page.getByRole("alert").count(), 0);

await close(page);
await end();
