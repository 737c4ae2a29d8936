// A browser for the scenarios beside this file; a scenario fails if the page complains.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(`${process.env.CLIENTS}/`);
const { chromium } = require("playwright-core");
const AXE = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

export const URL = process.env.SERVER_URL;
const browser = await chromium.launch({
  executablePath: process.env.BROWSER,
  args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
});

// Opens the page in a profile of its own. `expected` matches complaints that a scenario causes.
export async function open(path = "/", { expected = /^$/, ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(60_000);
  page.complaints = [];
  page.foreign = []; // requests to other servers
  page.on("request", (request) => {
    const url = request.url();
    if (url.startsWith("http") && !url.startsWith(URL)) page.foreign.push(url);
  });
  const complain = (text) => expected.test(text) || page.complaints.push(text);
  page.on("console", (message) => message.type() === "error" && complain(message.text()));
  page.on("pageerror", (error) => complain(String(error)));
  await page.goto(URL + path);
  return page;
}

export async function close(page) {
  assert.deepEqual(page.complaints, []);
  await page.context().close();
}

export const end = () => browser.close();

export const button = (page, name) => page.getByRole("button", { name, exact: true });
export const message = (page) => page.getByRole("textbox", { name: "Message" });
export const answers = (page) => page.getByRole("article", { name: "Answer" });

export async function ask(page, text) {
  await message(page).fill(text);
  await button(page, "Send").click();
}

// Waits for the end of the answer in progress.
export const answered = (page) => button(page, "Regenerate").waitFor();

export async function assertAccessible(page) {
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  const found = violations.map(({ id, nodes }) => [id, nodes.map(({ html }) => html)]);
  assert.deepEqual(found, []);
}

// Answers requests of a route with a stream of these events, or with a status.
export const answerWith = (page, path, answer) =>
  page.route(`**${path}`, (route) => route.fulfill(answer));

export const chunk = (content, finish_reason = null) => ({
  choices: [{ index: 0, delta: { content }, finish_reason }],
});

export const events = (...data) => ({
  contentType: "text/event-stream",
  body: data.map((one) => `data: ${typeof one === "string" ? one : JSON.stringify(one)}\n\n`).join(""),
});
