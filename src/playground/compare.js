// Two answers side by side: one prompt, two models or settings, streamed together.

import { html, useEffect } from "./vendor/preact.js";
import { ServerError, stream } from "./api.js";
import { ParameterPanel, changedOf } from "./parameters.js";
import { askForKey, server } from "./server.js";
import { createStore, useStore } from "./store.js";

const NAMES = ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed"];
const SIDES = ["a", "b"];
const URL_DELAY = 200; // ms after the last change

const createSide = (parameters) => ({ model: "", parameters, text: "", thought: "", figures: "", error: "" });

const view = createStore({
  prompt: "Tell me a story about a brave knight.",
  a: createSide({ temperature: 0, max_tokens: 100, seed: 1 }),
  b: createSide({ temperature: 1, max_tokens: 100, seed: 1 }),
  controller: null,
});
const { state } = view;

// The URL holds the prompt, and of each side what was changed: /#/compare?prompt=…&a.temperature=0
function readUrl() {
  const query = new URLSearchParams(location.hash.split("?")[1] ?? "");
  if (!query.has("prompt")) return;
  state.prompt = query.get("prompt");
  for (const side of SIDES) {
    state[side] = createSide({ max_tokens: 100 });
    state[side].model = query.get(`${side}.model`) ?? "";
    for (const name of NAMES) {
      const value = Number(query.get(`${side}.${name}`));
      if (query.has(`${side}.${name}`) && Number.isFinite(value)) state[side].parameters[name] = value;
    }
  }
}

let urlTimer = 0;

function changed() {
  view.changed();
  clearTimeout(urlTimer);
  urlTimer = setTimeout(() => {
    if (!location.hash.startsWith("#/compare")) return;
    const query = new URLSearchParams({ prompt: state.prompt });
    for (const side of SIDES) {
      if (state[side].model) query.set(`${side}.model`, state[side].model);
      for (const [name, value] of Object.entries(changedOf(state[side].parameters))) {
        query.set(`${side}.${name}`, value);
      }
    }
    history.replaceState(null, "", `#/compare?${query}`);
  }, URL_DELAY);
}

async function answerBoth() {
  state.controller = new AbortController();
  view.changed();
  await Promise.all(SIDES.map((name) => answer(state[name], state.controller.signal)));
  state.controller = null;
  view.changed();
}

async function answer(side, signal) {
  Object.assign(side, { text: "", thought: "", figures: "", error: "" });
  const { hasTemplate } = server.state;
  const asked = hasTemplate ? { messages: [{ role: "user", content: state.prompt }] } : { prompt: state.prompt };
  const body = { model: side.model || server.state.model, ...asked, ...changedOf(side.parameters), timings: true };
  const path = hasTemplate ? "v1/chat/completions" : "v1/completions";
  const began = performance.now();
  let first = 0;
  try {
    for await (const { choices, usage, timings } of stream(path, body, signal)) {
      const [choice] = choices;
      side.text += choice?.delta?.content ?? choice?.text ?? "";
      side.thought += choice?.delta?.reasoning_content ?? choice?.delta?.reasoning ?? "";
      if (side.text || side.thought) first ||= performance.now() - began;
      if (usage) {
        const speed = timings?.predicted_per_second;
        side.figures = `${usage.completion_tokens} tokens · first after ${first.toFixed(0)} ms`;
        if (speed) side.figures += ` · ${speed.toFixed(0)} tokens/s`;
      }
      view.changedInStream();
    }
  } catch (error) {
    if (error.name === "AbortError") side.figures = "stopped";
    else if (error instanceof ServerError) {
      side.error = error.message;
      if (error.status === 401) askForKey(error);
    } else throw error;
  }
}

function Side({ name }) {
  const side = state[name];
  const { models, model } = server.state;
  const title = name.toUpperCase();
  return html`<section class="side" aria-label=${`Side ${title}`}>
    <label class="side-model">
      <span>Model ${title}</span>
      <select value=${side.model || model} onChange=${(event) => { side.model = event.target.value; changed(); }}>
        ${models.map(({ id }) => html`<option key=${id} value=${id}>${id}</option>`)}
      </select>
    </label>
    ${side.thought && html`<details class="thought"><summary>Thought</summary><div class="text plain">${side.thought}</div></details>`}
    <div class="text plain side-answer" role="region" tabindex="0" aria-label=${`Answer ${title}`}>${side.text}</div>
    ${side.error && html`<p class="error" role="alert">${side.error}</p>`}
    <p class="hint" role="status">${side.figures}</p>
    <${ParameterPanel}
      id=${`compare-${name}`}
      names=${NAMES}
      values=${side.parameters}
      onChange=${(parameter, value) => { side.parameters[parameter] = value; changed(); }}
    />
  </section>`;
}

export default function CompareView() {
  useStore(view);
  const { model } = useStore(server);
  useEffect(() => {
    readUrl();
    view.changed();
    addEventListener("hashchange", readUrl);
    return () => removeEventListener("hashchange", readUrl);
  }, []);
  const isBusy = state.controller !== null;
  return html`<div class="compare-view">
    <h1>Side by side</h1>
    <p class="hint">One prompt, two models or settings. Both requests run at the same time, in the same steps of the engine.</p>
    <textarea
      aria-label="Prompt"
      rows="3"
      value=${state.prompt}
      onInput=${(event) => { state.prompt = event.target.value; changed(); }}
    />
    <div class="run">
      ${isBusy
        ? html`<button type="button" class="primary stop" onClick=${() => state.controller.abort()}>Stop</button>`
        : html`<button type="button" class="primary" disabled=${!model || !state.prompt.trim()} onClick=${answerBoth}>Answer both</button>`}
    </div>
    <div class="sides">${SIDES.map((name) => html`<${Side} key=${name} name=${name} />`)}</div>
  </div>`;
}
