// Attention of consecutive tokens of one sequence, causal, as FlashAttention: no score leaves the cache.
//
// A task has the rows of a few tokens: a row is a pair of a token and a query head that shares the task's key
// head. For each tile of keys it copies the keys and values out of their blocks, and computes
//   1. scores, transposed, with rows in the lanes: queries are packed once, and keys are broadcast,
//   2. the softmax's weights, along the tokens and thus without a sum over lanes,
//   3. outputs, with the numbers of a value in the lanes: weights are broadcast.
// 1 and 3 are GEMM micro-kernels as in linear.h. Only tiles on the diagonal or at the edge of the window are
// masked; those beyond are skipped.
//
// Tiles begin at multiples of TILE positions, and every number is one sum in a fixed order of tokens. So a
// token's result does not depend on the number of threads, on the places of the blocks, nor on the chunks in
// which a prompt is computed. It is not that of decode_attention.h to the last bit.

#pragma once

#include "attention.h"
#include "linear.h"

namespace {

constexpr int QUERY_VECTORS = 3;
constexpr int QUERY_ROWS = QUERY_VECTORS * LANES;  // rows of a panel
#ifdef __AVX512F__
constexpr int SCORE_TOKENS = 8;  // with QUERY_VECTORS their sums fill the registers
#else
constexpr int SCORE_TOKENS = 4;
#endif
constexpr int MAX_PANELS = 192 / QUERY_ROWS;
constexpr int64_t MAX_TASK_ROWS = MAX_PANELS * QUERY_ROWS;  // of a key head
constexpr int64_t MAX_TASK_HEADS = 8, MAX_TASK_DIMS = 256;  // whose tiles fit into L2

// Rows of a task that are computed together, and their softmax. Rows that do not exist repeat the last.
struct QueryPanel {
    int64_t num_rows, first_position, last_position;
    float* queries;  // (key_dim, QUERY_ROWS), scaled
    float* outputs;  // (QUERY_ROWS, value_dim)
    float first_visible[QUERY_ROWS], position[QUERY_ROWS];  // positions are exact in float32 up to 2^24
    float maximum[QUERY_ROWS], total[QUERY_ROWS], correction[QUERY_ROWS];

    int64_t num_vectors() const { return (num_rows + LANES - 1) / LANES; }
};

// Keys and values of a tile, without gaps; only tokens in [first, end) exist. Positions count from the tile.
struct KeyTile {
    int64_t start, first, end;
    float* keys;    // (TILE, key_dim)
    float* values;  // (TILE, value_dim)
};

// Scores of a tile's tokens in [first, end) and a panel's rows, then their weights. Tokens that a row does not see
// are among them if `is_masked`.
struct ScoreTile {
    int64_t start, first, end;
    bool is_masked;
    alignas(64) float scores[TILE][QUERY_ROWS];
};

// scores[t][row] of SCORE_TOKENS keys and the first `vectors` vectors of a panel's rows.
template <int vectors>
inline void score_tokens(const float* queries, const float* keys, int64_t dim, float (*scores)[QUERY_ROWS]) {
    Vector sums[SCORE_TOKENS][vectors];
    for (int t = 0; t < SCORE_TOKENS; t++)
        for (int v = 0; v < vectors; v++) sums[t][v] = broadcast(0);
    for (int64_t d = 0; d < dim; d++) {
        Vector query[vectors];
        for (int v = 0; v < vectors; v++) query[v] = load(queries + d * QUERY_ROWS + v * LANES);
        for (int t = 0; t < SCORE_TOKENS; t++) {
            const Vector key = broadcast(keys[t * dim + d]);
            for (int v = 0; v < vectors; v++) sums[t][v] = fmadd(key, query[v], sums[t][v]);
        }
    }
    for (int t = 0; t < SCORE_TOKENS; t++)
        for (int v = 0; v < vectors; v++) store(scores[t] + v * LANES, sums[t][v]);
}

// Caps and masks the scores of one vector of rows, and updates their maxima.
inline void mask_scores(const Attention& layer, QueryPanel& panel, ScoreTile& tile, int lane) {
    Vector largest = load(panel.maximum + lane);
    const Vector first_visible = load(panel.first_visible + lane), position = load(panel.position + lane);
    for (int64_t t = tile.first; t < tile.end; t++) {
        Vector score = load(tile.scores[t] + lane);
        if (layer.softcap) score = cap_scores(layer.softcap, score);
        if (tile.is_masked) {
            const Vector token = broadcast(tile.start + t);
            score = select_greater(token, position, broadcast(-INFINITY), score);
            score = select_greater(first_visible, token, broadcast(-INFINITY), score);
        }
        if (layer.softcap || tile.is_masked) store(tile.scores[t] + lane, score);
        largest = max(largest, score);
    }
    store(panel.correction + lane, exp_or_zero(sub(load(panel.maximum + lane), largest)));
    store(panel.maximum + lane, largest);
}

// Replaces the scores of one vector of rows by exp(score - maximum), and updates their totals.
inline void exponentiate_rows(QueryPanel& panel, ScoreTile& tile, int lane) {
    const Vector maximum = load(panel.maximum + lane);
    Vector sums = broadcast(0);
    for (int64_t t = tile.first; t < tile.end; t++) {
        const Vector weight = exp_or_zero(sub(load(tile.scores[t] + lane), maximum));
        store(tile.scores[t] + lane, weight);
        sums = add(sums, weight);
    }
    store(panel.total + lane, fmadd(load(panel.total + lane), load(panel.correction + lane), sums));
}

// Adds the values of the tokens in [first, end), weighted, to `rows` corrected outputs, a few columns of them.
template <int rows, int vectors>
inline void add_weighted_values(const float* weights, const float* correction, const float* values, int64_t dim,
                                int64_t first, int64_t end, float* outputs) {
    Vector sums[rows][vectors];
    for (int row = 0; row < rows; row++)
        for (int v = 0; v < vectors; v++)
            sums[row][v] = mul(broadcast(correction[row]), load(outputs + row * dim + v * LANES));
    for (int64_t t = first; t < end; t++) {
        Vector value[vectors];
        for (int v = 0; v < vectors; v++) value[v] = load(values + t * dim + v * LANES);
        for (int row = 0; row < rows; row++) {
            const Vector weight = broadcast(weights[t * QUERY_ROWS + row]);
            for (int v = 0; v < vectors; v++) sums[row][v] = fmadd(weight, value[v], sums[row][v]);
        }
    }
    for (int row = 0; row < rows; row++)
        for (int v = 0; v < vectors; v++) store(outputs + row * dim + v * LANES, sums[row][v]);
}

// Adds a tile to the outputs of a panel. Each few rows read only values that one of them sees.
inline void add_tile(const Attention& layer, const QueryPanel& panel, const KeyTile& tile, const float* weights) {
    const int64_t dim = layer.value_dim;
    for_row_tiles(panel.num_rows, [&](auto rows, int64_t row) {
        const int64_t position = static_cast<int64_t>(panel.position[row + rows - 1]);
        const int64_t first = std::max(tile.first, static_cast<int64_t>(panel.first_visible[row]) - tile.start);
        const int64_t end = std::min(tile.end, position + 1 - tile.start);
        if (first >= end) return;  // the weights and the corrections are 0 and 1
        for_row_tiles<VECTORS>(dim / LANES, [&](auto vectors, int64_t v) {
            add_weighted_values<rows, vectors>(weights + row, panel.correction + row, tile.values + v * LANES, dim,
                                               first, end, panel.outputs + row * dim + v * LANES);
        });
    });
}

// Tokens in [first, end) of a segment, with the query heads of a few key heads.
struct PrefillTask {
    const Attention& layer;
    const Projection& tokens;
    BlockTable table;
    int64_t start, first_kv_head, num_kv_heads, first, end;
    float* output;  // of the segment

    int64_t group() const { return layer.num_heads / layer.num_kv_heads; }
    int64_t num_rows() const { return (end - first) * group(); }  // of a key head
    int64_t token(int64_t row) const { return first + row / group(); }
    int64_t head(int64_t kv_head, int64_t row) const { return (first_kv_head + kv_head) * group() + row % group(); }
};

// Prefetches a part of the tokens in [first, first + TILE): number `part` of `num_parts`.
inline void prefetch_tokens(const PrefillTask& task, int64_t first, int64_t part, int64_t num_parts) {
    const Attention& layer = task.layer;
    const int64_t number_size = layer.cache_type == FLOAT32 ? sizeof(float) : sizeof(uint16_t);
    const int64_t end = std::min(first + TILE * (part + 1) / num_parts, task.start + task.end);
    task.table.for_each_token(first + TILE * part / num_parts, end, [&](int64_t, int64_t row) {
        const int64_t index = row * layer.num_kv_heads + task.first_kv_head;
        const int64_t key_bytes = layer.key_dim * number_size, value_bytes = layer.value_dim * number_size;
        prefetch_bytes(static_cast<const char*>(layer.keys) + index * key_bytes, task.num_kv_heads * key_bytes);
        prefetch_bytes(static_cast<const char*>(layer.values) + index * value_bytes, task.num_kv_heads * value_bytes);
    });
}

inline int64_t round_down(int64_t token) { return token / SCORE_TOKENS * SCORE_TOKENS; }
inline int64_t round_up(int64_t token) { return round_down(token + SCORE_TOKENS - 1); }

// Adds a tile to the softmax and the outputs of a panel, and prefetches a part of the next tile meanwhile.
inline void attend_tile(const PrefillTask& task, QueryPanel& panel, const KeyTile& tile, int64_t part,
                        int64_t num_parts) {
    const Attention& layer = task.layer;
    const int64_t first = std::max(tile.first, first_visible(layer, panel.first_position) - tile.start);
    const int64_t end = std::min(tile.end, panel.last_position + 1 - tile.start);
    if (first >= end) return;
    ScoreTile scores;
    scores.start = tile.start, scores.first = round_down(first), scores.end = round_up(end);
    scores.is_masked = scores.start + scores.end - 1 > panel.first_position ||
                       scores.start + scores.first < first_visible(layer, panel.last_position);
    for_row_tiles<QUERY_VECTORS>(panel.num_vectors(), [&](auto vectors, int64_t) {
        for (int64_t t = scores.first; t < scores.end; t += SCORE_TOKENS) {
            const int64_t count = TILE / SCORE_TOKENS;
            prefetch_tokens(task, tile.start + TILE, part * count + t / SCORE_TOKENS, num_parts * count);
            score_tokens<vectors>(panel.queries, tile.keys + t * layer.key_dim, layer.key_dim, scores.scores + t);
        }
    });
    for (int lane = 0; lane < panel.num_vectors() * LANES; lane += LANES) {
        mask_scores(layer, panel, scores, lane);
        exponentiate_rows(panel, scores, lane);
    }
    add_tile(layer, panel, tile, scores.scores[0]);
}

// Packs queries of 8 rows, scaled, into columns of a panel.
inline void pack_queries(const float* const (&rows)[8], int64_t dim, float scale, float* columns) {
    for (int64_t d = 0; d < dim; d += 8) {
        __m256 numbers[8];
        for (int i = 0; i < 8; i++) numbers[i] = _mm256_mul_ps(_mm256_loadu_ps(rows[i] + d), _mm256_set1_ps(scale));
        transpose(numbers);
        for (int i = 0; i < 8; i++) _mm256_storeu_ps(columns + (d + i) * QUERY_ROWS, numbers[i]);
    }
}

// Fills a panel with the rows of a key head from `first_row` on. Lanes without a row repeat the last.
inline void prepare_panel(const PrefillTask& task, int64_t kv_head, int64_t first_row, QueryPanel& panel) {
    const Attention& layer = task.layer;
    const Projection& tokens = task.tokens;
    panel.num_rows = std::min<int64_t>(QUERY_ROWS, task.num_rows() - first_row);
    panel.first_position = task.start + task.token(first_row);
    panel.last_position = task.start + task.token(first_row + panel.num_rows - 1);
    const float* queries[8];
    for (int64_t lane = 0; lane < panel.num_vectors() * LANES; lane++) {
        const int64_t row = first_row + std::min(lane, panel.num_rows - 1), token = task.token(row);
        const int64_t head = task.head(kv_head, row), position = task.start + token;
        panel.position[lane] = position;
        panel.first_visible[lane] = first_visible(layer, position);
        panel.maximum[lane] = initial_maximum(layer, head);
        panel.total[lane] = initial_total(layer);
        queries[lane % 8] = tokens.query + token * tokens.query_row_stride + head * tokens.query_head_stride;
        if (lane % 8 == 7) pack_queries(queries, layer.key_dim, layer.scale, panel.queries + lane - 7);
    }
    std::memset(panel.outputs, 0, sizeof(float) * panel.num_rows * layer.value_dim);
}

// Copies the tokens in [tile.first, tile.end) out of their blocks, key head by key head. Keys around them, which
// are computed with them and masked, become 0.
template <typename Number>
inline void copy_tile(const PrefillTask& task, const KeyTile& tile) {
    const int64_t num_kv_heads = task.layer.num_kv_heads, key_dim = task.layer.key_dim;
    const int64_t value_dim = task.layer.value_dim;
    const int64_t from = round_down(tile.first), to = round_up(tile.end);
    for (int64_t h = 0; h < task.num_kv_heads; h++) {
        float* keys = tile.keys + h * TILE * key_dim;
        std::memset(keys + from * key_dim, 0, sizeof(float) * (tile.first - from) * key_dim);
        std::memset(keys + tile.end * key_dim, 0, sizeof(float) * (to - tile.end) * key_dim);
    }
    task.table.for_each_token(tile.start + tile.first, tile.start + tile.end, [&](int64_t position, int64_t row) {
        const int64_t t = position - tile.start, index = row * num_kv_heads + task.first_kv_head;
        for (int64_t h = 0; h < task.num_kv_heads; h++) {
            copy_numbers(static_cast<const Number*>(task.layer.keys) + (index + h) * key_dim, key_dim,
                         tile.keys + (h * TILE + t) * key_dim);
            copy_numbers(static_cast<const Number*>(task.layer.values) + (index + h) * value_dim, value_dim,
                         tile.values + (h * TILE + t) * value_dim);
        }
    });
}

inline void store_outputs(const PrefillTask& task, int64_t kv_head, int64_t first_row, const QueryPanel& panel) {
    const int64_t dim = task.layer.value_dim;
    for (int64_t r = 0; r < panel.num_rows; r++) {
        const int64_t row = first_row + r;
        float* output = task.output + (task.token(row) * task.layer.num_heads + task.head(kv_head, row)) * dim;
        const Vector total = broadcast(panel.total[r]);
        for (int64_t d = 0; d < dim; d += LANES) store(output + d, div(load(panel.outputs + r * dim + d), total));
    }
}

void attend(const PrefillTask& task) {
    const Attention& layer = task.layer;
    const int64_t num_panels = (task.num_rows() + QUERY_ROWS - 1) / QUERY_ROWS;  // of a key head
    const int64_t num_parts = task.num_kv_heads * num_panels, dims = layer.key_dim + layer.value_dim;
    float* memory = scratch<Buffer::PREFILL, float>((task.num_kv_heads * TILE + num_parts * QUERY_ROWS) * dims);
    const int64_t key_size = TILE * layer.key_dim, value_size = TILE * layer.value_dim;
    KeyTile tile = {0, 0, 0, memory, memory + task.num_kv_heads * key_size};
    memory += task.num_kv_heads * TILE * dims;
    QueryPanel panels[MAX_TASK_HEADS * MAX_PANELS];
    for (int64_t p = 0; p < num_parts; p++, memory += QUERY_ROWS * dims) {
        panels[p].queries = memory;
        panels[p].outputs = memory + QUERY_ROWS * layer.key_dim;
        prepare_panel(task, p / num_panels, p % num_panels * QUERY_ROWS, panels[p]);
    }
    const int64_t first = first_visible(layer, task.start + task.first), end = task.start + task.end;
    for (tile.start = first / TILE * TILE; tile.start < end; tile.start += TILE) {
        tile.first = std::max<int64_t>(0, first - tile.start);
        tile.end = std::min<int64_t>(TILE, end - tile.start);
        with_cache_type(layer, [&](auto number) { copy_tile<decltype(number)>(task, tile); });
        for (int64_t p = 0; p < num_parts; p++) {
            KeyTile head = tile;
            head.keys += p / num_panels * key_size;
            head.values += p / num_panels * value_size;
            attend_tile(task, panels[p], head, p, num_parts);
        }
    }
    for (int64_t p = 0; p < num_parts; p++)
        store_outputs(task, p / num_panels, p % num_panels * QUERY_ROWS, panels[p]);
}

// Division of a segment into tasks: chunks of tokens, times groups of key heads that are adjacent in memory.
struct PrefillPlan {
    int64_t num_chunks, chunk_size, num_groups, group_size;
};

// Two tasks to each thread, unless their rows would not fill a vector.
inline PrefillPlan plan_prefill(const Attention& layer, int64_t num_tokens, int num_threads) {
    const auto divide = [](int64_t count, int64_t size) { return (count + size - 1) / size; };
    const int64_t group = layer.num_heads / layer.num_kv_heads, min_tasks = 2 * num_threads;
    const int64_t share = std::max(divide(num_tokens * layer.num_kv_heads, min_tasks), divide(LANES, group));
    PrefillPlan plan;
    plan.num_chunks = divide(num_tokens, std::min(MAX_TASK_ROWS / group, share));
    plan.chunk_size = divide(num_tokens, plan.num_chunks);
    const int64_t max_heads = std::clamp<int64_t>(MAX_TASK_DIMS / layer.key_dim, 1, MAX_TASK_HEADS);
    plan.group_size = std::min(max_heads, divide(plan.num_chunks * layer.num_kv_heads, min_tasks));
    plan.num_groups = divide(layer.num_kv_heads, plan.group_size);
    return plan;
}

// Stores the keys and values of consecutive tokens of a sequence at positions from `start` on, and attends
// causally. The output is (num_tokens, num_heads, value_dim).
void attention_prefill(const Attention& layer, const Projection& tokens, const int32_t* block_table, int64_t start,
                       float* output, int64_t num_tokens, int num_threads) {
    const BlockTable table(layer, block_table);
    const int64_t num_kv_heads = layer.num_kv_heads;
    const int64_t size = num_kv_heads * (layer.key_dim + layer.value_dim);
    parallel_for_rows(num_tokens, size, num_threads, [&](int64_t token) {
        with_cache_type(layer, [&](auto number) {
            store_token<decltype(number)>(layer, tokens, token, table.row(start + token), 0, num_kv_heads);
        });
    });
    const PrefillPlan plan = plan_prefill(layer, num_tokens, num_threads);
    pool.parallel_for(plan.num_chunks * plan.num_groups, num_threads, [&](int64_t index) {
        const int64_t chunk = plan.num_chunks - 1 - index / plan.num_groups;  // the longest tasks first
        const int64_t head = index % plan.num_groups * plan.group_size, first = chunk * plan.chunk_size;
        attend({layer, tokens, table, start, head, std::min(plan.group_size, num_kv_heads - head), first,
                std::min(num_tokens, first + plan.chunk_size), output});
    });
}

}  // namespace
