// A whole layer of a decoder: norm, attention, norm, and two or three linear layers, as gpt2 and llama
// have them. What is between the products are few numbers, which stay in cache here.

#pragma once

#include "attention.h"
#include "int8.h"

namespace {

// Layer norm if it is centred, else RMS norm; without a weight it is none.
struct Norm {
    const float* weight;
    const float* bias;  // or null
    int64_t size, centred;
    float epsilon;
};

enum Activation : int64_t { GELU_TANH, SILU };

// fused.py makes these.
struct Layer {
    Norm attention_norm, query_norm, key_norm, mlp_norm;
    Linear qkv, output, up, down;
    Attention attention;
    int64_t rotary_dim;  // of each head the first so many numbers turn; 0: none
    int64_t activation;
    int64_t gated;  // the first half of what `up` gives is the gate of the other
};

inline void normalize(const Norm& norm, const float* input, float* output) {
    Vector sums = all(0);
    if (norm.centred)
        for (int64_t k = 0; k < norm.size; k += WIDTH) sums = add(sums, load(input + k));
    const float mean = sum(sums) / norm.size;
    Vector squares = all(0);
    for (int64_t k = 0; k < norm.size; k += WIDTH) {
        const Vector value = add(load(input + k), all(-mean));
        squares = multiply_add(value, value, squares);
    }
    const float factor = 1 / std::sqrt(sum(squares) / norm.size + norm.epsilon);
    for (int64_t k = 0; k < norm.size; k += WIDTH) {
        const Vector value = multiply(add(load(input + k), all(-mean)), all(factor));
        const Vector bias = norm.bias ? load(norm.bias + k) : all(0);
        store(output + k, multiply_add(value, load(norm.weight + k), bias));
    }
}

inline void normalize_rows(const Norm& norm, const float* input, float* output, int64_t num_rows, int threads) {
    share_rows(num_rows, norm.size, threads,
               [=](int64_t row) { normalize(norm, input + row * norm.size, output + row * norm.size); });
}

// Turns pairs of numbers by angles that grow with the position (RoFormer, arXiv:2104.09864), where a
// number's partner is half a head away.
inline void rotate(float* head, const float* cosine, const float* sine, int64_t dim) {
    const int64_t half = dim / 2;
#pragma GCC ivdep
    for (int64_t d = 0; d < half; d++) {
        const float first = head[d], second = head[d + half];
        head[d] = first * cosine[d] - second * sine[d];
        head[d + half] = second * cosine[d + half] + first * sine[d + half];
    }
}

// x / (1 + e^-y).
inline Vector times_sigmoid(Vector x, Vector y) {
    const Vector power = exponential(minus_absolute(y));
    const Vector above = exponential(smallest(y, all(0)));  // 1, or the same power
    return divide(multiply(x, above), add(all(1), power));
}

inline Vector activate(int64_t activation, Vector x) {
    if (activation == SILU) return times_sigmoid(x, x);
    const Vector cube = multiply(multiply(x, x), x);  // 1 + tanh(y) is 2 sigmoid(2 y)
    return times_sigmoid(x, multiply(all(1.5957691216f), multiply_add(cube, all(0.044715f), x)));
}

// What a row's attention needs of its hidden state: queries, keys and values, side by side.
void project(const Layer& layer, const float* hidden, const float* cosine, const float* sine, float* output,
             int64_t num_rows, int threads) {
    const int64_t num_heads = layer.attention.num_heads, key_dim = layer.attention.key_dim;
    const int64_t num_turned = num_heads + layer.attention.num_kv_heads;
    float* normed = scratch<2, float>(num_rows * layer.qkv.inputs);
    normalize_rows(layer.attention_norm, hidden, normed, num_rows, threads);
    multiply(layer.qkv, normed, nullptr, output, num_rows, threads);
    if (!layer.rotary_dim && !layer.query_norm.weight) return;
    share_rows(num_rows, layer.qkv.outputs, threads, [=](int64_t row) {
        for (int64_t h = 0; h < num_turned; h++) {
            float* head = output + row * layer.qkv.outputs + h * key_dim;
            const Norm& norm = h < num_heads ? layer.query_norm : layer.key_norm;
            if (norm.weight) normalize(norm, head, head);
            rotate(head, cosine + row * layer.rotary_dim, sine + row * layer.rotary_dim, layer.rotary_dim);
        }
    });
}

// What the layer makes of its input and of what attention found.
void complete(const Layer& layer, const float* hidden, const float* attended, float* output, int64_t num_rows,
              int threads) {
    const int64_t size = layer.down.outputs, inner = layer.down.inputs, wide = layer.up.outputs;
    float* between = scratch<3, float>(num_rows * size);
    multiply(layer.output, attended, hidden, between, num_rows, threads);
    float* normed = scratch<2, float>(num_rows * size);
    normalize_rows(layer.mlp_norm, between, normed, num_rows, threads);
    float* given = scratch<4, float>(num_rows * wide);
    multiply(layer.up, normed, nullptr, given, num_rows, threads);
    float* active = layer.gated ? scratch<5, float>(num_rows * inner) : given;
    share_rows(num_rows, wide, threads, [=](int64_t row) {
        const float* from = given + row * wide;
        float* to = active + row * inner;
        for (int64_t n = 0; n < inner; n += WIDTH) {
            const Vector value = activate(layer.activation, load(from + n));
            store(to + n, layer.gated ? multiply(value, load(from + inner + n)) : value);
        }
    });
    multiply(layer.down, active, between, output, num_rows, threads);
}

// All of it, for rows that each are the next token of a sequence.
void decode(const Layer& layer, const float* hidden, const float* cosine, const float* sine,
            const int64_t* slots, const int64_t* positions, float* output, int64_t num_rows, int threads) {
    const Attention& attention = layer.attention;
    const int64_t key_dim = attention.key_dim, value_dim = attention.value_dim, row = layer.qkv.outputs;
    float* projected = scratch<6, float>(num_rows * row);
    project(layer, hidden, cosine, sine, projected, num_rows, threads);
    float* attended = scratch<7, float>(num_rows * attention.num_heads * value_dim);
    const float* keys = projected + attention.num_heads * key_dim;
    const Projected rows = {projected, keys,    keys + attention.num_kv_heads * key_dim,
                            row, key_dim, row, key_dim, row, value_dim};
    decode_attention(attention, rows, slots, positions, attended, num_rows, threads);
    complete(layer, hidden, attended, output, num_rows, threads);
}

}  // namespace
