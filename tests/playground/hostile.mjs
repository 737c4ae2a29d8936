// Text of a model is never code: scripts, handlers, links, images, styles, long lines.

import assert from "node:assert/strict";
import { answerWith, answered, answers, ask, button, chunk, close, end, events, open } from "./browser.mjs";

const TEXTS = [
  "<script>globalThis.hacked = 1</script><img src=x onerror='hacked=1'><svg onload='hacked=1'></svg>",
  "[a](javascript:hacked=1) [b](JaVaScRiPt&#58;hacked=1) [c](data:text/html,<script>hacked=1</script>) [d](vbscript:x)",
  "![i](https://attacker.example/x.png) ![j](javascript:hacked=1) <a href='javascript:hacked=1'>x</a>",
  "<style>body{display:none}</style><iframe srcdoc='<script>parent.hacked=1</script>'></iframe><form action=x><input></form>",
  "```html\n<script>hacked=1</script>\n```\n\n```\"onload=hacked=1\ncode\n```",
  "<math><mtext><table><mglyph><style><!--</style><img title=\"--&gt;&lt;img src=1 onerror=hacked=1&gt;\">",
  "[x]: javascript:hacked=1\n\n[x] <https://example.com/\"onmouseover=\"hacked=1>",
];
const page = await open("/");
const asked = [];
page.on("request", (request) => asked.push(request.url()));
for (const text of TEXTS) {
  await page.unroute("**/v1/chat/completions");
  const parts = text.match(/[^]{1,7}/g).map((part) => chunk(part));
  await answerWith(page, "/v1/chat/completions", events(...parts, chunk("", "stop"), "[DONE]"));
  await button(page, "New chat").click();
  await ask(page, text);
  await answered(page);
  const found = await page.evaluate(() => ({
    hacked: globalThis.hacked,
    elements: [...document.querySelectorAll(".messages :is(script, img, svg, iframe, style, form, input, math, object)")].length,
    handlers: [...document.querySelectorAll(".messages *")].flatMap((element) =>
      [...element.attributes].filter(({ name }) => name.startsWith("on") || name === "style").map(({ name }) => name),
    ),
    links: [...document.querySelectorAll(".messages .text a[href]")].map(({ protocol, target, rel }) => [protocol, target, rel]),
  }));
  assert.equal(found.hacked, undefined, text);
  assert.equal(found.elements, 0, text);
  assert.deepEqual(found.handlers, [], text);
  for (const link of found.links) assert.deepEqual(link, ["https:", "_blank", "noopener noreferrer"], text);
}
assert.ok(asked.every((url) => url.startsWith(new URL("/", page.url()).href) || url.startsWith("data:")));

// Markdown of good will looks as it should; code has a button to copy it.
const GOOD = "# Title\n\nSome **bold** text, `code` and a [link](https://example.com).\n\n1. one\n\n   more\n2. two\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```python\nprint(1)\n\nprint(2)\n```\n\nend";
await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
await page.unroute("**/v1/chat/completions");
await answerWith(page, "/v1/chat/completions", events(chunk(GOOD), chunk("", "stop"), "[DONE]"));
await button(page, "New chat").click();
await ask(page, "Hello");
await answered(page);
const text = answers(page).locator(".text");
assert.deepEqual(
  await text.evaluate((element) => ["h1", "strong", "li", "td", "pre", "ol"].map((name) => element.querySelectorAll(name).length)),
  [1, 1, 2, 2, 1, 1],
);
await button(page, "Copy code").click();
await button(page, "Copied").waitFor();
assert.equal(await page.evaluate(() => navigator.clipboard.readText()), "print(1)\n\nprint(2)\n");

// 200 KB of Markdown and a line of 1 MB are shown, and the page still answers.
const long = "Some *words* of a **long** answer with `code`.\n\n".repeat(4200);
for (const huge of [long, "x".repeat(2 ** 20)]) {
  await page.unroute("**/v1/chat/completions");
  const parts = huge.match(/[^]{1,8192}/g).map((part) => chunk(part));
  await answerWith(page, "/v1/chat/completions", events(...parts, chunk("", "stop"), "[DONE]"));
  await button(page, "New chat").click();
  await ask(page, "Hello");
  await answered(page);
  assert.ok((await answers(page).locator(".text").evaluate((element) => element.textContent.length)) > 150_000);
}

await close(page);
await end();
