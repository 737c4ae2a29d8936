// The page: header, views by the URL's hash, theme, and the dialog for a key.

import { html, render, useEffect, useRef, useState } from "./vendor/preact.js";
import { getKey, setKey } from "./api.js";
import { ChatView } from "./chat.js";
import { conversation, newChat, openStoredChats } from "./conversation.js";
import { askForKey, connect, server } from "./server.js";
import { useStore } from "./store.js";

const THEME = "playground-theme";
const THEMES = { "": "System", light: "Light", dark: "Dark" };

const viewOf = (hash) => (hash.startsWith("#/tokens") ? "tokens" : "chat");

function App() {
  const { models, model, isLoading, asksForKey, hasKeys, error } = useStore(server);
  const [view, setView] = useState(viewOf(location.hash));
  useEffect(() => {
    const change = () => setView(viewOf(location.hash));
    addEventListener("hashchange", change);
    return () => removeEventListener("hashchange", change);
  }, []);
  useEffect(() => {
    document.title = view === "tokens" ? "Prompt and tokens · Playground" : "Chat · Playground";
  }, [view]);
  return html`
    <header class="top">
      <a class="brand" href="#/chat"><img src=${new URL("icon.svg", import.meta.url).href} alt="" width="24" height="24" />Playground</a>
      <nav aria-label="Views">
        <a href="#/chat" aria-current=${view === "chat" ? "page" : undefined}>Chat</a>
        <a href="#/tokens" aria-current=${view === "tokens" ? "page" : undefined}>Prompt and tokens</a>
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
    <main>${view === "tokens" ? html`<${LazyTokens} />` : html`<${ChatView} />`}</main>
    ${asksForKey && html`<${KeyDialog} />`}
  `;
}

// The view's module loads when it is first shown.
function LazyTokens() {
  const [View, setView] = useState(null);
  useEffect(() => {
    import("./tokens.js").then(({ TokensView }) => setView(() => TokensView));
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
