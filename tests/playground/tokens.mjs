// The view of prompts and tokens shows what the API says.

import assert from "node:assert/strict";
import { button, close, end, open } from "./browser.mjs";

const PROMPT = "The capital of France is";
const page = await open(`/#/tokens?prompt=${encodeURIComponent(PROMPT)}&temperature=0&max_tokens=12`);

const asking = (path, body) =>
  page.evaluate(
    async ([path, body]) => {
      const headers = { "Content-Type": "application/json" };
      const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
      return answer.json();
    },
    [path, body],
  );
const near = (shown, expected) => assert.ok(Math.abs(Number(shown) - expected) < 1e-3, `${shown} ${expected}`);
const rows = () =>
  page.locator(".alternatives tbody tr").evaluateAll((all) =>
    all.map((row) => ({
      text: row.querySelector("button").firstChild.data,
      logprob: Number(row.dataset.logprob),
      after: Number(row.dataset.after),
      isCut: row.classList.contains("cut"),
    })),
  );

// The prompt's tokens and ids, as one types.
const pieces = page.getByRole("list", { name: "Tokens of the prompt" }).getByRole("listitem");
const { tokens: ids } = await asking("tokenize", { prompt: PROMPT });
await pieces.nth(ids.length - 1).waitFor();
assert.deepEqual(await pieces.locator("small").allInnerTexts(), ids.map(String));
await page.getByRole("textbox", { name: "Prompt" }).fill(`${PROMPT} not`);
await pieces.nth(ids.length).waitFor();
await page.waitForURL(/prompt=The\+capital\+of\+France\+is\+not/);
await page.getByRole("textbox", { name: "Prompt" }).fill(PROMPT);
await pieces.nth(ids.length).waitFor({ state: "detached" });

// Each token with its log-probability and its alternatives.
const body = { model: "storyteller", prompt: PROMPT, temperature: 0, max_tokens: 12, logprobs: 20 };
const { logprobs } = (await asking("v1/completions", body)).choices[0];
await button(page, "Continue the text").click();
await page.getByText("ended by the model").waitFor();
const tokens = page.locator(".token");
assert.equal(await tokens.count(), logprobs.tokens.length);
for (const [index, logprob] of logprobs.token_logprobs.entries()) {
  near(await tokens.nth(index).getAttribute("data-logprob"), logprob);
  await tokens.nth(index).hover();
  const shown = await rows();
  assert.equal(shown.length, 20);
  for (const row of shown.slice(0, 5)) near(row.logprob, logprobs.top_logprobs[index][row.text] ?? row.logprob);
  assert.deepEqual(shown.map(({ after }) => after), [1, ...Array(19).fill(0)], "greedy");
}

// Sliders redraw without a request; what they cut is marked.
await tokens.first().hover();
let numRequests = 0;
page.on("request", (request) => (numRequests += request.resourceType() === "fetch"));
await page.getByRole("slider", { name: "Temperature" }).fill("2");
await page.getByRole("slider", { name: "Top-p" }).fill("1");
await page.getByRole("slider", { name: "Top-k" }).fill("4");
await page.waitForFunction(() => document.querySelectorAll("tr.cut").length === 16);
const shown = await rows();
const weights = shown.slice(0, 4).map(({ logprob }) => Math.exp(logprob / 2));
const total = weights.reduce((sum, weight) => sum + weight);
weights.forEach((weight, index) => near(shown[index].after, weight / total));
await page.getByRole("slider", { name: "Min-p" }).fill("1");
await page.waitForFunction(() => document.querySelectorAll("tr.cut").length === 19);
await page.waitForURL(/temperature=2&top_p=1&top_k=4&min_p=1/);
assert.equal(numRequests, 0);
await button(page, "Reset Min-p").click();

// An alternative begins a branch: the text before it stays, the rest is new.
const other = shown[1].text;
const asked = page.waitForRequest("**/v1/completions");
await page.getByRole("slider", { name: "Temperature" }).fill("0");
await page.locator(".alternative").nth(1).click();
assert.equal((await asked).postDataJSON().prompt, PROMPT + other);
await page.getByText("Perplexity").waitFor();
await button(page, "Continue the text").waitFor();
assert.equal(await tokens.first().evaluate((token) => token.textContent), other);
near(await tokens.first().getAttribute("data-logprob"), shown[1].logprob);

// By keyboard: Enter with Ctrl runs, arrows go from token to token.
await page.getByRole("textbox", { name: "Prompt" }).press("Control+Enter");
await page.getByText("ended by the model").waitFor();
await tokens.first().focus();
await page.keyboard.press("ArrowRight");
await page.locator('.token:nth-child(2)[aria-pressed="true"]:focus').waitFor();

await close(page);
await end();
