// Writes the screenshot of README.md: the view of prompts and tokens.

import { end, open } from "./browser.mjs";

const query = new URLSearchParams({ prompt: "Once upon a time", temperature: "0.8", top_p: "0.95", max_tokens: "70", seed: "2" });
const page = await open(`/#/tokens?${query}`, { viewport: { width: 1120, height: 720 } });
await page.getByRole("list", { name: "Tokens of the prompt" }).getByRole("listitem").first().waitFor();
await page.getByRole("button", { name: "Continue the text" }).click();
await page.getByText("Perplexity").waitFor();
await page.getByRole("button", { name: "Continue the text" }).waitFor();
await page.locator(".token", { hasText: "quiet" }).first().hover();
await page.waitForTimeout(200);
await page.screenshot({ path: process.env.SCREENSHOT });
await end();
