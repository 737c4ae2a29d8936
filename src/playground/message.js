// One message of a chat: its text, branches, and what can be done with it.

import { html, useEffect, useMemo, useRef, useState } from "./vendor/preact.js";
import {
  continueAnswer,
  conversation,
  edit,
  regenerate,
  sendResults,
  showSibling,
} from "./conversation.js";
import { siblings } from "./chat_tree.js";

// Ends after which an answer can be continued.
const FINISHES = {
  length: "cut at the maximum of tokens",
  stopped: "stopped",
  broken: "broken off",
  edited: "edited",
};

let markdown = null;
const loadMarkdown = () => import("./markdown.js").then((module) => (markdown = module));

export function Message({ message, isLast, contextLength }) {
  const { chat, running } = conversation.state;
  const [isEditing, setEditing] = useState(false);
  const isRunning = running?.message === message;
  const isBusy = running !== null;
  const isAnswer = message.role === "assistant";
  const name = { assistant: "Answer", user: "Question" }[message.role] ?? "Tool result";
  return html`<article class=${`message ${message.role}`} aria-label=${name} aria-busy=${isRunning}>
    ${isEditing
      ? html`<${Editor} message=${message} onEnd=${() => setEditing(false)} />`
      : html`${message.thought && html`<${Thought} message=${message} isRunning=${isRunning} />`}
          ${message.role === "tool" && html`<p class="hint">Result of <code>${message.tool}</code></p>`}
          <${Text} text=${message.content} isMarkdown=${isAnswer} isRunning=${isRunning} />`}
    ${message.calls && html`<${Calls} message=${message} isOpen=${isLast && !isBusy} />`}
    <footer>
      <${Branches} chat=${chat} message=${message} isBusy=${isBusy} />
      ${isAnswer && html`<${Figures} message=${message} running=${isRunning ? running : null} contextLength=${contextLength} />`}
      ${!isRunning &&
      !isEditing &&
      html`<span class="actions">
        <${CopyButton} text=${message.content} label="Copy" />
        <button type="button" disabled=${isBusy} onClick=${() => setEditing(true)}>Edit</button>
        ${isAnswer &&
        isLast &&
        html`<button type="button" disabled=${isBusy} onClick=${() => regenerate(message)}>Regenerate</button>`}
        ${isAnswer &&
        isLast &&
        message.finish in FINISHES &&
        !message.thought &&
        !message.calls &&
        html`<button type="button" disabled=${isBusy} onClick=${() => continueAnswer(message)}>Continue</button>`}
      </span>`}
    </footer>
  </article>`;
}

function Thought({ message, isRunning }) {
  const isThinking = isRunning && !message.content && !message.calls;
  return html`<details class="thought">
    <summary>${isThinking ? "Thinking …" : "Thought"}</summary>
    <div class="text plain">${message.thought}</div>
  </details>`;
}

function indented(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text; // still being written
  }
}

// Calls of tools; after the last answer the reader plays the tools.
function Calls({ message, isOpen }) {
  const [results, setResults] = useState([]);
  const submit = (event) => {
    event.preventDefault();
    sendResults(message, results);
  };
  const change = (index) => (event) => setResults(Object.assign([...results], { [index]: event.target.value }));
  return html`<form class="calls" onSubmit=${submit}>
    ${message.calls.map(
      ({ id, name, arguments: text }, index) => html`<section key=${id} aria-label=${`Call of ${name}`}>
        <p>Call of <code>${name}</code></p>
        <pre tabindex="0">${indented(text)}</pre>
        ${isOpen &&
        html`<textarea
          aria-label=${`Result of ${name}`}
          rows="2"
          placeholder="What the tool answers"
          value=${results[index] ?? ""}
          onInput=${change(index)}
        />`}
      </section>`,
    )}
    ${isOpen && html`<button type="submit" class="primary">Send results</button>`}
  </form>`;
}

function Text({ text, isMarkdown, isRunning }) {
  const [isReady, setReady] = useState(markdown !== null);
  useEffect(() => {
    if (isMarkdown && !markdown) loadMarkdown().then(() => setReady(true));
  }, [isMarkdown]);
  if (!isMarkdown || !isReady) return html`<div class="text plain">${text}</div>`;
  const blocks = markdown.splitBlocks(text);
  return html`<div class=${isRunning ? "text writing" : "text"}>
    ${blocks.map((block, index) => html`<${Block} key=${index} text=${block} />`)}
  </div>`;
}

function Block({ text }) {
  const safe = useMemo(() => markdown.toHtml(text), [text]);
  const element = useRef();
  useEffect(() => addCopyButtons(element.current), [safe]);
  // In pieces, as the layout of a line of 1 MB takes seconds.
  if (safe === null) {
    return text.match(/[^]{1,10000}/g).map((part, index) => html`<div key=${index} class="plain part">${part}</div>`);
  }
  return html`<div ref=${element} dangerouslySetInnerHTML=${{ __html: safe }} />`;
}

// Buttons are added by hand: the HTML of a block is not drawn by Preact.
function addCopyButtons(element) {
  for (const pre of element?.querySelectorAll("pre") ?? []) {
    pre.tabIndex = 0; // wide code is scrolled by keyboard
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy-code";
    button.textContent = "Copy code";
    button.onclick = async () => {
      await copy(pre.querySelector("code")?.textContent ?? "");
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy code"), 1500);
    };
    const frame = document.createElement("div");
    frame.className = "code";
    pre.replaceWith(frame);
    frame.append(pre, button);
  }
}

function Editor({ message, onEnd }) {
  const [text, setText] = useState(message.content);
  const box = useRef();
  useEffect(() => box.current.focus(), []);
  const save = () => {
    onEnd();
    if (text.trim() && text !== message.content) edit(message, text);
  };
  return html`<div class="editor">
    <textarea
      ref=${box}
      aria-label="Edited message"
      rows=${Math.min(12, text.split("\n").length + 1)}
      value=${text}
      onInput=${(event) => setText(event.target.value)}
      onKeyDown=${(event) => event.key === "Escape" && onEnd()}
    />
    <button type="button" class="primary" onClick=${save}>
      ${message.role === "user" ? "Save and answer" : "Save as a branch"}
    </button>
    <button type="button" onClick=${onEnd}>Cancel</button>
  </div>`;
}

function Branches({ chat, message, isBusy }) {
  const all = siblings(chat, message);
  if (all.length < 2) return null;
  const position = all.indexOf(message);
  const turn = (step, label, sign) =>
    html`<button
      type="button"
      aria-label=${label}
      disabled=${isBusy || !all[position + step]}
      onClick=${() => showSibling(message, step)}
    >
      ${sign}
    </button>`;
  return html`<span class="branches">
    ${turn(-1, "Previous branch", "‹")}
    <span>${position + 1} / ${all.length}</span>
    ${turn(1, "Next branch", "›")}
  </span>`;
}

function Figures({ message, running, contextLength }) {
  if (running) {
    const seconds = (performance.now() - running.firstAt) / 1000;
    const speed = running.numChunks > 4 ? ` · ${(running.numChunks / seconds).toFixed(0)} tokens/s` : "";
    return html`<span class="figures">${running.firstAt ? `writing${speed}` : "waiting for the first token"}</span>`;
  }
  const parts = [];
  const { usage } = message;
  if (usage) {
    const used = usage.prompt + usage.answer;
    parts.push(`${usage.answer} tokens`);
    if (message.speed) parts.push(`${message.speed.toFixed(0)} tokens/s`);
    parts.push(`first after ${message.timeToFirst.toFixed(0)} ms`);
    if (contextLength) parts.push(`context ${used} of ${contextLength}`);
    if (usage.cached) parts.push(`${usage.cached} from the prefix cache`);
  }
  if (message.finish in FINISHES) parts.push(FINISHES[message.finish]);
  return html`<span class="figures">${parts.join(" · ")}</span>`;
}

export function CopyButton({ text, label }) {
  const [isDone, setDone] = useState(false);
  const act = async () => {
    await copy(text);
    setDone(true);
    setTimeout(() => setDone(false), 1500);
  };
  return html`<button type="button" onClick=${act}>${isDone ? "Copied" : label}</button>`;
}

// navigator.clipboard is missing on pages that come over plain HTTP from another machine.
async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const box = document.createElement("textarea");
  box.value = text;
  document.body.append(box);
  box.select();
  document.execCommand("copy");
  return box.remove();
}
