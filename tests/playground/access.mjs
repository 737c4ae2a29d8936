// A server with AUTH=api_key: the page asks for a key, tells of a wrong one, and keeps it in its tab.

import assert from "node:assert/strict";
import { answered, answers, ask, button, close, end, open } from "./browser.mjs";

const page = await open("/", { expected: /status of 401/ });
const dialog = page.getByRole("dialog", { name: "API key" });
await dialog.waitFor();
assert.equal(await page.getByRole("alert").count(), 0);
await button(page, "Cancel").click();
assert.ok(await button(page, "Send").isDisabled());
await button(page, "Key").click();
await dialog.waitFor();
const box = dialog.getByRole("textbox", { name: "API key" }).or(dialog.getByLabel("API key")).last();
await box.fill("llmk_000000000000_wrong");
await button(page, "Use this key").click();
await page.getByRole("alert").filter({ hasText: "does not accept this key" }).waitFor();
await box.fill(process.env.KEY);
await button(page, "Use this key").click();
await dialog.waitFor({ state: "detached" });
await page.getByRole("spinbutton", { name: "New tokens at most" }).fill("5");
await ask(page, "the cat");
await answered(page);
await page.reload();
await answers(page).first().waitFor();
assert.equal(await dialog.count(), 0, "the tab keeps the key");
const stored = await page.evaluate(() => [JSON.stringify(sessionStorage), JSON.stringify(localStorage)]);
assert.ok(stored[0].includes(process.env.KEY) && !stored[1].includes(process.env.KEY));

// A key that is revoked meanwhile: the dialog comes again, and the question is kept.
await page.evaluate(() => sessionStorage.setItem("playground-key", "llmk_000000000000_revoked"));
await ask(page, "the hat");
await dialog.waitFor();
await dialog.getByRole("alert").waitFor();
assert.ok((await page.getByRole("article", { name: "Question" }).allInnerTexts()).some((text) => text.includes("the hat")));

await close(page);
await end();
