// Requests to the server: key, errors as sentences, Server-Sent Events.

const KEY = "playground-key";

export const getKey = () => sessionStorage.getItem(KEY) ?? "";
export const setKey = (value) =>
  value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY);

// An error with a sentence for the reader.
export class ServerError extends Error {
  constructor(sentence, status = 0) {
    super(sentence);
    this.status = status;
  }
}

const BROKEN = "The connection broke in the middle of the answer. The text so far is kept.";
const UNREACHABLE = "The server cannot be reached. Check that it is running, then try again.";

function sentence(status, message, retryAfter) {
  const again = retryAfter
    ? `Try again in ${retryAfter} ${retryAfter === "1" ? "second" : "seconds"}.`
    : "Try again in a moment.";
  switch (status) {
    case 401:
      return getKey()
        ? "The server does not accept this key. Enter another one."
        : "This server needs an API key.";
    case 403:
      return `This key is not allowed to do that. ${message}`;
    case 429:
      return `Too many requests for now. ${again}`;
    case 503:
      return `The server cannot take this request now. ${message} ${again}`;
    case 504:
      return "The server did not begin an answer in time. Try again, or ask for less.";
    case 500:
      return "The server failed on this request. Try again, or change the request.";
    default:
      return message || `The server answered with the status ${status}.`;
  }
}

function messageOf(body) {
  const message = body?.error?.message ?? body?.detail;
  return typeof message === "string" ? message : "";
}

async function request(path, options = {}) {
  const headers = { ...options.headers };
  if (getKey()) headers.Authorization = `Bearer ${getKey()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(UNREACHABLE);
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  const retryAfter = response.headers.get("Retry-After");
  throw new ServerError(sentence(response.status, messageOf(body), retryAfter), response.status);
}

const post = (path, body, signal) =>
  request(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });

export const postForm = async (path, form) =>
  (await request(path, { method: "POST", body: form })).json();

export const getText = async (path) => (await request(path)).text();
export const getJson = async (path) => (await request(path)).json();
export const postJson = async (path, body, signal) => (await post(path, body, signal)).json();

// Yields the events of a stream that ends at any time.
export async function* watch(path, signal) {
  const response = await request(path, { signal });
  for await (const data of readEvents(response.body)) yield JSON.parse(data);
}

// Yields the events of a stream in OpenAI's format. A stream without its end is an error.
export async function* stream(path, body, signal) {
  const options = { stream: true, stream_options: { include_usage: true } };
  const response = await post(path, { ...body, ...options }, signal);
  let isComplete = false;
  for await (const data of readEvents(response.body)) {
    if (data === "[DONE]") {
      isComplete = true;
      continue;
    }
    const event = JSON.parse(data);
    if (event.error) {
      const reason = messageOf(event);
      throw new ServerError(`The server ended the answer early. ${reason} The text so far is kept.`);
    }
    yield event;
  }
  if (!isComplete) throw new ServerError(BROKEN);
}

async function* readEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read().catch((error) => {
        throw error.name === "AbortError" ? error : new ServerError(BROKEN);
      });
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data: ")) yield line.slice(6);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
