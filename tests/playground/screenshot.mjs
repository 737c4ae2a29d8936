// Writes a screenshot of each view in light and dark into the folder SCREENSHOTS.

import { answered, ask, button, close, end, open } from "./browser.mjs";

const TOKENS = { prompt: "Once upon a time", temperature: "0.8", top_p: "0.95", max_tokens: "70", seed: "2" };
const COMPARE = {
  prompt: "Tell me a story about a dragon.",
  "a.temperature": "0.2",
  "a.seed": "1",
  "b.temperature": "1.2",
  "b.seed": "1",
};

const VIEWS = {
  async chat(page) {
    await page.getByRole("slider", { name: "Temperature" }).fill("0");
    await ask(page, "What is the capital of France?");
    await answered(page);
    await ask(page, "What is 12 + 7?");
    await answered(page);
  },
  async tokens(page) {
    await page.getByRole("list", { name: "Tokens of the prompt" }).getByRole("listitem").first().waitFor();
    await button(page, "Continue the text").click();
    await page.getByText("Perplexity").waitFor();
    await button(page, "Continue the text").waitFor();
    await page.locator(".token", { hasText: "quiet" }).first().hover();
  },
  async engine(page) {
    await button(page, "Send 8").click();
    await page.waitForTimeout(250);
  },
  async batches(page) {
    await button(page, "Send an example").click();
    await page.getByText("completed").first().waitFor();
    await button(page, "Send an example").click();
    await page.waitForTimeout(400);
  },
  async compare(page) {
    await button(page, "Answer both").click();
    await button(page, "Answer both").waitFor();
  },
};
const PATHS = {
  chat: "/",
  tokens: `/#/tokens?${new URLSearchParams(TOKENS)}`,
  engine: "/#/engine",
  batches: "/#/batches",
  compare: `/#/compare?${new URLSearchParams(COMPARE)}`,
};

for (const [name, show] of Object.entries(VIEWS)) {
  for (const colorScheme of ["light", "dark"]) {
    const page = await open(PATHS[name], { viewport: { width: 1120, height: 720 }, colorScheme });
    await show(page);
    await page.waitForTimeout(200);
    await page.screenshot({ path: `${process.env.SCREENSHOTS}/${name}-${colorScheme}.png` });
    await close(page);
  }
}
await end();
