// The site: search, next and previous through all lessons, figures in both modes, no other server.

import assert from "node:assert/strict";
import { close as closePage, end, open, URL } from "../playground/browser.mjs";

const lessons = process.env.LESSONS.split(",");

async function close(page) {
  assert.deepEqual(page.foreign, []);
  await closePage(page);
}

const footer = (page, name) => page.locator(`a.md-footer__link--${name}`);

// Next and previous; test_site.py follows them through all lessons.
let page = await open("/lessons/index.html");
for (const name of lessons.slice(0, 2)) {
  await footer(page, "next").click();
  await page.waitForURL(`**/lessons/${name}/index.html`);
}
await footer(page, "prev").click();
await page.waitForURL(`**/lessons/${lessons[0]}/index.html`);
await close(page);

// Search.
page = await open("/index.html");
await page.keyboard.press("/");
await page.keyboard.type("KV cache");
const hit = page.locator("a", { hasText: /Why the KV cache/ }).filter({ visible: true }).last();
await hit.waitFor();
if (process.env.SHOTS) await page.screenshot({ path: `${process.env.SHOTS}/search.png` });
await close(page);

// A figure is shown in both modes, at the width of a phone too: nothing is wider than the page.
for (const colorScheme of ["light", "dark"]) {
  for (const width of [1280, 390]) {
    page = await open("/lessons/03-why-the-kv-cache/index.html", {
      colorScheme,
      viewport: { width, height: 800 },
    });
    const scheme = await page.locator("body").getAttribute("data-md-color-scheme");
    assert.equal(scheme, colorScheme === "dark" ? "slate" : "default");
    const figure = page.locator("article img[src$='.svg']");
    await figure.scrollIntoViewIfNeeded();
    const { drawn, box } = await figure.evaluate((image) => ({
      drawn: image.complete && image.naturalWidth > 0,
      box: image.getBoundingClientRect().toJSON(),
    }));
    assert.ok(drawn && box.left >= 0 && box.right <= width, JSON.stringify(box));
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(overflow <= width, `${overflow} pixels in ${width}`);
    if (process.env.SHOTS) await page.screenshot({ path: `${process.env.SHOTS}/lesson-${colorScheme}-${width}.png` });
    await close(page);
  }
}

// The switch of the page changes figures too, whatever the system prefers.
page = await open("/lessons/03-why-the-kv-cache/index.html", { colorScheme: "light" });
await page.getByTitle("Switch to light mode").filter({ visible: true }).click();
await page.getByTitle("Switch to dark mode").filter({ visible: true }).click();
const scheme = await page
  .locator("article img[src$='.svg']")
  .evaluate((image) => getComputedStyle(image).colorScheme);
assert.equal(scheme, "dark");
if (process.env.SHOTS) {
  await page.locator("article img[src$='.svg']").scrollIntoViewIfNeeded();
  await page.screenshot({ path: `${process.env.SHOTS}/switched.png` });
}
await close(page);

// Code is shown at the line that a lesson means.
page = await open("/lessons/03-why-the-kv-cache/index.html");
await page.locator("article a[href*='factory.py']").click();
await page.waitForURL("**/factory.py.html#__codelineno-*");
if (process.env.SHOTS) await page.screenshot({ path: `${process.env.SHOTS}/source.png` });
await close(page);

if (process.env.SHOTS) {
  for (const colorScheme of ["light", "dark"]) {
    page = await open("/index.html", { colorScheme });
    await page.screenshot({ path: `${process.env.SHOTS}/start-${colorScheme}.png` });
    await page.goto(`${URL}/lessons/index.html`);
    await page.screenshot({ path: `${process.env.SHOTS}/lessons-${colorScheme}.png` });
    await close(page);
  }
}

await end();
