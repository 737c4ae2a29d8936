// Attention of tokens that decode, each to its own sequence.
//
// It goes once through a sequence's keys and values, a tile after the other, with the running softmax
// of Milakov and Gimelshein (arXiv:1805.02867), as FlashAttention does.

#pragma once

#include "pool.h"
#include "vectors.h"

namespace {

constexpr int TILE = 64;       // tokens whose scores are held at once
constexpr int MAX_HEADS = 32;  // query heads of one task

// What a layer asks of attention, and where it keeps keys and values: library.py makes these.
struct Attention {
    int64_t num_heads, num_kv_heads, key_dim, value_dim;
    int64_t window;                    // a token sees itself and so many minus one before it; 0: all
    float *keys, *values;              // (num_slots, capacity, num_kv_heads, dim)
    int64_t keys_slot, values_slot;    // floats from a slot to the next
    int64_t ahead;                     // as a linear layer's
    float scale;
};

// The rows of a step, with the floats from a row and from a head to the next.
struct Projected {
    const float *query, *key, *value;
    int64_t query_row, query_head, key_row, key_head, value_row, value_head;
};

// One sequence's part in a step: some of its key heads, and the query heads that belong to them.
struct Heads {
    int64_t count, group, key_dim, value_dim;  // `group` query heads share a key head
    int64_t key_stride, value_stride;          // from a token to the next
    int64_t ahead;
    const float *query, *keys, *values;
    int64_t query_stride;  // from a head to the next
    float scale;
    float* output;
};

// Calls `work(head, key or value)` for each query head, with what it shares of a token.
template <typename Work>
inline void for_heads(const Heads& heads, const float* token, int64_t dim, const Work& work) {
    for (int64_t h = 0; h < heads.count; token += dim)
        for (const int64_t end = h + heads.group; h < end; h++) work(h, token);
}

// Attention to the tokens from `first` to `end`, for at most MAX_HEADS heads.
void attend(const Heads& heads, int64_t first, int64_t end) {
    float scores[MAX_HEADS][TILE], largest[MAX_HEADS], total[MAX_HEADS];
    for (int64_t h = 0; h < heads.count; h++) largest[h] = -INFINITY, total[h] = 0;
    std::memset(heads.output, 0, sizeof(float) * heads.count * heads.value_dim);
    for (int64_t start = first; start < end; start += TILE) {
        const int64_t size = std::min<int64_t>(TILE, end - start);
        for (int64_t t = 0; t < size; t++) {
            const float* token = heads.keys + (start + t) * heads.key_stride;
            for_heads(heads, token, heads.key_dim, [&](int64_t h, const float* key) {
                const float* query = heads.query + h * heads.query_stride;
                Vector product = all(0);
                for (int64_t d = 0; d < heads.key_dim; d += WIDTH) {
                    product = multiply_add(load(query + d), load(key + d), product);
                    if (heads.ahead) fetch(key + d + heads.ahead);
                }
                scores[h][t] = sum(product) * heads.scale;
            });
        }
        for (int64_t h = 0; h < heads.count; h++) {
            const float most = std::max(largest[h], *std::max_element(scores[h], scores[h] + size));
            const float shrink = largest[h] == -INFINITY ? 0 : exponential(largest[h] - most);
            largest[h] = most;
            total[h] *= shrink;
            for (int64_t t = size; t < TILE; t++) scores[h][t] = most;
            for (int t = 0; t < TILE; t += WIDTH)
                store(scores[h] + t, exponential(add(load(scores[h] + t), all(-most))));
            for (int64_t t = size; t < TILE; t++) scores[h][t] = 0;
            Vector sums = all(0);
            for (int t = 0; t < TILE; t += WIDTH) sums = add(sums, load(scores[h] + t));
            total[h] += sum(sums);
            float* output = heads.output + h * heads.value_dim;
            for (int64_t d = 0; d < heads.value_dim; d++) output[d] *= shrink;
        }
        for (int64_t t = 0; t < size; t++) {
            const float* token = heads.values + (start + t) * heads.value_stride;
            for_heads(heads, token, heads.value_dim, [&](int64_t h, const float* value) {
                float* output = heads.output + h * heads.value_dim;
                const Vector weight = all(scores[h][t]);
                for (int64_t d = 0; d < heads.value_dim; d += WIDTH) {
                    store(output + d, multiply_add(weight, load(value + d), load(output + d)));
                    if (heads.ahead) fetch(value + d + heads.ahead);
                }
            });
        }
    }
    for (int64_t h = 0; h < heads.count; h++)
        for (int64_t d = 0; d < heads.value_dim; d++) heads.output[h * heads.value_dim + d] /= total[h];
}

// Writes each row's key and value into its slot at its position, and attends to it and to those
// before it. The output is (num_rows, num_heads, value_dim).
void decode_attention(const Attention& layer, const Projected& rows, const int64_t* slots,
                      const int64_t* positions, float* output, int64_t num_rows, int threads) {
    const int64_t group = layer.num_heads / layer.num_kv_heads;
    const int64_t most = std::max<int64_t>(1, MAX_HEADS / group);  // key heads of a task
    const int64_t wanted = (2 * threads + num_rows - 1) / num_rows;
    const int64_t per_task = std::min(most, std::max<int64_t>(1, (layer.num_kv_heads + wanted - 1) / wanted));
    const int64_t tasks = (layer.num_kv_heads + per_task - 1) / per_task;
    const int64_t key_dim = layer.key_dim, value_dim = layer.value_dim;
    const int64_t key_stride = layer.num_kv_heads * key_dim, value_stride = layer.num_kv_heads * value_dim;
    pool.share(num_rows * tasks, threads, [=](int64_t task) {
        const int64_t row = task / tasks, first_head = task % tasks * per_task;
        const int64_t num_heads = std::min(per_task, layer.num_kv_heads - first_head);
        const int64_t position = positions[row];
        float* keys = layer.keys + slots[row] * layer.keys_slot + first_head * key_dim;
        float* values = layer.values + slots[row] * layer.values_slot + first_head * value_dim;
        for (int64_t h = 0; h < num_heads; h++) {
            const int64_t head = first_head + h;
            std::memcpy(keys + position * key_stride + h * key_dim,
                        rows.key + row * rows.key_row + head * rows.key_head, sizeof(float) * key_dim);
            std::memcpy(values + position * value_stride + h * value_dim,
                        rows.value + row * rows.value_row + head * rows.value_head, sizeof(float) * value_dim);
        }
        const int64_t first_query = first_head * group;
        const Heads heads = {
            num_heads * group, group, key_dim, value_dim, key_stride, value_stride, layer.ahead,
            rows.query + row * rows.query_row + first_query * rows.query_head, keys, values, rows.query_head,
            layer.scale, output + (row * layer.num_heads + first_query) * value_dim};
        attend(heads, layer.window ? std::max<int64_t>(0, position + 1 - layer.window) : 0, position + 1);
    });
}

}  // namespace
