// A layer's attention over its paged KV cache: what decode_attention.h and prefill_attention.h share.
//
// The cache is divided into blocks of tokens, as in PagedAttention (Kwon et al. 2023, arXiv:2309.06180). The
// block table of a sequence holds the indices of its blocks, which lie anywhere. Both kernels read keys and
// values tile by tile, with the online softmax of Milakov and Gimelshein (arXiv:1805.02867), as
// FlashAttention does (Dao et al. 2022, arXiv:2205.14135). They support grouped-query heads, sliding windows,
// softcaps and attention sinks. They read no token behind a sequence's end or before its window.

#pragma once

#include <cfloat>

#include "half.h"
#include "thread_pool.h"

namespace {

constexpr int TILE = 64;  // tokens of a tile

enum CacheType : int64_t { FLOAT32, BFLOAT16, FLOAT16 };  // in the order of CACHE_TYPES in structs.py

// Attention of a layer and its KV cache. Mirrored by AttentionData in structs.py.
struct Attention {
    int64_t num_heads, num_kv_heads, key_dim, value_dim;
    int64_t window;             // tokens that a token sees, itself included; 0: all
    int64_t block_size;         // tokens of a block, a power of two
    int64_t cache_type;         // of keys and values
    void *keys, *values;        // (num_blocks, block_size, num_kv_heads, dim)
    const float* sinks;         // (num_heads,), scores without a value in the softmax, or null
    int64_t prefetch_distance;  // bytes of the cache that decoding prefetches; 0: none
    float scale;
    float softcap;  // bounds the scores: softcap * tanh(scores / softcap); 0: none
};

// Queries, keys and values of a step's rows; strides in floats. Mirrored by ProjectionData in structs.py.
struct Projection {
    const float *query, *key, *value;
    int64_t query_row_stride, query_head_stride;
    int64_t key_row_stride, key_head_stride;
    int64_t value_row_stride, value_head_stride;
};

// Blocks of a sequence, by position in the sequence.
struct BlockTable {
    const int32_t* blocks;
    int64_t block_size;
    int shift;  // log2 of the block size

    BlockTable(const Attention& layer, const int32_t* table)
        : blocks(table), block_size(layer.block_size), shift(__builtin_ctzll(layer.block_size)) {}

    // Row of the cache, which counts tokens over all blocks.
    int64_t row(int64_t position) const {
        return (static_cast<int64_t>(blocks[position >> shift]) << shift) + (position & (block_size - 1));
    }

    // Calls `body(position, row)` for each token in [first, end).
    template <typename Body>
    void for_each_token(int64_t first, int64_t end, const Body& body) const {
        for (int64_t position = first; position < end;) {
            const int64_t offset = row(position) - position;
            const int64_t stop = std::min(end, (position | (block_size - 1)) + 1);
            for (; position < stop; position++) body(position, position + offset);
        }
    }
};

// First position that a token sees.
inline int64_t first_visible(const Attention& layer, int64_t position) {
    return layer.window ? std::max<int64_t>(0, position + 1 - layer.window) : 0;
}

// Calls `body` with a number of the cache's type.
template <typename Body>
inline void with_cache_type(const Attention& layer, const Body& body) {
    switch (layer.cache_type) {
        case BFLOAT16: return body(BFloat16());
        case FLOAT16: return body(Float16());
        default: return body(float());
    }
}

// Stores the keys and values of row `row`, for the key heads in [first_head, end_head), in the cache.
template <typename Number>
inline void store_token(const Attention& layer, const Projection& rows, int64_t row, int64_t cache_row,
                        int64_t first_head, int64_t end_head) {
    for (int64_t head = first_head; head < end_head; head++) {
        const int64_t index = cache_row * layer.num_kv_heads + head;
        copy_numbers(rows.key + row * rows.key_row_stride + head * rows.key_head_stride, layer.key_dim,
                     static_cast<Number*>(layer.keys) + index * layer.key_dim);
        copy_numbers(rows.value + row * rows.value_row_stride + head * rows.value_head_stride, layer.value_dim,
                     static_cast<Number*>(layer.values) + index * layer.value_dim);
    }
}

// State of the online softmax before the first token. The maximum is finite, so that the weight of a score
// of minus infinity is 0 and not NaN.
inline float initial_maximum(const Attention& layer, int64_t head) {
    return layer.sinks ? std::max(-FLT_MAX, layer.sinks[head]) : -FLT_MAX;
}
inline float initial_total(const Attention& layer) { return layer.sinks ? 1 : 0; }

inline Vector cap_scores(float softcap, Vector scores) {
    return mul(broadcast(softcap), tanh(mul(scores, broadcast(1 / softcap))));
}

}  // namespace
