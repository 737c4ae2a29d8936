// Attention of decoding sequences: one query token each, over the keys and values of its blocks.
//
// It reads a sequence's keys and values once. A row's result does not depend on the other rows, on the number
// of threads, nor on the places of its blocks.

#pragma once

#include "attention.h"

namespace {

constexpr int BATCH = 4;       // tokens that are read together
constexpr int MAX_HEADS = 32;  // query heads of a task, whose scores fit into L1

// Places of a step's rows in the KV cache.
struct Places {
    const int32_t* block_tables;  // (num_rows, table_width)
    int64_t table_width;
    const int64_t* positions;  // (num_rows,)
};

// Task of one thread: consecutive query heads of one sequence; `group` of them share a key head.
struct HeadGroup {
    const Attention& layer;
    BlockTable table;
    int64_t end;  // of the sequence
    int64_t first_kv_head, num_kv_heads, group;
    const float* query;
    int64_t query_stride;  // from a head to the next
    float* output;

    int64_t first_head() const { return first_kv_head * group; }
    int64_t num_heads() const { return num_kv_heads * group; }
};

// Finds the rows of the cache of BATCH tokens from `position` on. The last token stands in for those behind it.
inline void find_rows(const BlockTable& table, int64_t position, int64_t end, int64_t* rows) {
    const int64_t first = table.row(position);
    const bool is_run = position + BATCH <= end && (position & (table.block_size - 1)) + BATCH <= table.block_size;
    for (int i = 0; i < BATCH; i++) rows[i] = is_run ? first + i : table.row(std::min(position + i, end - 1));
}

// Calls `body(head, token, vectors)` for each query head and each BATCH tokens in [first, end), with their keys
// or values, of `dim` numbers. A batch of tokens farther on is prefetched meanwhile, token by token, so that
// memory is read in order and not in bursts.
template <typename Number, typename Body>
inline void for_each_batch(const HeadGroup& heads, const Number* cache, int64_t dim, int64_t first, int64_t end,
                           const Body& body) {
    const int64_t stride = heads.layer.num_kv_heads * dim, size = heads.num_kv_heads * dim;
    const int64_t num_ahead = heads.layer.prefetch_distance / (size * sizeof(Number));  // tokens
    cache += heads.first_kv_head * dim;
    for (int64_t position = first; position < end; position += BATCH) {
        int64_t rows[BATCH], next_rows[BATCH];
        find_rows(heads.table, position, end, rows);
        find_rows(heads.table, std::min(position + num_ahead, heads.end - 1), heads.end, next_rows);
        const Number* vectors[BATCH];
        for (int i = 0; i < BATCH; i++) vectors[i] = cache + rows[i] * stride;
        int64_t next = num_ahead && position + num_ahead < heads.end ? 0 : BATCH;  // token to prefetch
        for (int64_t h = 0; h < heads.num_heads();) {
            for (const int64_t stop = h + heads.group; h < stop; h++) {
                for (; next * heads.num_heads() < (h + 1) * BATCH; next++)
                    prefetch_bytes(cache + next_rows[next] * stride, size * sizeof(Number));
                body(h, position - first, vectors);
            }
            for (const Number*& vector : vectors) vector += dim;
        }
    }
}

// scores[h][t] = scale * dot product of query h and key t, capped; minus infinity behind the last key.
template <typename Number>
inline void score_tile(const HeadGroup& heads, int64_t first, int64_t end, float (*scores)[TILE]) {
    const Attention& layer = heads.layer;
    const auto* cache = static_cast<const Number*>(layer.keys);
    for_each_batch(heads, cache, layer.key_dim, first, end, [&](int64_t h, int64_t t, const Number** keys) {
        const float* query = heads.query + h * heads.query_stride;
        Vector products[BATCH] = {};
        for (int64_t d = 0; d < layer.key_dim; d += LANES)
            for (int i = 0; i < BATCH; i++)
                products[i] = fmadd(load(query + d), load(keys[i] + d), products[i]);
        store_sums(scores[h] + t, products);
    });
    for (int64_t h = 0; h < heads.num_heads(); h++) {
        for (int t = 0; t < TILE; t += LANES) {
            const Vector score = mul(load(scores[h] + t), broadcast(layer.scale));
            store(scores[h] + t, layer.softcap ? cap_scores(layer.softcap, score) : score);
        }
        for (int64_t t = end - first; t < TILE; t++) scores[h][t] = -INFINITY;
    }
}

inline float largest_score(const float* scores) {
    Vector maxima = load(scores);
    for (int t = LANES; t < TILE; t += LANES) maxima = max(maxima, load(scores + t));
    return horizontal_max(maxima);
}

// Replaces a head's scores by exp(score - maximum) and returns their sum.
inline float exponentiate(float* scores, float maximum) {
    Vector sums = broadcast(0);
    for (int t = 0; t < TILE; t += LANES) {
        const Vector weights = exp_or_zero(add(load(scores + t), broadcast(-maximum)));
        store(scores + t, weights);
        sums = add(sums, weights);
    }
    return horizontal_sum(sums);
}

// Adds a tile's values to the outputs, weighted. Values that stand in for others have a weight of 0.
template <typename Number>
inline void add_values(const HeadGroup& heads, int64_t first, int64_t end, const float (*weights)[TILE]) {
    const int64_t dim = heads.layer.value_dim;
    const auto* cache = static_cast<const Number*>(heads.layer.values);
    for_each_batch(heads, cache, dim, first, end, [&](int64_t h, int64_t t, const Number** values) {
        float* output = heads.output + h * dim;
        for (int64_t d = 0; d < dim; d += LANES) {
            Vector sum = load(output + d);
            for (int i = 0; i < BATCH; i++) sum = fmadd(broadcast(weights[h][t + i]), load(values[i] + d), sum);
            store(output + d, sum);
        }
    });
}

// Attention to the tokens in [first, end), for at most MAX_HEADS heads.
template <typename Number>
void attend(const HeadGroup& heads, int64_t first, int64_t end) {
    float scores[MAX_HEADS][TILE] = {}, maximum[MAX_HEADS], total[MAX_HEADS];
    const int64_t num_heads = heads.num_heads(), dim = heads.layer.value_dim;
    for (int64_t h = 0; h < num_heads; h++) {
        maximum[h] = initial_maximum(heads.layer, heads.first_head() + h);
        total[h] = initial_total(heads.layer);
    }
    std::memset(heads.output, 0, sizeof(float) * num_heads * dim);
    for (int64_t start = first; start < end; start += TILE) {
        const int64_t stop = std::min(end, start + TILE);
        score_tile<Number>(heads, start, stop, scores);
        for (int64_t h = 0; h < num_heads; h++) {
            const float largest = std::max(maximum[h], largest_score(scores[h]));
            const float correction = exp_or_zero(maximum[h] - largest);
            maximum[h] = largest;
            total[h] *= correction;
            total[h] += exponentiate(scores[h], largest);
            for (int64_t d = 0; d < dim; d++) heads.output[h * dim + d] *= correction;
        }
        add_values<Number>(heads, start, stop, scores);
    }
    for (int64_t h = 0; h < num_heads; h++)
        for (int64_t d = 0; d < dim; d++) heads.output[h * dim + d] /= total[h];
}

// Stores each row's key and value at its position, and attends to all tokens up to that. The output is
// (num_rows, num_heads, value_dim).
template <typename Number>
void attention_decode(const Attention& layer, const Projection& rows, const Places& places, float* output,
                      int64_t num_rows, int num_threads) {
    const int64_t group = layer.num_heads / layer.num_kv_heads;
    // Key heads of a task: as many as leave two tasks to each thread.
    const int64_t limit = std::max<int64_t>(1, MAX_HEADS / group);
    const int64_t min_tasks = (2 * num_threads + num_rows - 1) / num_rows;
    const int64_t per_task = std::min(limit, std::max<int64_t>(1, (layer.num_kv_heads + min_tasks - 1) / min_tasks));
    const int64_t num_tasks = (layer.num_kv_heads + per_task - 1) / per_task;  // of a row
    pool.parallel_for(num_rows * num_tasks, num_threads, [=, &layer](int64_t task) {
        const int64_t row = task / num_tasks, first_kv_head = task % num_tasks * per_task;
        const int64_t num_kv_heads = std::min(per_task, layer.num_kv_heads - first_kv_head);
        const int64_t first_head = first_kv_head * group, position = places.positions[row];
        const BlockTable table(layer, places.block_tables + row * places.table_width);
        store_token<Number>(layer, rows, row, table.row(position), first_kv_head, first_kv_head + num_kv_heads);
        const HeadGroup heads = {
            layer, table, position + 1, first_kv_head, num_kv_heads, group,
            rows.query + row * rows.query_row_stride + first_head * rows.query_head_stride, rows.query_head_stride,
            output + (row * layer.num_heads + first_head) * layer.value_dim};
        attend<Number>(heads, first_visible(layer, position), position + 1);
    });
}

void attention_decode(const Attention& layer, const Projection& rows, const Places& places, float* output,
                      int64_t num_rows, int num_threads) {
    with_cache_type(layer, [&](auto number) {
        attention_decode<decltype(number)>(layer, rows, places, output, num_rows, num_threads);
    });
}

}  // namespace
