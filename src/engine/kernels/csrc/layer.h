// Decoder layer of gpt2's and llama's kind: norm, attention, norm, and a plain or gated MLP.
//
// It joins the GEMMs and the attention of the other files with what is between them, which has few numbers
// and stays in cache. It does not know embeddings, the last norm or the head: those remain the model's.

#pragma once

#include "decode_attention.h"
#include "int8.h"

namespace {

// Layer norm if `subtracts_mean`, else RMS norm (Zhang and Sennrich 2019, arXiv:1910.07467). Without a weight
// there is no norm. Mirrored by NormData in structs.py.
struct Norm {
    const float* weight;
    const float* bias;  // or null
    int64_t size, subtracts_mean;
    float epsilon;
};

enum Activation : int64_t { GELU_TANH, SILU };  // in the order of ACTIVATIONS in structs.py

// Mirrored by LayerData in structs.py.
struct Layer {
    Norm attention_norm, query_norm, key_norm, mlp_norm;
    Linear qkv, output, up, down;
    Attention attention;
    int64_t rotary_dim;  // first numbers of a head that are rotated; 0: none
    int64_t activation;
    int64_t is_gated;  // the first half of up's output is the gate of the second
};

inline void normalize(const Norm& norm, const float* input, float* output) {
    Vector sums = broadcast(0);
    if (norm.subtracts_mean)
        for (int64_t k = 0; k < norm.size; k += LANES) sums = add(sums, load(input + k));
    const float mean = horizontal_sum(sums) / norm.size;
    Vector squares = broadcast(0);
    for (int64_t k = 0; k < norm.size; k += LANES) {
        const Vector value = add(load(input + k), broadcast(-mean));
        squares = fmadd(value, value, squares);
    }
    const float factor = 1 / std::sqrt(horizontal_sum(squares) / norm.size + norm.epsilon);
    for (int64_t k = 0; k < norm.size; k += LANES) {
        const Vector value = mul(add(load(input + k), broadcast(-mean)), broadcast(factor));
        const Vector bias = norm.bias ? load(norm.bias + k) : broadcast(0);
        store(output + k, fmadd(value, load(norm.weight + k), bias));
    }
}

inline void normalize_rows(const Norm& norm, const float* input, float* output, int64_t num_rows, int num_threads) {
    parallel_for_rows(num_rows, norm.size, num_threads,
                      [=](int64_t row) { normalize(norm, input + row * norm.size, output + row * norm.size); });
}

// Rotary position embedding (RoPE; Su et al. 2021, arXiv:2104.09864) of a head, in the half-split layout:
// number d is rotated together with number d + dim / 2.
inline void rotate(float* head, const float* cosine, const float* sine, int64_t dim) {
    const int64_t half = dim / 2;
#pragma GCC ivdep
    for (int64_t d = 0; d < half; d++) {
        const float first = head[d], second = head[d + half];
        head[d] = first * cosine[d] - second * sine[d];
        head[d + half] = second * cosine[d + half] + first * sine[d + half];
    }
}

// x * sigmoid(y), without overflow: both exponents are at most 0.
inline Vector mul_sigmoid(Vector x, Vector y) {
    const Vector power = exp_nonpositive(negative_abs(y));
    const Vector numerator = exp_nonpositive(min(y, broadcast(0)));
    return div(mul(x, numerator), add(broadcast(1), power));
}

// SiLU, or GELU's tanh approximation (Hendrycks and Gimpel 2016, arXiv:1606.08415).
inline Vector activate(int64_t activation, Vector x) {
    if (activation == SILU) return mul_sigmoid(x, x);
    const Vector cube = mul(mul(x, x), x);  // 1 + tanh(y) = 2 sigmoid(2 y)
    return mul_sigmoid(x, mul(broadcast(1.5957691216f), fmadd(cube, broadcast(0.044715f), x)));
}

// First part of a layer: norm, queries, keys and values side by side, their norms, RoPE.
void layer_project(const Layer& layer, const float* hidden, const float* cosine, const float* sine, float* output,
                   int64_t num_rows, int num_threads) {
    const int64_t num_heads = layer.attention.num_heads, key_dim = layer.attention.key_dim;
    const int64_t num_rotated = num_heads + layer.attention.num_kv_heads;
    float* normed = scratch<Buffer::NORMED, float>(num_rows * layer.qkv.num_inputs);
    normalize_rows(layer.attention_norm, hidden, normed, num_rows, num_threads);
    gemm(layer.qkv, normed, nullptr, output, num_rows, num_threads);
    if (!layer.rotary_dim && !layer.query_norm.weight) return;
    parallel_for_rows(num_rows, layer.qkv.num_outputs, num_threads, [=](int64_t row) {
        for (int64_t h = 0; h < num_rotated; h++) {
            float* head = output + row * layer.qkv.num_outputs + h * key_dim;
            const Norm& norm = h < num_heads ? layer.query_norm : layer.key_norm;
            if (norm.weight) normalize(norm, head, head);
            rotate(head, cosine + row * layer.rotary_dim, sine + row * layer.rotary_dim, layer.rotary_dim);
        }
    });
}

// Last part of a layer: the output of attention, both residuals, and the MLP.
void layer_complete(const Layer& layer, const float* hidden, const float* attended, float* output,
                    int64_t num_rows, int num_threads) {
    const int64_t size = layer.down.num_outputs, inner = layer.down.num_inputs, wide = layer.up.num_outputs;
    float* residual = scratch<Buffer::RESIDUAL, float>(num_rows * size);
    gemm(layer.output, attended, hidden, residual, num_rows, num_threads);
    float* normed = scratch<Buffer::NORMED, float>(num_rows * size);
    normalize_rows(layer.mlp_norm, residual, normed, num_rows, num_threads);
    float* up = scratch<Buffer::UP, float>(num_rows * wide);
    gemm(layer.up, normed, nullptr, up, num_rows, num_threads);
    float* activated = layer.is_gated ? scratch<Buffer::ACTIVATED, float>(num_rows * inner) : up;
    parallel_for_rows(num_rows, wide, num_threads, [=](int64_t row) {
        const float* from = up + row * wide;
        float* to = activated + row * inner;
        for (int64_t n = 0; n < inner; n += LANES) {
            const Vector value = activate(layer.activation, load(from + n));
            store(to + n, layer.is_gated ? mul(value, load(from + inner + n)) : value);
        }
    });
    gemm(layer.down, activated, residual, output, num_rows, num_threads);
}

// A whole layer, for rows that each are the next token of a sequence.
void layer_decode(const Layer& layer, const float* hidden, const float* cosine, const float* sine,
                  const Places& places, float* output, int64_t num_rows, int num_threads) {
    const Attention& attention = layer.attention;
    const int64_t key_dim = attention.key_dim, value_dim = attention.value_dim, stride = layer.qkv.num_outputs;
    float* query = scratch<Buffer::PROJECTED, float>(num_rows * stride);
    layer_project(layer, hidden, cosine, sine, query, num_rows, num_threads);
    float* attended = scratch<Buffer::ATTENDED, float>(num_rows * attention.num_heads * value_dim);
    const float* key = query + attention.num_heads * key_dim;
    const float* value = key + attention.num_kv_heads * key_dim;
    const Projection rows = {query, key, value, stride, key_dim, stride, key_dim, stride, value_dim};
    attention_decode(attention, rows, places, attended, num_rows, num_threads);
    layer_complete(layer, hidden, attended, output, num_rows, num_threads);
}

}  // namespace
