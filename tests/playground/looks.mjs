// Accessibility of each view in light, dark and on a phone; the keyboard; a model without template.

import assert from "node:assert/strict";
import { answered, ask, assertAccessible, button, close, end, message, open } from "./browser.mjs";

const TOKENS = "/#/tokens?prompt=Once%20upon%20a%20time&temperature=0.8&top_p=0.9&max_tokens=8&seed=1";
const LOOKS = [
  { colorScheme: "light" },
  { colorScheme: "dark" },
  { colorScheme: "dark", viewport: { width: 390, height: 780 }, isMobile: true, hasTouch: true },
];

async function fits(page) {
  const { scrollWidth, innerWidth } = await page.evaluate(() => ({
    scrollWidth: document.documentElement.scrollWidth,
    innerWidth: globalThis.innerWidth,
  }));
  assert.ok(scrollWidth <= innerWidth, `${scrollWidth} > ${innerWidth}`);
}

for (const look of LOOKS) {
  const page = await open("/", look);
  await page.getByRole("heading", { name: "Ask storyteller" }).waitFor();
  await assertAccessible(page);
  if (look.isMobile) await button(page, "Settings").click();
  await page.getByRole("slider", { name: "Temperature" }).fill("0");
  if (look.isMobile) await button(page, "Settings").click();
  await ask(page, "What is the capital of France?");
  await answered(page);
  await assertAccessible(page);
  await fits(page);
  for (const name of look.isMobile ? ["Send", "Regenerate"] : ["Send", "Regenerate", "New chat"]) {
    assert.ok(await button(page, name).isVisible(), name);
  }
  await page.goto(page.url().split("#")[0] + TOKENS.slice(1));
  await page.getByRole("list", { name: "Tokens of the prompt" }).getByRole("listitem").first().waitFor();
  await button(page, "Continue the text").click();
  await page.getByText("Perplexity").waitFor();
  await button(page, "Continue the text").waitFor();
  await page.locator(".token").nth(2).click();
  await page.locator(".alternatives").waitFor();
  await assertAccessible(page);
  await fits(page);
  await close(page);
}

// By keyboard alone: the box has the focus, Enter sends, Tab leads to the answer's buttons.
const page = await open("/");
await page.waitForFunction(() => document.activeElement?.getAttribute("aria-label") === "Message");
await button(page, "What is the capital of France?").waitFor();
await page.keyboard.type("What is the capital of Italy?");
await page.keyboard.press("Enter");
await answered(page);
for (let step = 0; step < 12; step += 1) {
  await page.keyboard.press("Shift+Tab");
  const name = await page.evaluate(() => document.activeElement.textContent);
  if (name === "Regenerate") break;
}
await page.keyboard.press("Enter");
await page.getByText("2 / 2").waitFor();
await answered(page);
await page.keyboard.press("Control+Shift+O");
await page.getByRole("heading", { name: "Ask storyteller" }).waitFor();
assert.equal(await message(page).count(), 1);

// The theme outlives a reload.
const back = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
const light = await back();
await button(page, "Theme: System").click();
await button(page, "Theme: Light").click();
await button(page, "Theme: Dark").waitFor();
await page.reload();
await button(page, "Theme: Dark").waitFor();
assert.notEqual(await back(), light);
await close(page);
await end();
