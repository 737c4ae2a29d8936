// State that outlives a view: a plain object, and the views that draw it again when it changes.

import { useLayoutEffect, useState } from "./vendor/preact.js";

export function createStore(state) {
  const listeners = new Set();
  let isDue = false;
  const changed = () => {
    isDue = false;
    for (const listener of [...listeners]) listener();
  };
  return {
    state,
    changed,
    // For tokens of a stream: all changes of one frame are drawn once.
    changedInStream() {
      if (isDue) return;
      isDue = true;
      if (document.hidden) setTimeout(changed, 100);
      else requestAnimationFrame(changed);
    },
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}

export function useStore(store) {
  const [, draw] = useState(0);
  // Before anything else runs: a change after the first drawing must not be missed.
  useLayoutEffect(() => store.subscribe(() => draw((count) => count + 1)), [store]);
  return store.state;
}
