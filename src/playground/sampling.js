// The server's filters (src/engine/sampling/top_k_top_p.py) on the most likely tokens of a position.

// Returns for each token its probability after temperature, top-k, top-p and min-p; 0 if it is cut.
//
// logprobs: of the most likely tokens, the largest first, at temperature 1.
//
// The other tokens' share is known at temperature 1 alone. At others it is estimated, as if each of
// them were as likely as the last one given. With a top-k among the given tokens all is exact.
export function filtered(logprobs, { temperature, top_k, top_p, min_p }) {
  if (temperature === 0) return logprobs.map((_, index) => (index === 0 ? 1 : 0));
  const weights = logprobs.map((logprob) => Math.exp((logprob - logprobs[0]) / temperature));
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const isKnown = top_k > 0 && top_k <= weights.length;
  const total = isKnown
    ? sum(weights.slice(0, top_k))
    : sum(weights) + restWeight(logprobs, temperature);

  // Each filter keeps a prefix of the tokens; the shortest prefix is what all of them keep.
  let numNucleus = Infinity;
  if (top_p < 1) {
    let mass = 0;
    const index = weights.findIndex((weight) => (mass += weight) >= top_p * total);
    if (index >= 0) numNucleus = index + 1;
  }
  const numLikely = min_p > 0 ? numAtLeast(weights, min_p * weights[0]) : Infinity;
  const numKept = Math.min(isKnown ? top_k : Infinity, numNucleus, numLikely);
  const keptTotal = numKept <= weights.length ? sum(weights.slice(0, numKept)) : total;
  return weights.map((weight, index) => (index < numKept ? weight / keptTotal : 0));
}

function numAtLeast(weights, limit) {
  const index = weights.findIndex((weight) => weight < limit);
  return index < 0 ? Infinity : index;
}

function restWeight(logprobs, temperature) {
  const share = Math.max(0, 1 - logprobs.reduce((total, logprob) => total + Math.exp(logprob), 0));
  if (share < 1e-6) return 0;
  const last = logprobs.at(-1);
  const numTokens = share / Math.exp(last);
  return numTokens * Math.exp((last - logprobs[0]) / temperature);
}
