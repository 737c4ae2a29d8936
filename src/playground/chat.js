// The view of chats: their list, the messages, the box for the next one, and the settings.

import { html, useEffect, useLayoutEffect, useRef, useState } from "./vendor/preact.js";
import {
  conversation,
  deleteChat,
  exportChats,
  importChats,
  newChat,
  openChat,
  send,
  setParameter,
  setSchema,
  setSystem,
  setTools,
  stop,
} from "./conversation.js";
import { shownPath } from "./chat_tree.js";
import { Message } from "./message.js";
import { ParameterPanel, changedOf } from "./parameters.js";
import { server } from "./server.js";
import { useStore } from "./store.js";

const NEAR_END = 80; // pixels from the end within which new text is followed
const EXAMPLES = [
  "What is the capital of France?",
  "Tell me a story about a brave knight.",
  "What is the opposite of hot?",
];

export function ChatView() {
  const { chat, running, error, notice } = useStore(conversation);
  const { hasTemplate, model } = useStore(server);
  const [panel, setPanel] = useState(""); // of a narrow window: "chats", "settings" or neither
  const toggle = (name) => setPanel(panel === name ? "" : name);
  return html`<div class=${`chat-view ${panel && `show-${panel}`}`}>
    <div class="panel-buttons">
      <button type="button" aria-expanded=${panel === "chats"} onClick=${() => toggle("chats")}>Chats</button>
      <button type="button" aria-expanded=${panel === "settings"} onClick=${() => toggle("settings")}>Settings</button>
    </div>
    <${ChatList} onOpen=${() => setPanel("")} />
    <section class="conversation" aria-label="Conversation">
      <h1 class="visually-hidden">Chat with ${model || "the model"}</h1>
      <${Messages} chat=${chat} running=${running} />
      ${error && html`<p class="error" role="alert">${error}</p>`}
      <p class="visually-hidden" role="status">${notice}</p>
      ${hasTemplate ? html`<${Composer} running=${running} />` : html`<${NoTemplate} model=${model} />`}
    </section>
    <${ChatSettings} chat=${chat} />
  </div>`;
}

function ChatList({ onOpen }) {
  const { chats, chat } = conversation.state;
  const file = useRef();
  const open = (one) => {
    openChat(one);
    onOpen();
  };
  const load = (event) => {
    const [chosen] = event.target.files;
    if (chosen) importChats(chosen);
    event.target.value = "";
  };
  return html`<nav class="chats" aria-label="Chats">
    <button type="button" class="primary" onClick=${() => { newChat(); onOpen(); }}>New chat</button>
    <ul>
      ${chats.map(
        (one) => html`<li key=${one.id} class=${one === chat ? "current" : ""}>
          <button type="button" class="open" aria-current=${one === chat} onClick=${() => open(one)}>
            ${one.title || "Untitled"}
          </button>
          <button
            type="button"
            class="delete"
            aria-label=${`Delete the chat: ${one.title || "Untitled"}`}
            onClick=${() => confirm("Delete this chat for good?") && deleteChat(one)}
          >
            ×
          </button>
        </li>`,
      )}
    </ul>
    <div class="chats-foot">
      <button type="button" disabled=${!chats.length} onClick=${() => exportChats(chats)}>Export</button>
      <button type="button" onClick=${() => file.current.click()}>Import</button>
      <input ref=${file} type="file" accept="application/json,.json" aria-label="File of chats" hidden onChange=${load} />
      <p>Chats are kept in this browser alone.</p>
    </div>
  </nav>`;
}

function Messages({ chat, running }) {
  const { model, contextLength } = server.state;
  const list = useRef();
  const isFollowing = useRef(true);
  const path = shownPath(chat);
  useLayoutEffect(() => {
    if (isFollowing.current) list.current.scrollTop = list.current.scrollHeight;
  });
  useEffect(() => {
    isFollowing.current = true;
  }, [chat, running]);
  const watch = ({ target }) => {
    isFollowing.current = target.scrollHeight - target.scrollTop - target.clientHeight < NEAR_END;
  };
  return html`<div class="messages" ref=${list} tabindex="0" role="region" aria-label="Messages" onScroll=${watch}>
    ${path.length === 0 && html`<${Welcome} model=${model} />`}
    ${path.map(
      (message, index) => html`<${Message}
        key=${`${chat.id}-${message.id}`}
        message=${message}
        isLast=${index === path.length - 1}
        contextLength=${contextLength}
      />`,
    )}
  </div>`;
}

function Welcome({ model }) {
  if (!server.state.hasTemplate) return null;
  return html`<div class="welcome">
    <h2>Ask ${model || "the model"}</h2>
    <p>The answer appears as it is computed, token by token.</p>
    <ul>
      ${EXAMPLES.map(
        (text) => html`<li key=${text}><button type="button" disabled=${!model} onClick=${() => send(text)}>${text}</button></li>`,
      )}
    </ul>
    <p>To see why a token was chosen, open <a href="#/tokens">Prompt and tokens</a>.</p>
  </div>`;
}

function Composer({ running }) {
  const [text, setText] = useState("");
  const box = useRef();
  useEffect(() => box.current.focus(), []);
  useLayoutEffect(() => {
    box.current.style.height = "auto";
    box.current.style.height = `${Math.min(240, box.current.scrollHeight + 2)}px`;
  }, [text]);
  const canSend = text.trim() !== "" && running === null && server.state.model !== "";
  const submit = (event) => {
    event?.preventDefault();
    if (!canSend) return;
    setText("");
    send(text);
  };
  const press = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
    if (event.key === "Escape") stop();
  };
  return html`<form class="composer" onSubmit=${submit}>
    <textarea
      ref=${box}
      aria-label="Message"
      rows="1"
      placeholder="Ask something"
      value=${text}
      onInput=${(event) => setText(event.target.value)}
      onKeyDown=${press}
    />
    ${running
      ? html`<button type="button" class="primary stop" onClick=${stop}>Stop</button>`
      : html`<button type="submit" class="primary" disabled=${!canSend}>Send</button>`}
    <p class="keys">Enter sends, Shift and Enter begin a line, Escape stops.</p>
  </form>`;
}

function NoTemplate({ model }) {
  return html`<div class="no-template">
    <h2>${model} cannot chat</h2>
    <p>
      It has no chat template, so it does not know questions from answers. It continues texts:${" "}
      <a href="#/tokens">open Prompt</a>.
    </p>
  </div>`;
}

function ChatSettings({ chat }) {
  const numChanged = Object.keys(changedOf(chat.parameters)).length;
  return html`<aside class="settings" aria-label="Settings">
    <h2>System prompt</h2>
    <textarea
      aria-label="System prompt"
      rows="4"
      placeholder="Instructions for the whole chat"
      value=${chat.system}
      onInput=${(event) => setSystem(event.target.value)}
    />
    <h2>Parameters ${numChanged > 0 && html`<span class="count">${numChanged} changed</span>`}</h2>
    <${ParameterPanel} id="chat" values=${chat.parameters} onChange=${setParameter} />
    <h2>Structured output</h2>
    <textarea
      aria-label="JSON schema"
      class="code-box"
      rows="4"
      spellcheck="false"
      placeholder="A JSON schema that every answer has to fit"
      value=${chat.schema}
      onInput=${(event) => setSchema(event.target.value)}
    />
    <h2>Tools</h2>
    <textarea
      aria-label="Tools"
      class="code-box"
      rows="4"
      spellcheck="false"
      placeholder='[{"type": "function", "function": {"name": …}}]'
      value=${chat.tools ?? ""}
      onInput=${(event) => setTools(event.target.value)}
    />
  </aside>`;
}
