// The view of batches: upload, progress, answers, errors of the file, cancellation.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { assertAccessible, button, close, end, open } from "./browser.mjs";

const page = await open("/#/batches");
const batches = page.getByRole("list", { name: "Batches" }).getByRole("listitem");

async function upload(name, lines) {
  const chooser = page.waitForEvent("filechooser");
  await button(page, "Upload a file").click();
  const buffer = Buffer.from(lines.map((line) => JSON.stringify(line)).join("\n"));
  await (await chooser).setFiles({ name, mimeType: "application/jsonl", buffer });
}

async function downloaded(name) {
  const download = page.waitForEvent("download");
  await batches.first().getByRole("button", { name }).click();
  const text = await readFile(await (await download).path(), "utf8");
  return text.trim().split("\n").map((line) => JSON.parse(line));
}

assert.equal(await page.getByRole("combobox", { name: "Route" }).inputValue(), "/v1/chat/completions");

// An example from the first click to its answers.
await button(page, "Send an example").click();
await batches.first().getByText("completed").waitFor();
await batches.first().getByText("40 of 40 lines").waitFor();
const answers = await downloaded("Download answers");
assert.equal(answers.length, 40);
assert.ok(answers.every(({ response }) => response.status_code === 200));
await assertAccessible(page);

// Lines that a route refuses are in the errors; a file that is no JSON fails with the line.
const line = (number, body) => ({
  custom_id: `${number}`,
  method: "POST",
  url: "/v1/chat/completions",
  body: { model: "storyteller", messages: [{ role: "user", content: "Hi" }], ...body },
});
await upload("mixed.jsonl", [line(1, { max_tokens: 2 }), line(2, { max_tokens: 0 })]);
await batches.first().getByText("mixed.jsonl").waitFor();
await batches.first().getByText("completed").waitFor();
await batches.first().getByText("1 failed").waitFor();
assert.equal((await downloaded("Download errors"))[0].response.status_code, 400);
await upload("broken.jsonl", [line(1), "no object"]);
await batches.first().getByText("broken.jsonl").waitFor();
await batches.first().getByText(/Line 2: /).waitFor();
await assertAccessible(page);

// A long batch is cancelled; what was answered so far stays.
await upload("long.jsonl", Array.from({ length: 400 }, (_, number) => line(number, { max_tokens: 60, ignore_eos: true })));
await batches.first().getByText("long.jsonl").waitFor();
await batches.first().getByText("in progress").waitFor();
await button(page, "Cancel batch").click();
await batches.first().getByText("cancelled").waitFor();

await page.setViewportSize({ width: 390, height: 780 });
assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
await page.reload();
await batches.nth(3).waitFor();
await close(page);
await end();
