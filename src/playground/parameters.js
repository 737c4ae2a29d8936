// Sampling parameters: the server's defaults, and a panel that marks what was changed.

import { html } from "./vendor/preact.js";

// `initial` is the server's default, which `takeDefaults` replaces by the model's. A number without bounds is a field, else it is a slider.
export const PARAMETERS = [
  {
    name: "temperature", label: "Temperature", initial: 1, min: 0, max: 2, step: 0.05,
    hint: "0 always takes the most likely token; above 1 rare tokens come more often.",
  },
  {
    name: "top_p", label: "Top-p", initial: 1, min: 0.01, max: 1, step: 0.01,
    hint: "Keeps the most likely tokens that together have this probability.",
  },
  {
    name: "top_k", label: "Top-k", initial: 0, min: 0, max: 100, step: 1, none: "all",
    hint: "Keeps this many of the most likely tokens.",
  },
  {
    name: "min_p", label: "Min-p", initial: 0, min: 0, max: 1, step: 0.01,
    hint: "Keeps tokens that have at least this share of the most likely token's probability.",
  },
  {
    name: "max_tokens", label: "New tokens at most", initial: "", placeholder: "rest of the context",
    min: 1, hint: "The answer is cut after this many tokens.",
  },
  {
    name: "seed", label: "Seed", initial: "", placeholder: "random",
    hint: "The same seed and request give the same answer.",
  },
  {
    name: "presence_penalty", label: "Presence penalty", initial: 0, min: -2, max: 2, step: 0.1,
    hint: "Makes tokens that came before less likely.",
  },
  {
    name: "frequency_penalty", label: "Frequency penalty", initial: 0, min: -2, max: 2, step: 0.1,
    hint: "Makes tokens less likely each time they came before.",
  },
  {
    name: "repetition_penalty", label: "Repetition penalty", initial: 1, min: 0.5, max: 2, step: 0.05,
    hint: "Above 1, tokens of the prompt and the answer become less likely.",
  },
];

// defaults: of a model in /v1/models, by the parameters' names.
export function takeDefaults(defaults) {
  for (const parameter of PARAMETERS) {
    const known = defaults?.[parameter.name];
    if (known) parameter.initial = known.value;
  }
}

const isSlider = (parameter) => parameter.step !== undefined;

// Only what was changed is sent, so the server's defaults hold for the rest.
export function changedOf(values) {
  const changed = {};
  for (const { name, initial } of PARAMETERS) {
    const value = values[name];
    if (value !== undefined && value !== "" && value !== initial) changed[name] = value;
  }
  return changed;
}

export function ParameterPanel({ values, onChange, names, id }) {
  const changed = changedOf(values);
  return html`<div class="parameters">
    ${PARAMETERS.filter(({ name }) => !names || names.includes(name)).map(
      (parameter) => html`<${Parameter}
        key=${parameter.name}
        id=${`${id}-${parameter.name}`}
        parameter=${parameter}
        value=${values[parameter.name] ?? parameter.initial}
        isChanged=${parameter.name in changed}
        onChange=${(value) => onChange(parameter.name, value)}
      />`,
    )}
  </div>`;
}

function Parameter({ id, parameter, value, isChanged, onChange }) {
  const { label, initial, min, max, step, none, hint, placeholder } = parameter;
  const read = (event) => {
    const text = event.target.value;
    onChange(text === "" ? "" : Number(text));
  };
  const show = (number) => (none && number === 0 ? none : String(number));
  return html`<div class=${isChanged ? "parameter changed" : "parameter"}>
    <div class="parameter-head">
      <label for=${id} title=${hint}>${label}</label>
      ${isSlider(parameter) && html`<output for=${id}>${show(value)}</output>`}
      ${isChanged &&
      html`<button
        type="button"
        class="reset"
        title=${`Back to the server's default: ${show(initial) || placeholder}`}
        aria-label=${`Reset ${label}`}
        onClick=${() => onChange(initial)}
      >
        Reset
      </button>`}
    </div>
    ${isSlider(parameter)
      ? html`<input id=${id} type="range" min=${min} max=${max} step=${step} value=${value} onInput=${read} />`
      : html`<input id=${id} type="number" min=${min} step="1" value=${value} placeholder=${placeholder} onInput=${read} />`}
  </div>`;
}
