// Linear layers in float32: rows of input times a weight. int8.h has those with both rounded to 8 bits.
//
// A weight is cut into panels of 16 outputs, each (inputs, 16) with the outputs of one input side by
// side. A few rows of input stay in cache, a panel is read from its start to its end, and each of
// its numbers serves all rows: the inner kernel of Goto and van de Geijn, "Anatomy of
// high-performance matrix multiplication" (ACM TOMS 34, 2008).

#pragma once

#include "pool.h"
#include "vectors.h"

namespace {

constexpr int ROWS = 6;                 // rows of input that are multiplied at once
constexpr int BLOCK = PANELS * PANEL;   // outputs that are computed at once
constexpr int VECTORS = BLOCK / WIDTH;  // in registers, for each row

// linears.py makes these; weight, scales and shifts are filled up to a multiple of 64 outputs.
struct Linear {
    const void* weight;     // panels of float32, or of int8 where there are scales
    const float* bias;      // or null
    const float* scales;    // of the outputs, or null
    const int32_t* shifts;  // SHIFT times the sums of the outputs' weights
    int64_t inputs, outputs;
    int64_t ahead;  // floats from what is multiplied to what is fetched meanwhile; 0: processors may know
};

// The part of a product that one thread computes at once: some rows, and BLOCK outputs of which
// `outputs` are there.
struct Part {
    int64_t inputs, outputs, output_stride, ahead;
    const float* bias;   // or null
    const float* added;  // to the output, laid out as it is, or null
    float* output;
};

// What the rows from `row` on get of a part.
inline Part from_row(Part part, int64_t row) {
    part.output += row * part.output_stride;
    if (part.added) part.added += row * part.output_stride;
    return part;
}

inline void finish(const Part& part, int row, float* values) {
    float* output = part.output + row * part.output_stride;
    if (part.bias)
        for (int64_t n = 0; n < part.outputs; n++) values[n] += part.bias[n];
    if (part.added)
        for (int64_t n = 0; n < part.outputs; n++) values[n] += part.added[row * part.output_stride + n];
    std::memcpy(output, values, sizeof(float) * part.outputs);
}

template <int rows>
void multiply_float32(const Part& part, const float* input, const float* weight) {
    Vector sums[rows][VECTORS];
    for (int row = 0; row < rows; row++)
        for (int v = 0; v < VECTORS; v++) sums[row][v] = all(0);
    const int64_t panel = part.inputs * PANEL;
    for (int64_t k = 0; k < part.inputs; k++) {
        Vector weights[VECTORS];
        for (int v = 0; v < VECTORS; v++) {
            const int at = v * WIDTH;
            const float* from = weight + (at / PANEL) * panel + k * PANEL + at % PANEL;
            weights[v] = load(from);
            if (part.ahead) fetch(from + part.ahead);
        }
        for (int row = 0; row < rows; row++) {
            const Vector x = all(input[row * part.inputs + k]);
            for (int v = 0; v < VECTORS; v++) sums[row][v] = multiply_add(x, weights[v], sums[row][v]);
        }
    }
    for (int row = 0; row < rows; row++) {
        float values[BLOCK];
        for (int v = 0; v < VECTORS; v++) store(values + v * WIDTH, sums[row][v]);
        finish(part, row, values);
    }
}

// Calls `multiply(rows, first row)` for all rows, with at most `max_rows` at once and a constant type.
template <int max_rows = ROWS, typename Multiply>
inline void for_rows(int64_t num_rows, Multiply multiply) {
    static_assert(max_rows <= 6);
    int64_t row = 0;
    for (; row + max_rows <= num_rows; row += max_rows) multiply(std::integral_constant<int, max_rows>(), row);
    switch (num_rows - row) {
        case 5: return multiply(std::integral_constant<int, std::min(5, max_rows)>(), row);
        case 4: return multiply(std::integral_constant<int, std::min(4, max_rows)>(), row);
        case 3: return multiply(std::integral_constant<int, std::min(3, max_rows)>(), row);
        case 2: return multiply(std::integral_constant<int, std::min(2, max_rows)>(), row);
        case 1: return multiply(std::integral_constant<int, 1>(), row);
    }
}

inline Part part_of(int64_t first, const Linear& linear, const float* added, float* output) {
    return {linear.inputs,
            std::min<int64_t>(BLOCK, linear.outputs - first),
            linear.outputs,
            linear.ahead,
            linear.bias ? linear.bias + first : nullptr,
            added ? added + first : nullptr,
            output + first};
}

void multiply_float32(const Linear& linear, const float* input, const float* added, float* output,
                      int64_t num_rows, int threads) {
    const auto* weight = static_cast<const float*>(linear.weight);
    pool.share((linear.outputs + BLOCK - 1) / BLOCK, threads, [=](int64_t block) {
        const int64_t first = block * BLOCK;
        const Part part = part_of(first, linear, added, output);
        for_rows(num_rows, [&](auto rows, int64_t row) {
            multiply_float32<rows>(from_row(part, row), input + row * linear.inputs, weight + first * linear.inputs);
        });
    });
}

}  // namespace
