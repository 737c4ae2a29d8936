// Two answers side by side, streamed together; the URL holds both settings.

import assert from "node:assert/strict";
import { assertAccessible, button, close, end, open } from "./browser.mjs";

const QUERY = "prompt=What%20is%20the%20capital%20of%20France%3F&a.temperature=0&b.temperature=0&b.max_tokens=3";

for (const look of [{}, { colorScheme: "dark", viewport: { width: 390, height: 780 }, isMobile: true }]) {
  const page = await open(`/#/compare?${QUERY}`, look);
  const side = (name) => page.getByRole("region", { name: `Answer ${name}` });
  await button(page, "Answer both").click();
  await button(page, "Answer both").waitFor();
  assert.equal((await side("A").innerText()).trim(), "The capital of France is Paris.");
  assert.equal((await side("B").innerText()).trim(), "The capital of");
  await page.getByText("8 tokens · first after").waitFor();
  await assertAccessible(page);
  await close(page);
}

// Both streams run at once; one button stops them; a change is in the URL.
const page = await open("/#/compare");
const both = ["A", "B"].map((name) => page.getByRole("region", { name: `Answer ${name}` }));
await button(page, "Answer both").click();
await page.waitForFunction(() => [...document.querySelectorAll(".side-answer")].every((one) => one.innerText.length > 5));
await button(page, "Stop").click();
await button(page, "Answer both").waitFor();
const texts = await Promise.all(both.map((one) => one.innerText()));
await page.waitForTimeout(300);
assert.deepEqual(await Promise.all(both.map((one) => one.innerText())), texts);
assert.equal(await page.getByText("stopped").count(), 2);
await page.getByRole("region", { name: "Side B" }).getByRole("slider", { name: "Temperature" }).fill("0.3");
await page.waitForFunction(() => location.hash.includes("b.temperature=0.3"));
await page.reload();
assert.equal(await page.getByRole("region", { name: "Side B" }).getByRole("slider", { name: "Temperature" }).inputValue(), "0.3");
await close(page);
await end();
