// Reductions of a row of logits for sampling: argmax, and the probabilities of the top-k tokens.
//
// They read the logits without writing a softmax to memory. They draw no random numbers and apply no
// top-p or min-p: Python does that with what is found here.

#pragma once

#include <functional>
#include <vector>

#include "simd.h"
#include "thread_pool.h"

namespace {

// Largest value of a row and its first index; the value is NaN if the row has a NaN.
inline void argmax(const float* row, int64_t size, float* value, int64_t* index) {
    const int64_t whole = size / LANES * LANES;
    Vector maxima = broadcast(-INFINITY);
    bool has_nan = false;
    for (int64_t k = 0; k < whole; k += LANES) {
        const Vector values = load(row + k);
        maxima = max(maxima, values);
        has_nan |= is_nan(values) != 0;
    }
    float lanes[LANES];
    store(lanes, maxima);
    float largest = *std::max_element(lanes, lanes + LANES);
    for (int64_t k = whole; k < size; k++) {
        largest = std::max(largest, row[k]);
        has_nan |= row[k] != row[k];
    }
    *value = has_nan ? NAN : largest;
    int64_t k = 0;
    while (k < whole && !equal(load(row + k), broadcast(largest))) k += LANES;
    while (k < size - 1 && row[k] != largest) k++;
    *index = k;
}

struct Candidate {
    float score;
    int64_t token;
};

inline bool is_more_likely(const Candidate& a, const Candidate& b) {
    return a.score > b.score || (a.score == b.score && a.token < b.token);
}

// Collects tokens with scores above `threshold`, LANES comparisons at a time. Whenever the buffer is full
// it keeps the `count` largest and raises the threshold to the least of them. Returns the number of
// candidates.
inline int64_t collect_candidates(const float* row, int64_t size, int64_t count, float threshold,
                                  std::vector<Candidate>& buffer) {
    const int64_t capacity = 4 * count;
    buffer.resize(capacity + LANES);
    Candidate* candidates = buffer.data();
    int64_t num_candidates = 0;
    const auto prune = [&] {
        std::nth_element(candidates, candidates + count - 1, candidates + num_candidates, is_more_likely);
        num_candidates = count;
        threshold = candidates[count - 1].score;
    };
    const int64_t whole = size / LANES * LANES;
    for (int64_t k = 0; k < whole; k += LANES) {
        for (int mask = greater(load(row + k), broadcast(threshold)); mask; mask &= mask - 1) {
            const int64_t token = k + __builtin_ctz(mask);
            candidates[num_candidates++] = {row[token], token};
        }
        if (num_candidates >= capacity) prune();
    }
    for (int64_t token = whole; token < size; token++)
        if (row[token] > threshold) candidates[num_candidates++] = {row[token], token};
    if (num_candidates > count) prune();
    return num_candidates;
}

// Estimates from a sample a threshold that more than `count` scores exceed, and fewer than about twice
// as many. Too high an estimate costs a second pass, too low a one costs pruning.
inline float estimate_threshold(const float* row, int64_t size, int64_t count) {
    constexpr int64_t STRIDE = 16;  // of so many vectors one is in the sample
    const int64_t rank = 3 * count / (2 * STRIDE) + 8;
    if (size < 2 * STRIDE * (rank + LANES)) return -INFINITY;
    static thread_local std::vector<float> sample;
    sample.clear();
    for (int64_t k = 0; k + LANES <= size; k += STRIDE * LANES)
        sample.insert(sample.end(), row + k, row + k + LANES);
    std::nth_element(sample.begin(), sample.begin() + rank, sample.end(), std::greater<float>());
    return sample[rank];
}

// The `count` largest scores of a row, the largest first; missing ones are -infinity.
inline const Candidate* top_k(const float* row, int64_t size, int64_t count, std::vector<Candidate>& buffer) {
    int64_t found = collect_candidates(row, size, count, estimate_threshold(row, size, count), buffer);
    if (found < count) found = collect_candidates(row, size, count, -INFINITY, buffer);
    Candidate* candidates = buffer.data();
    while (found < count) candidates[found++] = {-INFINITY, 0};
    std::sort(candidates, candidates + count, is_more_likely);
    return candidates;
}

// Probabilities and ids of the `count` most likely tokens; the largest logit is finite.
inline void top_k_probs(const float* row, int64_t size, float temperature, int64_t count, float* probs,
                        int64_t* tokens) {
    static thread_local std::vector<Candidate> buffer;
    const Candidate* candidates = top_k(row, size, count, buffer);
    const float maximum = candidates[0].score, factor = 1 / temperature;
    const int64_t whole = size / LANES * LANES;
    Vector sums = broadcast(0);
    for (int64_t k = 0; k < whole; k += LANES)
        sums = add(sums, exp_nonpositive(mul(add(load(row + k), broadcast(-maximum)), broadcast(factor))));
    float total = horizontal_sum(sums);
    for (int64_t k = whole; k < size; k++) total += exp_nonpositive((row[k] - maximum) * factor);
    for (int64_t n = 0; n < count; n++) {
        const float score = candidates[n].score;
        probs[n] = score == -INFINITY ? 0 : exp_nonpositive((score - maximum) * factor) / total;
        tokens[n] = candidates[n].token;
    }
}

}  // namespace
