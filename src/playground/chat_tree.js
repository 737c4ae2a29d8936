// A chat as a tree of messages. Edits and new answers are siblings; one path of the tree is shown.

// crypto.randomUUID is missing on pages that come over plain HTTP from another machine.
export const randomId = () =>
  [...crypto.getRandomValues(new Uint32Array(4))].map((part) => part.toString(36)).join("");

export function createChat(settings = {}) {
  const now = Date.now();
  return {
    id: randomId(),
    title: "",
    created: now,
    updated: now,
    system: settings.system ?? "",
    schema: settings.schema ?? "", // JSON schema of the answers, as text
    tools: settings.tools ?? "", // tools that answers may call: a JSON list in OpenAI's format
    parameters: { ...settings.parameters },
    count: 0, // of messages ever added; ids come from it
    messages: {}, // by id
    selected: {}, // id of a message, or "root", to the id of its shown child
  };
}

export function addMessage(chat, parent, role, content) {
  chat.count += 1;
  const message = { id: `m${chat.count}`, parent, role, content };
  chat.messages[message.id] = message;
  chat.selected[parent ?? "root"] = message.id;
  if (!chat.title && role === "user") chat.title = content.trim().slice(0, 80);
  chat.updated = Date.now();
  return message;
}

export function siblings(chat, message) {
  return Object.values(chat.messages).filter((other) => other.parent === message.parent);
}

// Returns the shown messages, from the first to the last.
export function shownPath(chat) {
  const path = [];
  let id = chat.selected.root;
  while (id && chat.messages[id]) {
    path.push(chat.messages[id]);
    id = chat.selected[id];
  }
  return path;
}

// Returns the messages that lead to one, itself included.
export function pathTo(chat, message) {
  const path = [];
  for (let at = message; at; at = chat.messages[at.parent]) path.unshift(at);
  return path;
}

export function select(chat, message) {
  chat.selected[message.parent ?? "root"] = message.id;
}

// Returns the conversation as the API reads it.
export function toApi(chat, path) {
  const system = chat.system.trim() ? [{ role: "system", content: chat.system }] : [];
  return [...system, ...path.map(toApiMessage)];
}

function toApiMessage({ role, content, thought, calls, call }) {
  const message = { role, content };
  if (role === "tool") message.tool_call_id = call;
  if (thought) message.reasoning_content = thought;
  if (calls?.length) {
    message.tool_calls = calls.map(({ id, name, arguments: text }) => ({
      id,
      type: "function",
      function: { name, arguments: text },
    }));
  }
  return message;
}

// Returns the field with the chat's tools; throws SyntaxError if they are no JSON.
export function toolsOf(chat) {
  return chat.tools?.trim() ? { tools: JSON.parse(chat.tools) } : {};
}

// Returns the field that makes answers fit the chat's schema; throws SyntaxError if it is no JSON.
export function formatOf(chat) {
  if (!chat.schema?.trim()) return {};
  const json_schema = { name: "answer", schema: JSON.parse(chat.schema) };
  return { response_format: { type: "json_schema", json_schema } };
}

// Checks a chat from a file, and returns a copy that holds known fields alone.
export function readChat(value) {
  const chat = createChat();
  if (typeof value?.messages !== "object" || value.messages === null) throw new TypeError();
  for (const message of Object.values(value.messages)) {
    const { id, parent, role, content } = message;
    // Parents come first, so there is no circle; an answer follows a message.
    const isKnown = parent === null ? role === "user" : Object.hasOwn(chat.messages, parent);
    if (!/^m\d+$/.test(id) || !isKnown || !["user", "assistant", "tool"].includes(role)) {
      throw new TypeError();
    }
    const read = { id, parent, role, content: String(content) };
    for (const name of ["finish", "thought", "call", "tool"]) {
      if (typeof message[name] === "string") read[name] = message[name];
    }
    if (Array.isArray(message.calls)) {
      read.calls = message.calls.map((one) => ({
        id: String(one.id),
        name: String(one.name),
        arguments: String(one.arguments),
      }));
    }
    chat.messages[id] = read;
    chat.selected[parent ?? "root"] = id;
    chat.count = Math.max(chat.count, Number(id.slice(1)));
  }
  for (const [parent, child] of Object.entries(value.selected ?? {})) {
    const isChild = Object.hasOwn(chat.messages, child) && (chat.messages[child].parent ?? "root") === parent;
    if (isChild) chat.selected[parent] = child;
  }
  chat.title = String(value.title ?? "").slice(0, 200);
  chat.system = String(value.system ?? "");
  chat.schema = String(value.schema ?? "");
  chat.tools = String(value.tools ?? "");
  chat.created = Number(value.created) || chat.created;
  for (const [name, set] of Object.entries(value.parameters ?? {})) {
    if (typeof set === "number" || typeof set === "string") chat.parameters[name] = set;
  }
  return chat;
}
