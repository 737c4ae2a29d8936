// The view of the engine: sequences share steps, and a cancelled request leaves them.

import assert from "node:assert/strict";
import { assertAccessible, button, close, end, open } from "./browser.mjs";

const page = await open("/#/engine", { colorScheme: "dark" });
await page.getByText("No step yet").waitFor();
await assertAccessible(page);
// The largest number that any column has shown: a slow browser may look when it is out of view.
await page.evaluate(() => {
  globalThis.largest = {};
  const record = () => {
    for (const { dataset } of document.querySelectorAll("svg g")) {
      for (const [name, value] of Object.entries(dataset)) {
        globalThis.largest[name] = Math.max(globalThis.largest[name] ?? 0, Number(value));
      }
    }
  };
  new MutationObserver(record).observe(document, { attributes: true, childList: true, subtree: true });
});
const shown = (attribute, least) =>
  page.waitForFunction(([name, least]) => globalThis.largest[name] >= least, [attribute, least]);
const sequences = page.locator(".sequences li");

// Eight sequences in one step; prompts are computed beside answers.
await button(page, "Send 8").click();
await shown("prefill", 8);
await shown("decoding", 8);
await sequences.nth(7).getByText(/first after \d+ ms/).waitFor();
await assertAccessible(page);

// A cancelled request disappears from the engine.
await button(page, "Cancel").click();
await page.locator(".engine-figures div", { hasText: "running" }).getByText("0", { exact: true }).waitFor();
assert.ok((await sequences.allInnerTexts()).some((text) => text.includes("cancelled")));
await button(page, "Send 1").click();
await sequences.getByText("done").waitFor();
assert.equal(await sequences.count(), 1);

await page.setViewportSize({ width: 390, height: 780 });
await assertAccessible(page);
assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
await close(page);
await end();
