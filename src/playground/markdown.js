// Markdown of a model as safe HTML. This module and its libraries load with the first message.

import { marked } from "./vendor/marked.js";
import "./vendor/purify.js";

const MIN_BLOCK = 1_000;
const MAX_BLOCK = 20_000; // characters; a longer block, such as a line of 1 MB, stays plain text

const purify = globalThis.DOMPurify;
const OPTIONS = {
  ALLOWED_TAGS: [
    ...["a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr"],
    ...["li", "ol", "p", "pre", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul"],
  ],
  ALLOWED_ATTR: ["href", "title", "start", "align", "class"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  RETURN_TRUSTED_TYPE: true,
};

purify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "A" && node.hasAttribute("href")) {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer");
  }
  // Classes name the language of a code block, and nothing else.
  if (node.hasAttribute("class") && !/^language-[\w+#.-]{1,30}$/.test(node.className)) {
    node.removeAttribute("class");
  }
});

// Raw HTML of a model is shown as text, and an image as a link: no foreign host learns of a chat.
marked.use({
  gfm: true,
  renderer: {
    html: ({ text }) => escape(text),
    image: ({ href, text }) => `<a href="${escape(href)}">${escape(text || "image")}</a>`,
  },
});

const escape = (text) =>
  text.replace(/[&<>"]/g, (sign) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[sign]);

// Returns HTML for `innerHTML`, or null for text that is better shown as it is.
export function toHtml(text) {
  if (text.length > MAX_BLOCK) return null;
  return purify.sanitize(marked.parse(text), OPTIONS);
}

// Splits a text into blocks that can be rendered one by one, so a stream renders its last one alone.
// A block ends with the first blank line after MIN_BLOCK characters that ends no list or code.
export function splitBlocks(text) {
  const blocks = [];
  let lines = [];
  let size = 0;
  let fence = null;
  const list = text.split("\n");
  list.forEach((line, index) => {
    lines.push(line);
    size += line.length + 1;
    const mark = /^ {0,3}(`{3,}|~{3,})/.exec(line)?.[1];
    if (fence === null) fence = mark ?? null;
    else if (mark?.startsWith(fence)) fence = null;
    if (size < MIN_BLOCK || fence !== null || line.trim() !== "") return;
    const next = list[index + 1] ?? "";
    // Indented lines and further items belong to the list before them.
    if (/^(\s|[-*+] |\d+[.)] |$)/.test(next)) return;
    blocks.push(lines.join("\n"));
    lines = [];
    size = 0;
  });
  if (lines.length) blocks.push(lines.join("\n"));
  return blocks;
}
