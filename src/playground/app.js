// The page: header, views by the URL's hash, theme, and the dialog for a key.

import { html, render, useEffect, useRef, useState } from "./vendor/preact.js";
import { getKey, setKey } from "./api.js";
import { ChatView } from "./chat.js";
import { conversation, newChat, openStoredChats } from "./conversation.js";
import { askForKey, connect, server } from "./server.js";
import { useStore } from "./store.js";

const THEME = "playground-theme";
const THEMES = { "": "System", light: "Light", dark: "Dark" };

// Views beside the chat: their titles, and their modules, which load when they are first shown.
const VIEWS = {
  tokens: { title: "Prompt and tokens", load: () => import("./tokens.js") },
  compare: { title: "Side by side", load: () => import("./compare.js") },
  engine: { title: "Engine", load: () => import("./engine.js") },
  batches: { title: "Batches", load: () => import("./batches.js") },
};

const viewOf = (hash) => Object.keys(VIEWS).find((name) => hash.startsWith(`#/${name}`)) ?? "chat";

function App() {
  const { models, model, isLoading, asksForKey, hasKeys, error } = useStore(server);
  const [view, setView] = useState(viewOf(location.hash));
  useEffect(() => {
    const change = () => setView(viewOf(location.hash));
    addEventListener("hashchange", change);
    return () => removeEventListener("hashchange", change);
  }, []);
  useEffect(() => {
    document.title = `${VIEWS[view]?.title ?? "Chat"} · Playground`;
  }, [view]);
  return html`
    <header class="top">
      <a class="brand" href="#/chat"><img src=${new URL("icon.svg", import.meta.url).href} alt="" width="24" height="24" />Playground</a>
      <nav aria-label="Views">
        <a href="#/chat" aria-current=${view === "chat" ? "page" : undefined}>Chat</a>
        ${Object.entries(VIEWS).map(
          ([name, { title }]) => html`<a key=${name} href=${`#/${name}`} aria-current=${view === name ? "page" : undefined}>${title}</a>`,
        )}
        <a href="docs">API</a>
      </nav>
      <div class="top-controls">
        <select aria-label="Model" value=${model} onChange=${chooseModel} disabled=${!models.length}>
          ${models.map(({ id }) => html`<option key=${id} value=${id}>${id}</option>`)}
          ${!models.length && html`<option value="">no model yet</option>`}
        </select>
        ${(hasKeys || getKey()) && html`<button type="button" onClick=${() => askForKey()}>Key</button>`}
        <${ThemeButton} />
      </div>
    </header>
    ${isLoading && html`<p class="banner" role="status">The server is loading its model. This page goes on by itself.</p>`}
    ${error && html`<p class="banner error" role="alert">${error} <button type="button" onClick=${connect}>Try again</button></p>`}
    <main>${view in VIEWS ? html`<${LazyView} key=${view} load=${VIEWS[view].load} />` : html`<${ChatView} />`}</main>
    ${asksForKey && html`<${KeyDialog} />`}
  `;
}

function LazyView({ load }) {
  const [View, setView] = useState(null);
  useEffect(() => {
    load().then((module) => setView(() => module.default));
  }, []);
  return View ? html`<${View} />` : null;
}

function chooseModel(event) {
  server.state.model = event.target.value;
  server.changed();
}

function KeyDialog() {
  const { keyError } = server.state;
  const dialog = useRef();
  const [text, setText] = useState("");
  useEffect(() => dialog.current.showModal(), []);
  const close = () => {
    server.state.asksForKey = false;
    server.changed();
  };
  const submit = async (event) => {
    event.preventDefault();
    setKey(text.trim());
    conversation.state.error = "";
    await connect();
  };
  return html`<dialog ref=${dialog} aria-labelledby="key-title" onClose=${close}>
    <form onSubmit=${submit}>
      <h2 id="key-title">API key</h2>
      <p>This server answers to clients with a key. It stays in this tab and is forgotten with it.</p>
      ${keyError && getKey() && html`<p class="error" role="alert">${keyError}</p>`}
      <input type="password" aria-label="API key" autocomplete="off" value=${text} onInput=${(event) => setText(event.target.value)} />
      <div class="dialog-buttons">
        <button type="button" onClick=${close}>Cancel</button>
        <button type="submit" class="primary" disabled=${!text.trim()}>Use this key</button>
      </div>
    </form>
  </dialog>`;
}

function ThemeButton() {
  const [theme, setTheme] = useState(localStorage.getItem(THEME) ?? "");
  const choose = (name) => {
    document.documentElement.dataset.theme = name;
    localStorage.setItem(THEME, name);
    setTheme(name);
  };
  const names = Object.keys(THEMES);
  const next = names[(names.indexOf(theme) + 1) % names.length];
  return html`<button type="button" aria-label=${`Theme: ${THEMES[theme]}`} title=${`Colors: ${THEMES[theme]}. Change to ${THEMES[next]}.`} onClick=${() => choose(next)}>
    <span class="wide">Theme: </span>${THEMES[theme]}
  </button>`;
}

addEventListener("keydown", (event) => {
  if ((event.ctrlKey || event.metaKey) && event.shiftKey && event.key.toLowerCase() === "o") {
    event.preventDefault();
    location.hash = "#/chat";
    newChat();
  }
});

document.documentElement.dataset.theme = localStorage.getItem(THEME) ?? "";
render(html`<${App} />`, document.getElementById("app"));
openStoredChats();
connect();
