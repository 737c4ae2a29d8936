// The view of batches: upload a file of requests, watch it, download the answers.

import { html, useEffect, useRef } from "./vendor/preact.js";
import { ServerError, getJson, getText, postForm, postJson } from "./api.js";
import { askForKey, server } from "./server.js";
import { createStore, useStore } from "./store.js";

const ENDPOINTS = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"];
const OPEN = ["validating", "in_progress", "finalizing", "cancelling"];
const POLL = 1000; // ms
const SHOWN = 20; // newest batches
const EXAMPLE_LINES = 40;

const view = createStore({ batches: null, endpoint: ENDPOINTS[0], isSending: false, error: "" });
const { state } = view;

// Runs work and shows its error, if it has one.
async function attempt(work) {
  state.error = "";
  try {
    await work();
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
    state.error = error.message;
    if (error.status === 401) askForKey(error);
  }
  view.changed();
}

const refresh = () =>
  attempt(async () => {
    state.batches = (await getJson(`v1/batches?limit=${SHOWN}`)).data;
  });

async function start(file) {
  state.isSending = true;
  view.changed();
  await attempt(async () => {
    const form = new FormData();
    form.append("purpose", "batch");
    form.append("file", file);
    const { id } = await postForm("v1/files", form);
    const body = { input_file_id: id, endpoint: state.endpoint, completion_window: "24h" };
    await postJson("v1/batches", { ...body, metadata: { name: file.name.slice(0, 500) } });
  });
  state.isSending = false;
  if (state.error) view.changed();
  else await refresh();
}

function example() {
  const { model } = server.state;
  const line = (number) => {
    const messages = [{ role: "user", content: `What is ${number} + 2?` }];
    const body = { model, messages, temperature: 0, max_tokens: 20 };
    return JSON.stringify({ custom_id: `sum-${number}`, method: "POST", url: ENDPOINTS[0], body });
  };
  const lines = Array.from({ length: EXAMPLE_LINES }, (_, index) => line(index + 1));
  state.endpoint = ENDPOINTS[0];
  return new File([`${lines.join("\n")}\n`], "example.jsonl");
}

const download = (fileId, name) =>
  attempt(async () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([await getText(`v1/files/${fileId}/content`)]));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href));
  });

const cancel = (id) => attempt(() => postJson(`v1/batches/${id}/cancel`, {})).then(refresh);

function Batch({ batch }) {
  const { id, status, endpoint, metadata, request_counts: counts, usage, errors } = batch;
  const done = counts.completed + counts.failed;
  const name = metadata?.name ?? id;
  const when = new Date(batch.created_at * 1000).toLocaleTimeString();
  return html`<li aria-label=${name}>
    <p><strong>${name}</strong> <span class="badge">${status.replace("_", " ")}</span> <span class="soft">${endpoint} · ${when}</span></p>
    <progress aria-label=${`Lines of ${name}`} value=${done} max=${Math.max(counts.total, 1)}></progress>
    <p class="soft">
      ${counts.total ? `${done} of ${counts.total} lines` : "lines are being counted"}
      ${counts.failed ? ` · ${counts.failed} failed` : ""}
      ${usage?.total_tokens ? ` · ${usage.total_tokens} tokens` : ""}
    </p>
    ${errors?.data.slice(0, 5).map(({ line, message }, index) => html`<p key=${index} class="error">${line ? `Line ${line}: ` : ""}${message}</p>`)}
    <p class="batch-buttons">
      ${batch.output_file_id && html`<button type="button" onClick=${() => download(batch.output_file_id, `${id}.jsonl`)}>Download answers</button>`}
      ${batch.error_file_id && html`<button type="button" onClick=${() => download(batch.error_file_id, `${id}.errors.jsonl`)}>Download errors</button>`}
      ${["validating", "in_progress"].includes(status) && html`<button type="button" onClick=${() => cancel(id)}>Cancel batch</button>`}
    </p>
  </li>`;
}

export default function BatchesView() {
  useStore(view);
  const { model } = useStore(server);
  const chooser = useRef();
  useEffect(() => {
    refresh();
    const timer = setInterval(() => {
      if (state.batches?.some(({ status }) => OPEN.includes(status))) refresh();
    }, POLL);
    return () => clearInterval(timer);
  }, []);
  const choose = (event) => {
    const [file] = event.target.files;
    event.target.value = "";
    if (file) start(file);
  };
  const isReady = model && !state.isSending;
  return html`<div class="batches-view">
    <h1>Batches</h1>
    <p class="hint">A file with a request in each line, answered in the background: the lines get what other requests leave. Each line is as OpenAI's batches have it.</p>
    <div class="batch-start">
      <label>Route
        <select value=${state.endpoint} onChange=${(event) => { state.endpoint = event.target.value; view.changed(); }}>
          ${ENDPOINTS.map((path) => html`<option key=${path} value=${path}>${path}</option>`)}
        </select>
      </label>
      <input ref=${chooser} type="file" accept=".jsonl,.txt,application/jsonl" aria-label="File of requests" hidden onChange=${choose} />
      <button type="button" class="primary" disabled=${!isReady} onClick=${() => chooser.current.click()}>Upload a file</button>
      <button type="button" disabled=${!isReady} onClick=${() => start(example())}>Send an example</button>
    </div>
    ${state.error && html`<p class="error" role="alert">${state.error}</p>`}
    <ul class="batches" aria-label="Batches">${(state.batches ?? []).map((batch) => html`<${Batch} key=${batch.id} batch=${batch} />`)}</ul>
    ${state.batches?.length === 0 && html`<p class="hint">No batch yet.</p>`}
  </div>`;
}
