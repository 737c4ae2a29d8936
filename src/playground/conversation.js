// Chats and the answer in progress. It goes on while another view is shown.

import { ServerError, postJson, stream } from "./api.js";
import {
  addMessage,
  createChat,
  formatOf,
  pathTo,
  readChat,
  select,
  shownPath,
  siblings,
  toApi,
  toolsOf,
} from "./chat_tree.js";
import { loadChats, removeChat, saveChat } from "./chat_storage.js";
import { changedOf } from "./parameters.js";
import { askForKey, server } from "./server.js";
import { createStore } from "./store.js";

const SAVE_INTERVAL = 1000; // ms between saves of an answer in progress
const LAST_CHAT = "playground-chat";

export const conversation = createStore({
  chats: [], // newest first
  chat: createChat(),
  running: null, // { message, controller, numChunks, startedAt, firstAt }
  error: "",
  notice: "", // for screen readers
});
const { state } = conversation;

export async function openStoredChats() {
  const chats = await loadChats().catch(() => []);
  state.chats = chats.sort((a, b) => b.updated - a.updated);
  // The page was left while these were written.
  for (const message of chats.flatMap((chat) => Object.values(chat.messages))) {
    if (message.role === "assistant") message.finish ||= "broken";
  }
  const last = sessionStorage.getItem(LAST_CHAT);
  state.chat = state.chats.find((chat) => chat.id === last) ?? state.chat;
  conversation.changed();
}

export function newChat() {
  openChat(createChat(state.chat));
}

export function openChat(chat) {
  state.chat = chat;
  state.error = "";
  sessionStorage.setItem(LAST_CHAT, chat.id);
  conversation.changed();
}

export async function deleteChat(chat) {
  if (state.running && chat.messages[state.running.message.id] === state.running.message) stop();
  state.chats = state.chats.filter((other) => other !== chat);
  await removeChat(chat.id);
  if (state.chat === chat) newChat();
  conversation.changed();
}

export function setSystem(text) {
  state.chat.system = text;
  keep(state.chat);
}

export function setSchema(text) {
  state.chat.schema = text;
  keep(state.chat);
}

export function setTools(text) {
  state.chat.tools = text;
  keep(state.chat);
}

export function setParameter(name, value) {
  state.chat.parameters[name] = value;
  keep(state.chat);
}

export function send(text) {
  const path = shownPath(state.chat);
  const message = addMessage(state.chat, path.at(-1)?.id ?? null, "user", text);
  return answer(message);
}

// Sends the results of an answer's calls, in their order; the model goes on with them.
export function sendResults(message, results) {
  let last = message;
  message.calls.forEach(({ id, name }, index) => {
    last = addMessage(state.chat, last.id, "tool", results[index] ?? "");
    Object.assign(last, { call: id, tool: name });
  });
  return answer(last);
}

export function regenerate(message) {
  return answer(state.chat.messages[message.parent]);
}

// An edited question gets a new answer; an edited answer is there to go on from.
export function edit(message, text) {
  const edited = addMessage(state.chat, message.parent, message.role, text);
  if (message.role === "user") return answer(edited);
  edited.finish = "edited";
  keep(state.chat);
  return undefined;
}

export function showSibling(message, step) {
  const all = siblings(state.chat, message);
  select(state.chat, all[all.indexOf(message) + step]);
  keep(state.chat);
}

export function stop() {
  state.running?.controller.abort();
}

function answer(question) {
  const { chat } = state;
  let format;
  let part = "JSON schema";
  try {
    format = formatOf(chat);
    part = "list of tools";
    Object.assign(format, toolsOf(chat));
  } catch (error) {
    state.error = `The ${part} in the settings is not valid JSON. ${error.message}`;
    keep(chat);
    return undefined;
  }
  const message = addMessage(chat, question.id, "assistant", "");
  message.model = server.state.model;
  const body = {
    model: server.state.model,
    messages: toApi(chat, pathTo(chat, question)),
    ...changedOf(chat.parameters),
    ...format,
    timings: true,
  };
  return generate(chat, message, (signal) => stream("v1/chat/completions", body, signal));
}

// Continues a cut answer: the tokens of the conversation and of the text so far are the prompt.
export function continueAnswer(message) {
  const { chat } = state;
  const { model } = server.state;
  const messages = toApi(chat, pathTo(chat, message).slice(0, -1));
  return generate(chat, message, async function* open(signal) {
    const start = await postJson("tokenize", { model, messages }, signal);
    const text = { model, prompt: message.content, add_special_tokens: false };
    const end = message.content ? await postJson("tokenize", text, signal) : { tokens: [] };
    const prompt = [...start.tokens, ...end.tokens];
    const body = {
      max_tokens: Math.max(1, start.max_model_len - prompt.length),
      ...changedOf(chat.parameters),
      model,
      prompt,
      timings: true,
    };
    yield* stream("v1/completions", body, signal);
  });
}

async function generate(chat, message, open) {
  const controller = new AbortController();
  const running = { message, controller, numChunks: 0, startedAt: performance.now(), firstAt: 0 };
  Object.assign(state, { running, error: "", notice: "The answer is being written." });
  message.finish = "";
  keep(chat);
  let savedAt = performance.now();
  try {
    for await (const event of open(controller.signal)) {
      read(event, message, running);
      if (performance.now() - savedAt > SAVE_INTERVAL) {
        savedAt = performance.now();
        save(chat);
      }
      conversation.changedInStream();
    }
    state.notice = "The answer is complete.";
  } catch (error) {
    fail(error, message);
  } finally {
    state.running = null;
    const isEmpty = !message.content && !message.thought && !message.calls;
    if (isEmpty && !message.finish) dropMessage(chat, message);
    keep(chat);
  }
}

function read(event, message, running) {
  const [choice] = event.choices;
  const text = choice?.delta?.content ?? choice?.text ?? "";
  const thought = choice?.delta?.reasoning_content ?? choice?.delta?.reasoning ?? "";
  const calls = choice?.delta?.tool_calls ?? [];
  if (text || thought || calls.length) {
    running.firstAt ||= performance.now();
    running.numChunks += 1;
    message.content += text;
    if (thought) message.thought = (message.thought ?? "") + thought;
    for (const call of calls) addToCall(message, call);
  }
  if (choice?.finish_reason) message.finish = choice.finish_reason;
  if (event.usage) {
    message.usage = { prompt: event.usage.prompt_tokens, answer: event.usage.completion_tokens };
    message.usage.cached = event.usage.prompt_tokens_details?.cached_tokens ?? 0;
    message.timeToFirst = running.firstAt - running.startedAt;
    message.speed = event.timings?.predicted_per_second ?? 0;
  }
}

// A call comes in pieces: its id and name first, then its arguments.
function addToCall(message, { index, id, function: called }) {
  message.calls ??= [];
  message.calls[index] ??= { id, name: "", arguments: "" };
  message.calls[index].name += called?.name ?? "";
  message.calls[index].arguments += called?.arguments ?? "";
}

function fail(error, message) {
  if (error.name === "AbortError") {
    message.finish = "stopped";
    state.notice = "The answer was stopped.";
    return;
  }
  if (!(error instanceof ServerError)) {
    state.error = "The playground failed on this answer. The text so far is kept.";
    console.error(error);
    return;
  }
  if (message.content || message.thought || message.calls) message.finish = "broken";
  if (error.status === 401) askForKey(error);
  state.error = error.message;
}

function dropMessage(chat, message) {
  delete chat.messages[message.id];
  const others = siblings(chat, message);
  if (others.length) select(chat, others.at(-1));
  else delete chat.selected[message.parent ?? "root"];
}

function keep(chat) {
  chat.updated = Date.now();
  if (Object.keys(chat.messages).length && !state.chats.includes(chat)) {
    state.chats.unshift(chat);
    sessionStorage.setItem(LAST_CHAT, chat.id);
  }
  save(chat);
  conversation.changed();
}

function save(chat) {
  if (state.chats.includes(chat)) saveChat(structuredClone(chat)).catch(reportStorage);
}

function reportStorage() {
  state.error = "The browser did not store this chat. Export it before you leave the page.";
  conversation.changed();
}

export function exportChats(chats) {
  const text = JSON.stringify({ format: "playground-chats", version: 1, chats }, null, 1);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = `chats-${new Date().toISOString().slice(0, 10)}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

export async function importChats(file) {
  try {
    const { chats } = JSON.parse(await file.text());
    const read = chats.map(readChat);
    for (const chat of read) await saveChat(chat);
    state.chats = [...read, ...state.chats];
    if (read.length) openChat(read[0]);
  } catch {
    state.error = "This file has no chats that can be read. Choose one that was exported here.";
  }
  conversation.changed();
}
