// A model without chat template: the page says so, and offers to continue a text.

import { assertAccessible, button, close, end, message, open } from "./browser.mjs";
import assert from "node:assert/strict";

const page = await open("/");
await page.getByRole("heading", { name: /cannot chat/ }).waitFor();
assert.equal(await message(page).count(), 0);
await assertAccessible(page);
await page.getByRole("link", { name: "open Prompt" }).click();
await page.getByRole("textbox", { name: "Prompt" }).fill("the cat");
await button(page, "Continue the text").click();
await page.getByText("cut at the maximum").waitFor();
await close(page);
await end();
