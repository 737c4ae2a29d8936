// Attention of decoding sequences: one query token each, over the keys and values of its slot.
//
// It reads a sequence's keys and values once, tile by tile, with the online softmax of Milakov and
// Gimelshein (arXiv:1805.02867), as FlashAttention does (Dao et al. 2022, arXiv:2205.14135). It supports
// grouped-query heads and sliding windows. It does no prefill, no softcap, no attention sinks and no
// paging: a slot is contiguous.

#pragma once

#include "simd.h"
#include "thread_pool.h"

namespace {

constexpr int TILE = 64;       // tokens of a tile
constexpr int MAX_HEADS = 32;  // query heads of a task, whose scores fit into L1

// Attention of a layer and its KV cache. Mirrored by AttentionData in structs.py.
struct Attention {
    int64_t num_heads, num_kv_heads, key_dim, value_dim;
    int64_t window;                          // tokens that a token sees, itself included; 0: all
    float *keys, *values;                    // (num_slots, capacity, num_kv_heads, dim)
    int64_t key_slot_stride, value_slot_stride;  // in floats
    int64_t prefetch_distance;               // as in Linear
    float scale;
};

// Queries, keys and values of a step's rows; strides in floats. Mirrored by ProjectionData in structs.py.
struct Projection {
    const float *query, *key, *value;
    int64_t query_row_stride, query_head_stride;
    int64_t key_row_stride, key_head_stride;
    int64_t value_row_stride, value_head_stride;
};

// Task of one thread: `num_heads` query heads of one sequence; `group` of them share a key head.
struct HeadGroup {
    int64_t num_heads, group, key_dim, value_dim;
    int64_t key_stride, value_stride;  // from a token to the next
    int64_t prefetch_distance;
    const float *query, *keys, *values;
    int64_t query_stride;  // from a head to the next
    float scale;
    float* output;
};

// Calls `body(head, vector)` for each query head, with the key or value of a token that it attends to.
template <typename Body>
inline void for_each_head(const HeadGroup& heads, const float* token, int64_t dim, const Body& body) {
    for (int64_t h = 0; h < heads.num_heads; token += dim)
        for (const int64_t end = h + heads.group; h < end; h++) body(h, token);
}

// scores[h][t] = scale * dot product of query h and key t.
inline void score_tile(const HeadGroup& heads, int64_t start, int64_t size, float (*scores)[TILE]) {
    for (int64_t t = 0; t < size; t++) {
        const float* token = heads.keys + (start + t) * heads.key_stride;
        for_each_head(heads, token, heads.key_dim, [&](int64_t h, const float* key) {
            const float* query = heads.query + h * heads.query_stride;
            Vector product = broadcast(0);
            for (int64_t d = 0; d < heads.key_dim; d += LANES) {
                product = fmadd(load(query + d), load(key + d), product);
                if (heads.prefetch_distance) prefetch(key + d + heads.prefetch_distance);
            }
            scores[h][t] = horizontal_sum(product) * heads.scale;
        });
    }
}

// Replaces a head's scores by exp(score - maximum), padded with zeros, and returns their sum.
inline float exponentiate(float* scores, int64_t size, float maximum) {
    for (int64_t t = size; t < TILE; t++) scores[t] = maximum;
    for (int t = 0; t < TILE; t += LANES)
        store(scores + t, exp_nonpositive(add(load(scores + t), broadcast(-maximum))));
    for (int64_t t = size; t < TILE; t++) scores[t] = 0;
    Vector sums = broadcast(0);
    for (int t = 0; t < TILE; t += LANES) sums = add(sums, load(scores + t));
    return horizontal_sum(sums);
}

// Adds a tile's values to the outputs, weighted.
inline void add_values(const HeadGroup& heads, int64_t start, int64_t size, const float (*weights)[TILE]) {
    for (int64_t t = 0; t < size; t++) {
        const float* token = heads.values + (start + t) * heads.value_stride;
        for_each_head(heads, token, heads.value_dim, [&](int64_t h, const float* value) {
            float* output = heads.output + h * heads.value_dim;
            const Vector weight = broadcast(weights[h][t]);
            for (int64_t d = 0; d < heads.value_dim; d += LANES) {
                store(output + d, fmadd(weight, load(value + d), load(output + d)));
                if (heads.prefetch_distance) prefetch(value + d + heads.prefetch_distance);
            }
        });
    }
}

// Attention to the tokens in [first, end), for at most MAX_HEADS heads.
void attend(const HeadGroup& heads, int64_t first, int64_t end) {
    float scores[MAX_HEADS][TILE], maximum[MAX_HEADS], total[MAX_HEADS];
    for (int64_t h = 0; h < heads.num_heads; h++) maximum[h] = -INFINITY, total[h] = 0;
    std::memset(heads.output, 0, sizeof(float) * heads.num_heads * heads.value_dim);
    for (int64_t start = first; start < end; start += TILE) {
        const int64_t size = std::min<int64_t>(TILE, end - start);
        score_tile(heads, start, size, scores);
        for (int64_t h = 0; h < heads.num_heads; h++) {
            const float largest = std::max(maximum[h], *std::max_element(scores[h], scores[h] + size));
            const float correction = maximum[h] == -INFINITY ? 0 : exp_nonpositive(maximum[h] - largest);
            maximum[h] = largest;
            total[h] *= correction;
            total[h] += exponentiate(scores[h], size, largest);
            float* output = heads.output + h * heads.value_dim;
            for (int64_t d = 0; d < heads.value_dim; d++) output[d] *= correction;
        }
        add_values(heads, start, size, scores);
    }
    for (int64_t h = 0; h < heads.num_heads; h++)
        for (int64_t d = 0; d < heads.value_dim; d++) heads.output[h * heads.value_dim + d] /= total[h];
}

// Stores each row's key and value in its slot at its position, and attends to all tokens up to that.
// The output is (num_rows, num_heads, value_dim).
void attention_decode(const Attention& layer, const Projection& rows, const int64_t* slots,
                      const int64_t* positions, float* output, int64_t num_rows, int num_threads) {
    const int64_t group = layer.num_heads / layer.num_kv_heads;
    // Key heads of a task: as many as leave two tasks to each thread.
    const int64_t limit = std::max<int64_t>(1, MAX_HEADS / group);
    const int64_t min_tasks = (2 * num_threads + num_rows - 1) / num_rows;
    const int64_t per_task = std::min(limit, std::max<int64_t>(1, (layer.num_kv_heads + min_tasks - 1) / min_tasks));
    const int64_t num_tasks = (layer.num_kv_heads + per_task - 1) / per_task;  // of a row
    const int64_t key_dim = layer.key_dim, value_dim = layer.value_dim;
    const int64_t key_stride = layer.num_kv_heads * key_dim, value_stride = layer.num_kv_heads * value_dim;
    pool.parallel_for(num_rows * num_tasks, num_threads, [=](int64_t task) {
        const int64_t row = task / num_tasks, first_head = task % num_tasks * per_task;
        const int64_t num_kv_heads = std::min(per_task, layer.num_kv_heads - first_head);
        const int64_t position = positions[row];
        float* keys = layer.keys + slots[row] * layer.key_slot_stride + first_head * key_dim;
        float* values = layer.values + slots[row] * layer.value_slot_stride + first_head * value_dim;
        for (int64_t h = 0; h < num_kv_heads; h++) {
            const int64_t head = first_head + h;
            std::memcpy(keys + position * key_stride + h * key_dim,
                        rows.key + row * rows.key_row_stride + head * rows.key_head_stride,
                        sizeof(float) * key_dim);
            std::memcpy(values + position * value_stride + h * value_dim,
                        rows.value + row * rows.value_row_stride + head * rows.value_head_stride,
                        sizeof(float) * value_dim);
        }
        const int64_t first_query = first_head * group;
        const HeadGroup heads = {
            num_kv_heads * group, group, key_dim, value_dim, key_stride, value_stride, layer.prefetch_distance,
            rows.query + row * rows.query_row_stride + first_query * rows.query_head_stride, keys, values,
            rows.query_head_stride, layer.scale, output + (row * layer.num_heads + first_query) * value_dim};
        attend(heads, layer.window ? std::max<int64_t>(0, position + 1 - layer.window) : 0, position + 1);
    });
}

}  // namespace
