// Linear layer in float32: a GEMM of few rows of input with a packed weight.
//
// The weight is packed once into panels of PANEL outputs, each (num_inputs, PANEL). A block of panels is
// read once from memory, in order, and each of its numbers is multiplied with all rows of a tile, whose
// sums stay in registers: the micro-kernel of Goto and van de Geijn, "Anatomy of high-performance matrix
// multiplication" (ACM TOMS 34, 2008). As rows are few, there is no packing of the input and no blocking
// of the inner dimension, and every output is one sum in a fixed order: a row's result does not depend on
// the number of rows. int8.h has the same with weights and inputs quantized to 8 bits.

#pragma once

#include "simd.h"
#include "thread_pool.h"

namespace {

constexpr int PANEL = 16;  // outputs of a panel
#ifdef __AVX512F__
constexpr int BLOCK_PANELS = 4;  // with ROWS rows their sums fill the registers
#else
constexpr int BLOCK_PANELS = 1;
#endif
constexpr int ROWS = 6;                      // rows of a tile
constexpr int BLOCK = BLOCK_PANELS * PANEL;  // outputs of a tile
constexpr int VECTORS = BLOCK / LANES;       // registers of sums for each row of a tile

// Mirrored by LinearData in structs.py. Weight, scales and shifts are padded to a multiple of 64 outputs.
struct Linear {
    const void* weight;     // panels of float32, or of int8 where there are scales
    const float* bias;      // or null
    const float* scales;    // one for each output, or null in float32
    const int32_t* shifts;  // SHIFT times the sum of each output's weights
    int64_t num_inputs, num_outputs;
    int64_t prefetch_distance;  // floats ahead of the one that is multiplied; 0: the processor prefetches
};

// Part of the output that one thread computes at once: BLOCK columns, of which `num_outputs` exist.
struct OutputTile {
    int64_t num_inputs, num_outputs, row_stride, prefetch_distance;
    const float* bias;      // or null
    const float* residual;  // added to the output, with the same layout, or null
    float* output;
};

inline OutputTile output_tile(int64_t first, const Linear& linear, const float* residual, float* output) {
    return {linear.num_inputs,
            std::min<int64_t>(BLOCK, linear.num_outputs - first),
            linear.num_outputs,
            linear.prefetch_distance,
            linear.bias ? linear.bias + first : nullptr,
            residual ? residual + first : nullptr,
            output + first};
}

// The same columns from another row on.
inline OutputTile from_row(OutputTile tile, int64_t row) {
    tile.output += row * tile.row_stride;
    if (tile.residual) tile.residual += row * tile.row_stride;
    return tile;
}

// Adds bias and residual to a row of sums and stores it.
inline void store_row(const OutputTile& tile, int row, float* sums) {
    float* output = tile.output + row * tile.row_stride;
    if (tile.bias)
        for (int64_t n = 0; n < tile.num_outputs; n++) sums[n] += tile.bias[n];
    if (tile.residual)
        for (int64_t n = 0; n < tile.num_outputs; n++) sums[n] += tile.residual[row * tile.row_stride + n];
    std::memcpy(output, sums, sizeof(float) * tile.num_outputs);
}

template <int rows>
void gemm_tile_float32(const OutputTile& tile, const float* input, const float* weight) {
    Vector sums[rows][VECTORS];
    for (int row = 0; row < rows; row++)
        for (int v = 0; v < VECTORS; v++) sums[row][v] = broadcast(0);
    const int64_t panel_size = tile.num_inputs * PANEL;
    for (int64_t k = 0; k < tile.num_inputs; k++) {
        Vector weights[VECTORS];
        for (int v = 0; v < VECTORS; v++) {
            const int column = v * LANES;
            const float* from = weight + (column / PANEL) * panel_size + k * PANEL + column % PANEL;
            weights[v] = load(from);
            if (tile.prefetch_distance) prefetch(from + tile.prefetch_distance);
        }
        for (int row = 0; row < rows; row++) {
            const Vector x = broadcast(input[row * tile.num_inputs + k]);
            for (int v = 0; v < VECTORS; v++) sums[row][v] = fmadd(x, weights[v], sums[row][v]);
        }
    }
    for (int row = 0; row < rows; row++) {
        float values[BLOCK];
        for (int v = 0; v < VECTORS; v++) store(values + v * LANES, sums[row][v]);
        store_row(tile, row, values);
    }
}

// Calls `gemm(rows, first_row)` for tiles of at most `max_rows` rows; `rows` is a compile-time constant.
template <int max_rows = ROWS, typename Gemm>
inline void for_row_tiles(int64_t num_rows, Gemm gemm) {
    static_assert(max_rows <= 6);
    int64_t row = 0;
    for (; row + max_rows <= num_rows; row += max_rows) gemm(std::integral_constant<int, max_rows>(), row);
    switch (num_rows - row) {
        case 5: return gemm(std::integral_constant<int, std::min(5, max_rows)>(), row);
        case 4: return gemm(std::integral_constant<int, std::min(4, max_rows)>(), row);
        case 3: return gemm(std::integral_constant<int, std::min(3, max_rows)>(), row);
        case 2: return gemm(std::integral_constant<int, std::min(2, max_rows)>(), row);
        case 1: return gemm(std::integral_constant<int, 1>(), row);
    }
}

void gemm_float32(const Linear& linear, const float* input, const float* residual, float* output,
                  int64_t num_rows, int num_threads) {
    const auto* weight = static_cast<const float*>(linear.weight);
    const int64_t num_inputs = linear.num_inputs;
    pool.parallel_for((linear.num_outputs + BLOCK - 1) / BLOCK, num_threads, [=](int64_t block) {
        const int64_t first = block * BLOCK;
        const OutputTile tile = output_tile(first, linear, residual, output);
        for_row_tiles(num_rows, [&](auto rows, int64_t row) {
            gemm_tile_float32<rows>(from_row(tile, row), input + row * num_inputs, weight + first * num_inputs);
        });
    });
}

}  // namespace
