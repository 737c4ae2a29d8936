// The view of the engine: each step as a column, and sequences that this page has asked for.

import { html, useEffect } from "./vendor/preact.js";
import { ServerError, stream, watch } from "./api.js";
import { askForKey, server } from "./server.js";
import { createStore, useStore } from "./store.js";

const NUM_COLUMNS = 96;
const WATCH_SECONDS = 600; // then the page asks again
const WAIT = 2000; // ms after a lost connection
const [WIDTH, HEIGHT] = [960, 240]; // of the drawing, in its own units
const PREFILL_TOKENS_OF_A_CELL = 8;
const NUM_TOKENS = 120;
const COUNTS = [1, 8, 32];
const OPENINGS = ["Once upon a time", "The future of AI is", "In a city on the clouds", "One day a brave knight"];
const LONG = "A long prompt is computed in pieces, beside the answers that others wait for. ".repeat(8);

const view = createStore({
  steps: [], // newest last
  stats: null, // of the engine
  sequences: [], // of this page: { numTokens, firstAt, lastAt, finish }
  startedAt: 0,
  controller: null, // of the running request
  error: "",
  isWatching: false,
});
const { state } = view;

async function watchEngine(signal) {
  while (!signal.aborted) {
    try {
      for await (const event of watch(`v1/engine/events?seconds=${WATCH_SECONDS}`, signal)) {
        state.isWatching = true;
        state.stats = event.stats;
        state.steps = [...state.steps, ...event.steps].slice(-NUM_COLUMNS);
        view.changedInStream();
      }
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!report(error)) return;
      await new Promise((done) => setTimeout(done, WAIT));
    }
  }
}

// Shows an error; returns whether it may pass by itself.
function report(error) {
  if (!(error instanceof ServerError)) throw error;
  if (error.status === 401) askForKey(error);
  state.error = error.message;
  state.isWatching = false;
  view.changed();
  return ![401, 403, 404].includes(error.status);
}

// One request with several prompts: a browser would keep more than six requests waiting.
async function run(count) {
  const controller = new AbortController();
  const sequences = Array.from({ length: count }, () => ({ numTokens: 0, firstAt: 0, lastAt: 0, finish: "" }));
  Object.assign(state, { controller, sequences, startedAt: performance.now(), error: "" });
  view.changed();
  const prompts = sequences.map((_, index) => (index % 4 === 3 ? LONG : "") + OPENINGS[index % OPENINGS.length]);
  const length = { max_tokens: NUM_TOKENS, ignore_eos: true };
  const body = { model: server.state.model, prompt: prompts, logprobs: 0, ...length };
  try {
    for await (const event of stream("v1/completions", body, controller.signal)) {
      for (const choice of event.choices) read(choice, sequences[choice.index]);
      view.changedInStream();
    }
  } catch (error) {
    for (const sequence of sequences) sequence.finish ||= "cancelled";
    if (error.name !== "AbortError") report(error);
  } finally {
    state.controller = null;
    view.changed();
  }
}

function read(choice, sequence) {
  const now = performance.now();
  const numTokens = choice.logprobs?.tokens.length ?? 0;
  if (numTokens) {
    sequence.firstAt ||= now;
    sequence.lastAt = now;
    sequence.numTokens += numTokens;
  }
  if (choice.finish_reason) sequence.finish = "done";
}

export default function EngineView() {
  const { controller, error, isWatching } = useStore(view);
  const { model } = useStore(server);
  useEffect(() => {
    if (!model) return undefined;
    const watching = new AbortController();
    watchEngine(watching.signal);
    return () => watching.abort();
  }, [model]);
  return html`<div class="engine-view">
    <h1>The engine, step by step</h1>
    <p class="hint">
      A column is one step of the model. All sequences that run share it: this is continuous batching. Send some, and see how
      prompts are computed in pieces beside the answers.
    </p>
    <div class="run">
      ${COUNTS.map(
        (count) => html`<button key=${count} type="button" class="primary" disabled=${!model || controller !== null} onClick=${() => run(count)}>Send ${count}</button>`,
      )}
      <button type="button" disabled=${controller === null} onClick=${() => controller.abort()}>Cancel</button>
    </div>
    ${error && html`<p class="error" role="alert">${error}</p>`}
    <${Figures} />
    <${Steps} isWatching=${isWatching} />
    <${Sequences} />
  </div>`;
}

function Figures() {
  const { stats, steps } = state;
  const seconds = steps.reduce((total, step) => total + step.milliseconds, 0) / 1000;
  const numTokens = steps.reduce((total, step) => total + step.num_decoding + step.num_accepted, 0);
  const figures = [
    ["running", stats?.num_running ?? 0],
    ["waiting", stats?.num_waiting ?? 0],
    ["KV cache in use", `${(100 * (stats?.kv_usage ?? 0)).toFixed(1)} %`],
    ["tokens in the prefix cache", stats?.num_cached_tokens ?? 0],
    ["tokens/s", seconds ? (numTokens / seconds).toFixed(0) : "–"],
  ];
  return html`<dl class="engine-figures">
    ${figures.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}
  </dl>`;
}

// The parts of a column, from the bottom: [class, number of cells].
const partsOf = (step) => [
  ["decode", step.num_decoding],
  ["accepted", step.num_accepted],
  ["rejected", step.num_drafted - step.num_accepted],
  ["prefill", Math.ceil(step.num_prefill_tokens / PREFILL_TOKENS_OF_A_CELL)],
];

function Steps({ isWatching }) {
  const { steps } = state;
  const last = steps.at(-1);
  const highest = Math.max(12, ...steps.map((step) => partsOf(step).reduce((total, [, count]) => total + count, 0)));
  const summary = last
    ? `Last step: ${last.num_sequences} sequences, ${last.num_decoding} of them decode, ${last.num_prefill_tokens} tokens of prompts, ${last.milliseconds.toFixed(1)} ms.`
    : isWatching
      ? "No step yet. Send a request."
      : "Connecting to the engine.";
  return html`<figure class="steps">
    <svg viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" role="img" aria-label=${`The last ${steps.length} steps of the engine`}>
      ${steps.map((step, index) => html`<${Column} key=${step.number} step=${step} index=${index} highest=${highest} />`)}
    </svg>
    <figcaption>
      <span>${summary}</span>
      <span class="step-legend">
        <i class="decode"></i>a sequence that decodes <i class="accepted"></i>guessed token, accepted
        <i class="rejected"></i>guessed, not accepted <i class="prefill"></i>${PREFILL_TOKENS_OF_A_CELL} tokens of a prompt
      </span>
    </figcaption>
  </figure>`;
}

function Column({ step, index, highest }) {
  const width = WIDTH / NUM_COLUMNS;
  const cell = HEIGHT / highest;
  let top = HEIGHT;
  const cells = [];
  for (const [name, count] of partsOf(step)) {
    for (let number = 0; number < count; number += 1) {
      top -= cell;
      cells.push(html`<rect key=${`${name}${number}`} class=${name} x="0" y=${top + 0.5} width=${width - 1.5} height=${Math.max(0.5, cell - 1)} />`);
    }
  }
  return html`<g
    transform=${`translate(${index * width} 0)`}
    data-sequences=${step.num_sequences}
    data-decoding=${step.num_decoding}
    data-prefill=${step.num_prefill_tokens}
  >${cells}</g>`;
}

function Sequences() {
  const { sequences, startedAt } = state;
  if (!sequences.length) return null;
  return html`<h2>Sequences of this page</h2>
    <ol class="sequences">
      ${sequences.map((sequence, index) => {
        const first = sequence.firstAt ? `first after ${(sequence.firstAt - startedAt).toFixed(0)} ms` : "waiting";
        const gap = sequence.numTokens > 1 ? (sequence.lastAt - sequence.firstAt) / (sequence.numTokens - 1) : 0;
        return html`<li key=${index}>
          <span class="progress"><i style=${{ width: `${(100 * sequence.numTokens) / NUM_TOKENS}%` }}></i></span>
          <span>${sequence.numTokens} tokens · ${first}${gap ? ` · ${gap.toFixed(1)} ms each` : ""}${sequence.finish ? ` · ${sequence.finish}` : ""}</span>
        </li>`;
      })}
    </ol>`;
}
