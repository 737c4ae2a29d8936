// The view of raw completions: tokens of the prompt, and each new token with its alternatives.

import { html, useEffect, useRef, useState } from "./vendor/preact.js";
import { ServerError, postJson, stream } from "./api.js";
import { PARAMETERS, ParameterPanel, changedOf } from "./parameters.js";
import { filtered } from "./sampling.js";
import { askForKey, server } from "./server.js";
import { createStore, useStore } from "./store.js";

const NUM_ALTERNATIVES = 20;
const TOKENIZE_DELAY = 400; // ms after the last key
const URL_DELAY = 200; // ms after the last change
const NUM_COLORS = 5;
const NAMES = ["temperature", "top_k", "top_p", "min_p", "max_tokens", "seed"];
const DEFAULT_TOKENS = 40;

const view = createStore({
  prompt: "The capital of France is",
  parameters: { max_tokens: DEFAULT_TOKENS },
  pieces: [], // tokens of the prompt: { id, text }
  pieceError: "",
  tokens: [], // new tokens: { text, logprob, top: [{ text, logprob }] }
  chosen: null, // index of the token with shown alternatives
  finish: "",
  controller: null,
  error: "",
});
const { state } = view;

// The URL holds the prompt and the changed parameters: /#/tokens?prompt=…&temperature=0.5
function readUrl() {
  const query = new URLSearchParams(location.hash.split("?")[1] ?? "");
  if (query.has("prompt")) {
    state.prompt = query.get("prompt");
    state.parameters = { max_tokens: DEFAULT_TOKENS };
  }
  for (const name of NAMES) {
    const value = Number(query.get(name));
    if (query.has(name) && Number.isFinite(value)) state.parameters[name] = value;
  }
}

let urlTimer = 0;

// Later, as browsers allow few changes of the URL a second.
function writeUrl() {
  clearTimeout(urlTimer);
  urlTimer = setTimeout(() => {
    if (!location.hash.startsWith("#/tokens")) return;
    const query = new URLSearchParams({ prompt: state.prompt, ...changedOf(state.parameters) });
    history.replaceState(null, "", `#/tokens?${query}`);
  }, URL_DELAY);
}

const valueOf = (name) =>
  state.parameters[name] ?? PARAMETERS.find((parameter) => parameter.name === name).initial;

const filters = () => ({
  temperature: valueOf("temperature"),
  top_k: valueOf("top_k"),
  top_p: valueOf("top_p"),
  min_p: valueOf("min_p"),
});

async function tokenize() {
  const { prompt } = state;
  if (!prompt) {
    state.pieces = [];
    return view.changed();
  }
  try {
    const body = { model: server.state.model, prompt, return_token_strs: true };
    const { tokens, token_strs: texts } = await postJson("tokenize", body);
    if (prompt === state.prompt) {
      state.pieces = tokens.map((id, index) => ({ id, text: texts[index] }));
    }
    state.pieceError = "";
  } catch (error) {
    // Each look at the tokens counts against the rate limit; without one more the page works on.
    if (error.status === 429) state.pieceError = error.message;
    else fail(error);
  }
  return view.changed();
}

// Generates after the prompt and the first `numKept` of the new tokens, the last of them replaced.
async function generate(numKept = 0, replacement = null) {
  state.controller?.abort();
  const controller = new AbortController();
  const kept = state.tokens.slice(0, numKept);
  if (replacement !== null) kept.push(replacement);
  Object.assign(state, { tokens: kept, controller, finish: "", error: "" });
  state.chosen = replacement === null ? null : numKept;
  view.changed();
  const parameters = changedOf(state.parameters);
  const body = {
    ...parameters,
    model: server.state.model,
    prompt: state.prompt + kept.map((token) => token.text).join(""),
    logprobs: NUM_ALTERNATIVES,
  };
  try {
    const limit = parameters.max_tokens ?? (await restOfContext(body.prompt, controller.signal));
    body.max_tokens = Math.max(1, parameters.max_tokens ? limit - kept.length : limit);
    for await (const event of stream("v1/completions", body, controller.signal)) {
      const [choice] = event.choices;
      if (choice?.logprobs) kept.push(...readTokens(choice.logprobs));
      if (choice?.finish_reason) state.finish = choice.finish_reason;
      view.changedInStream();
    }
  } catch (error) {
    fail(error);
  } finally {
    if (state.controller === controller) state.controller = null;
    view.changed();
  }
}

async function restOfContext(prompt, signal) {
  const body = { model: server.state.model, prompt };
  const { count, max_model_len: length } = await postJson("tokenize", body, signal);
  return length - count;
}

function readTokens({ tokens, token_logprobs: logprobs, top_logprobs: tops }) {
  return tokens.map((text, index) => ({
    text,
    logprob: logprobs[index],
    top: Object.entries(tops[index])
      .map(([text, logprob]) => ({ text, logprob }))
      .sort((a, b) => b.logprob - a.logprob),
  }));
}

function fail(error) {
  if (error.name === "AbortError") return;
  if (!(error instanceof ServerError)) throw error;
  if (error.status === 401) askForKey(error);
  state.error = error.message;
}

function setPrompt(text) {
  state.prompt = text;
  writeUrl();
  view.changed();
}

function setParameter(name, value) {
  state.parameters[name] = value;
  writeUrl();
  view.changed();
}

export default function TokensView() {
  const { prompt, controller, error } = useStore(view);
  const { model } = useStore(server);
  useEffect(() => {
    const read = () => {
      readUrl();
      view.changed();
    };
    read();
    addEventListener("hashchange", read);
    return () => removeEventListener("hashchange", read);
  }, []);
  useEffect(() => {
    if (!model) return undefined;
    const timer = setTimeout(tokenize, TOKENIZE_DELAY);
    return () => clearTimeout(timer);
  }, [prompt, model]);
  const canRun = prompt !== "" && model !== "" && controller === null;
  const submit = (event) => {
    event.preventDefault();
    if (canRun) generate();
  };
  const press = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event);
    if (event.key === "Escape") controller?.abort();
  };
  return html`<div class="tokens-view">
    <section class="tokens-main" aria-label="Prompt and continuation">
      <form onSubmit=${submit}>
        <h1><label for="prompt">Prompt</label></h1>
        <textarea
          id="prompt"
          rows="3"
          value=${prompt}
          onInput=${(event) => setPrompt(event.target.value)}
          onKeyDown=${press}
        />
        <${Pieces} />
        <div class="run">
          ${controller
            ? html`<button type="button" class="primary stop" onClick=${() => controller.abort()}>Stop</button>`
            : html`<button type="submit" class="primary" disabled=${!canRun}>Continue the text</button>`}
          <span class="hint">Ctrl and Enter</span>
        </div>
      </form>
      ${error && html`<p class="error" role="alert">${error}</p>`}
      <${Continuation} />
    </section>
    <aside class="settings" aria-label="Settings">
      <${Alternatives} />
      <h2>Parameters</h2>
      <p class="hint">Sliders redraw the probabilities at once, without asking the server.</p>
      <${ParameterPanel} id="tokens" names=${NAMES} values=${state.parameters} onChange=${setParameter} />
    </aside>
  </div>`;
}

// White space alone gets signs, or it could not be seen.
function visible(text) {
  const shown = text.replaceAll("\n", "↵\n").replaceAll("\t", "⇥");
  return shown.trim() === "" ? shown.replaceAll(" ", "␣") : shown;
}

function Pieces() {
  const { pieces, pieceError } = state;
  const count = `${pieces.length} ${pieces.length === 1 ? "token" : "tokens"}`;
  return html`<p class="hint" role="status">${pieceError || count}</p>
    <ol class="pieces" aria-label="Tokens of the prompt">
      ${pieces.map(
        ({ id, text }, index) => html`<li key=${index} class=${`piece color-${index % NUM_COLORS}`}>
          <span>${visible(text)}</span><small>${id}</small>
        </li>`,
      )}
    </ol>`;
}

function Continuation() {
  const { tokens, chosen, finish } = state;
  const list = useRef();
  const choose = (index) => {
    state.chosen = index;
    view.changed();
  };
  const press = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const next = (chosen ?? 0) + (step ?? 0);
    if (!step || !tokens[next]) return;
    event.preventDefault();
    choose(next);
    list.current.children[next].focus();
  };
  if (!tokens.length) {
    return html`<p class="empty">
      Each new token will be shaded by its probability: the stronger the color, the less likely the token was.
    </p>`;
  }
  return html`<h2 id="continuation-title">Continuation</h2>
    <div class="continuation" ref=${list} role="toolbar" aria-labelledby="continuation-title" onKeyDown=${press}>
      ${tokens.map(({ text, logprob }, index) => {
        const probability = Math.exp(logprob);
        return html`<button
          key=${index}
          type="button"
          class="token"
          tabindex=${index === (chosen ?? 0) ? 0 : -1}
          aria-pressed=${index === chosen}
          aria-label=${`${text.trim() || "white space"}, ${percent(probability)}`}
          data-logprob=${logprob}
          style=${{ "--surprise": `${Math.round(60 * (1 - probability))}%` }}
          onMouseEnter=${() => choose(index)}
          onFocus=${() => choose(index)}
          onClick=${() => choose(index)}
        >${visible(text)}</button>`;
      })}
    </div>
    <p class="hint">
      ${tokens.length} tokens${finish === "stop" ? ", ended by the model" : ""}${finish === "length" ? ", cut at the maximum" : ""}.
      Perplexity ${perplexity(tokens)}.
      <span class="legend" aria-hidden="true">likely <i></i><i></i><i></i><i></i> unlikely</span>
    </p>`;
}

const perplexity = (tokens) => {
  const total = tokens.reduce((sum, { logprob }) => sum + logprob, 0);
  return Math.exp(-total / tokens.length).toFixed(2);
};

function percent(probability) {
  if (probability >= 0.0995) return `${(100 * probability).toFixed(0)} %`;
  if (probability >= 0.0005) return `${(100 * probability).toFixed(1)} %`;
  return probability > 0 ? "< 0.1 %" : "0 %";
}

function Alternatives() {
  const { tokens, chosen } = state;
  const token = tokens[chosen];
  if (!token) {
    return html`<h2>Alternatives</h2>
      <p class="hint">Point at a token of the continuation to see what else the model considered.</p>`;
  }
  // The chosen token is beside the most likely ones if it is none of them; filters see these alone.
  const top = token.top.slice(0, NUM_ALTERNATIVES);
  const after = filtered(top.map(({ logprob }) => logprob), filters());
  return html`<h2>Alternatives to <q>${visible(token.text)}</q></h2>
    <div class="alternatives-box"><table class="alternatives">
      <thead>
        <tr><th scope="col">Token</th><th scope="col">Model</th><th scope="col">Sampled</th></tr>
      </thead>
      <tbody>
        ${top.map(
          ({ text, logprob }, index) => html`<tr
            key=${text}
            class=${after[index] === 0 ? "cut" : ""}
            data-logprob=${logprob}
            data-after=${after[index]}
          >
            <td><${Alternative} text=${text} logprob=${logprob} token=${token} /></td>
            <td><${Bar} value=${Math.exp(logprob)} /></td>
            <td>${after[index] === 0 ? html`<span class="cut-mark">cut</span>` : html`<${Bar} value=${after[index]} />`}</td>
          </tr>`,
        )}
      </tbody>
    </table></div>
    <p class="hint">Choose one, and the text goes on from it. Cut tokens are never sampled.</p>`;
}

// Special tokens and parts of characters cannot be written into a prompt.
const canBranch = (text) => !text.startsWith("bytes:") && !/^<\|.*\|>$|^<\/?s>$/.test(text);

function Alternative({ text, logprob, token }) {
  const index = state.chosen;
  const isChosen = text === token.text;
  const branch = () => generate(index, { text, logprob, top: token.top });
  return html`<button
    type="button"
    class=${isChosen ? "alternative chosen" : "alternative"}
    disabled=${isChosen || !canBranch(text)}
    title=${isChosen ? "This one was taken" : "Go on from this token"}
    onClick=${branch}
  >${visible(text)}${isChosen ? html`<span class="visually-hidden"> (taken)</span>` : ""}</button>`;
}

function Bar({ value }) {
  return html`<span class="bar"><i style=${{ width: `${100 * value}%` }}></i><span>${percent(value)}</span></span>`;
}
