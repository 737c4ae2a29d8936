// Facts about the server that all views share: models, context length, chat template.

import { ServerError, getJson } from "./api.js";
import { takeDefaults } from "./parameters.js";
import { createStore } from "./store.js";

export const server = createStore({
  models: [],
  model: "",
  contextLength: 0,
  hasTemplate: true,
  isLoading: false, // the server loads its model
  asksForKey: false, // the dialog is open
  hasKeys: false, // the server has asked for a key before
  keyError: "",
  error: "",
});
const { state } = server;

export async function connect() {
  try {
    const models = (await getJson("v1/models")).data;
    // It counts against the rate limit, and a chat needs no knowledge of the template.
    const info = await getJson("tokenizer_info").catch(() => null);
    takeDefaults(models[0].sampling_defaults);
    const isKnown = models.some((model) => model.id === state.model);
    Object.assign(state, {
      models,
      model: isKnown ? state.model : models[0].id,
      contextLength: models[0].max_model_len,
      hasTemplate: info === null || info.chat_template !== null,
      isLoading: false,
      asksForKey: false,
      keyError: "",
      error: "",
    });
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
    handle(error);
  }
  server.changed();
}

function handle(error) {
  if (error.status === 401) askForKey(error);
  else if (error.status === 503) {
    state.isLoading = true;
    setTimeout(connect, 1000);
  } else state.error = error.message;
}

export function askForKey(error) {
  state.asksForKey = true;
  state.hasKeys = true;
  state.keyError = error ? error.message : "";
  server.changed();
}
