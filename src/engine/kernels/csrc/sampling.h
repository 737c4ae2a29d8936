// What choosing a token needs of a row of logits: the largest, and the most likely ones.

#pragma once

#include <functional>
#include <vector>

#include "pool.h"
#include "vectors.h"

namespace {

// The largest of a row and the first place where it is; no number if one of them is none.
inline void find_largest(const float* row, int64_t size, float* value, int64_t* place) {
    const int64_t whole = size / WIDTH * WIDTH;
    Vector most = all(-INFINITY);
    bool is_number = true;
    for (int64_t k = 0; k < whole; k += WIDTH) {
        const Vector values = load(row + k);
        most = largest(most, values);
        is_number &= !unordered(values);
    }
    float lanes[WIDTH];
    store(lanes, most);
    float found = *std::max_element(lanes, lanes + WIDTH);
    for (int64_t k = whole; k < size; k++) {
        found = std::max(found, row[k]);
        is_number &= row[k] == row[k];
    }
    *value = is_number ? found : NAN;
    int64_t k = 0;
    while (k < whole && !equal(load(row + k), all(found))) k += WIDTH;
    while (k < size - 1 && row[k] != found) k++;
    *place = k;
}

struct Candidate {
    float score;
    int64_t token;
};

inline bool is_more_likely(const Candidate& a, const Candidate& b) {
    return a.score > b.score || (a.score == b.score && a.token < b.token);
}

// Who is not above `least` is passed over, many at a time. If more are than there is room for, those
// that are not among the `count` largest so far are dropped. Returns how many were found.
inline int64_t find_above(const float* row, int64_t size, int64_t count, float least,
                          std::vector<Candidate>& found) {
    const int64_t most = 4 * count;
    found.resize(most + WIDTH);
    Candidate* candidates = found.data();
    int64_t number = 0;
    const auto drop = [&] {
        std::nth_element(candidates, candidates + count - 1, candidates + number, is_more_likely);
        number = count;
        least = candidates[count - 1].score;
    };
    const int64_t whole = size / WIDTH * WIDTH;
    for (int64_t k = 0; k < whole; k += WIDTH) {
        for (int above = greater(load(row + k), all(least)); above; above &= above - 1) {
            const int64_t token = k + __builtin_ctz(above);
            candidates[number++] = {row[token], token};
        }
        if (number >= most) drop();
    }
    for (int64_t token = whole; token < size; token++)
        if (row[token] > least) candidates[number++] = {row[token], token};
    if (number > count) drop();
    return number;
}

// What nearly always fewer than twice `count` are above, and at least `count`: judged by a sample.
inline float guess_least(const float* row, int64_t size, int64_t count) {
    constexpr int64_t EVERY = 16;
    const int64_t rank = 3 * count / (2 * EVERY) + 8;
    if (size < 2 * EVERY * (rank + WIDTH)) return -INFINITY;
    static thread_local std::vector<float> sample;
    sample.clear();
    for (int64_t k = 0; k + WIDTH <= size; k += EVERY * WIDTH)
        sample.insert(sample.end(), row + k, row + k + WIDTH);
    std::nth_element(sample.begin(), sample.begin() + rank, sample.end(), std::greater<float>());
    return sample[rank];
}

// The `count` largest of a row, the largest first.
inline const Candidate* find_most(const float* row, int64_t size, int64_t count, std::vector<Candidate>& found) {
    int64_t number = find_above(row, size, count, guess_least(row, size, count), found);
    if (number < count) number = find_above(row, size, count, -INFINITY, found);
    Candidate* candidates = found.data();
    while (number < count) candidates[number++] = {-INFINITY, 0};  // impossible ones
    std::sort(candidates, candidates + count, is_more_likely);
    return candidates;
}

// The probabilities of the `count` most likely tokens, and which these are; the largest logit is finite.
inline void find_most_likely(const float* row, int64_t size, float temperature, int64_t count,
                             float* probabilities, int64_t* tokens) {
    static thread_local std::vector<Candidate> found;
    const Candidate* candidates = find_most(row, size, count, found);
    const float most = candidates[0].score, factor = 1 / temperature;
    const int64_t whole = size / WIDTH * WIDTH;
    Vector sums = all(0);
    for (int64_t k = 0; k < whole; k += WIDTH)
        sums = add(sums, exponential(multiply(add(load(row + k), all(-most)), all(factor))));
    float total = sum(sums);
    for (int64_t k = whole; k < size; k++) total += exponential((row[k] - most) * factor);
    for (int64_t n = 0; n < count; n++) {
        const float score = candidates[n].score;
        probabilities[n] = score == -INFINITY ? 0 : exponential((score - most) * factor) / total;
        tokens[n] = candidates[n].token;
    }
}

}  // namespace
