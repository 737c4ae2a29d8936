// What people do in a browser: read the documentation, say who they are in Swagger UI and try a
// route there; and what a page of another origin does.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { chromium } from "playwright-core";

const { SERVER_URL, KEY, BROWSER, PAGE_PORT } = process.env;
const browser = await chromium.launch({
  executablePath: BROWSER,
  args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
});
const page = await browser.newPage();
const route = page.locator("[id$='generate_post']").first();
page.setDefaultTimeout(30_000);
const complaints = [];
page.on("console", (message) => {
  if (message.type() === "error") complaints.push(message.text());
});
page.on("pageerror", (error) => complaints.push(String(error)));

async function execute() {
  const answered = page.waitForResponse(`${SERVER_URL}/generate`);
  await route.getByRole("button", { name: "Execute" }).click();
  const status = (await answered).status();
  const shown = route.locator(".live-responses-table td.response-col_status");
  await shown.filter({ hasText: String(status) }).waitFor();
  return status;
}

await page.goto(`${SERVER_URL}/docs`);
await page.locator(".info .title").waitFor();
assert.deepEqual(complaints, []);
await route.locator(".opblock-summary-control").click();
await route.getByRole("button", { name: "Try it out" }).click();
await route.locator("textarea").fill(JSON.stringify({ prompt: "the", max_length: 1 }));
assert.equal(await execute(), 401);
complaints.length = 0; // the browser tells of the 401

await page.locator(".auth-wrapper .authorize").first().click();
const form = page.locator(".auth-container", { hasText: "bearer" }).first();
await form.locator("input").fill(KEY);
await form.getByRole("button", { name: "Apply credentials" }).click();
await page.getByRole("button", { name: "Close" }).first().click();
assert.equal(await execute(), 200);

await page.goto(`${SERVER_URL}/redoc`);
await page.locator("h1", { hasText: "LLM inference" }).waitFor();
for (const complaint of complaints) assert.match(complaint, /^Loading the image 'https:.*logo/);

const site = createServer((_, answer) => answer.end("<!doctype html><title>a page</title>"));
await new Promise((done) => site.listen(Number(PAGE_PORT), "127.0.0.1", done));
await page.goto(`http://127.0.0.1:${PAGE_PORT}/`);
const asked = async ({ url, key }) => {
  const answer = await fetch(`${url}/generate`, {
    method: "POST",
    headers: { Authorization: `Bearer ${key}`, "Content-Type": "application/json" },
    body: JSON.stringify({ prompt: "the", max_length: 3, stream: true }),
  });
  return { id: answer.headers.get("x-request-id"), text: await answer.text() };
};
const { id, text } = await page.evaluate(asked, { url: SERVER_URL, key: KEY });
assert.ok(id);
assert.ok(text.endsWith("data: [DONE]\n\n"));
await page.goto(`http://localhost:${PAGE_PORT}/`); // to a browser another origin
await assert.rejects(page.evaluate(asked, { url: SERVER_URL, key: KEY }), /Failed to fetch/);

site.close();
await browser.close();
