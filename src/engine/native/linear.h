// Linear layers: rows of input times a weight, in float32 or with both rounded to 8 bits.
//
// A weight is cut into panels of 16 outputs, each (inputs, 16) with the outputs of one input side by
// side. A few rows of input stay in cache, a panel is read from its start to its end, and each of
// its numbers serves all rows: the inner kernel of Goto and van de Geijn, "Anatomy of
// high-performance matrix multiplication" (ACM TOMS 34, 2008). With 8 bits four inputs of an output
// lie side by side, as VNNI's instruction multiplies and adds four at once. Sixteen such quartets
// are a tile of AMX, which multiplies 16 rows with it at once.

#pragma once

#ifdef __AMX_INT8__
#include <sys/syscall.h>
#include <unistd.h>
#endif

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

// Calls `multiply(rows, first row)` for all rows, with at most ROWS at once and a constant type.
template <typename Multiply>
inline void for_rows(int64_t num_rows, Multiply multiply) {
    int64_t row = 0;
    for (; row + ROWS <= num_rows; row += ROWS) multiply(std::integral_constant<int, ROWS>(), row);
    switch (num_rows - row) {
        case 5: return multiply(std::integral_constant<int, 5>(), row);
        case 4: return multiply(std::integral_constant<int, 4>(), row);
        case 3: return multiply(std::integral_constant<int, 3>(), row);
        case 2: return multiply(std::integral_constant<int, 2>(), row);
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

#ifdef __AVX512VNNI__

// The intrinsic makes GCC 12 keep the sums in memory.
inline __m512i add_products(__m512i sums, __m512i unsigned_bytes, __m512i signed_bytes) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(unsigned_bytes), "v"(signed_bytes));
    return sums;
}

constexpr int SHIFT = 128;  // makes signed inputs unsigned

// Rows of input, rounded, each with its scale.
struct Rounded {
    const uint8_t* rows;
    const float* scales;
};

// What one thread multiplies them with: a block's panels, and the outputs' scales and shifts.
struct Panels {
    const int8_t* weight;
    const float* scales;
    const int32_t* shifts;
};

inline void finish_sums(const Part& part, int row, const __m512i* sums, float input_scale, const Panels& panels) {
    float values[BLOCK];
    for (int p = 0; p < PANELS; p++) {
        const __m512i shift = _mm512_loadu_si512(panels.shifts + p * PANEL);
        const __m512 sum = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums[p], shift));
        const __m512 scale = _mm512_mul_ps(load(panels.scales + p * PANEL), all(input_scale));
        store(values + p * PANEL, _mm512_mul_ps(sum, scale));
    }
    finish(part, row, values);
}

template <int rows>
void multiply_int8(const Part& part, const Rounded& input, const Panels& panels) {
    __m512i sums[rows][PANELS];
    for (int row = 0; row < rows; row++)
        for (int p = 0; p < PANELS; p++) sums[row][p] = _mm512_setzero_si512();
    const int64_t panel = part.inputs * PANEL;
    for (int64_t k = 0; k < part.inputs; k += 4) {
        __m512i weights[PANELS];
        for (int p = 0; p < PANELS; p++) weights[p] = _mm512_loadu_si512(panels.weight + p * panel + k * PANEL);
        for (int row = 0; row < rows; row++) {
            int32_t four;
            std::memcpy(&four, input.rows + row * part.inputs + k, sizeof four);
            const __m512i x = _mm512_set1_epi32(four);
            for (int p = 0; p < PANELS; p++) sums[row][p] = add_products(sums[row][p], x, weights[p]);
        }
    }
    for (int row = 0; row < rows; row++) finish_sums(part, row, sums[row], input.scales[row], panels);
}

#ifdef __AMX_INT8__

constexpr int TILE_ROWS = 16, TILE_BYTES = 64;  // of a tile, and of one of its rows
constexpr int AMX_ROWS = 3;                     // fewer rows are faster without

// Whether Linux lets this process use the tiles: it wants to be asked.
inline bool may_use_tiles() {
    constexpr int REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

// How the tiles are shaped: all alike. A constant, as GCC does not know that all of it is read.
struct alignas(64) TileShapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
const TileShapes tile_shapes;

// A thread's tiles, while it computes.
struct Tiles {
    Tiles() { _tile_loadconfig(&tile_shapes); }
    ~Tiles() { _tile_release(); }
};

// The same sums of TILE_ROWS rows, of which the first `rows` are wanted.
inline void multiply_tiles(const Part& part, const Rounded& input, const Panels& panels, int64_t rows) {
    static_assert(PANELS == 4);
    const int64_t panel = part.inputs * PANEL;
    std::atomic_signal_fence(std::memory_order_seq_cst);  // GCC does not know what tiles are loaded from
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < part.inputs; k += TILE_BYTES) {
        const int8_t* weight = panels.weight + k * PANEL;
        _tile_loadd(4, input.rows + k, part.inputs);
        _tile_loadd(5, weight, TILE_BYTES);
        _tile_dpbusd(0, 4, 5);
        _tile_loadd(6, weight + panel, TILE_BYTES);
        _tile_dpbusd(1, 4, 6);
        _tile_loadd(7, weight + 2 * panel, TILE_BYTES);
        _tile_dpbusd(2, 4, 7);
        _tile_loadd(5, weight + 3 * panel, TILE_BYTES);
        _tile_dpbusd(3, 4, 5);
    }
    __m512i sums[TILE_ROWS][PANELS];
    constexpr int STRIDE = PANELS * sizeof(__m512i);
    _tile_stored(0, &sums[0][0], STRIDE);
    _tile_stored(1, &sums[0][1], STRIDE);
    _tile_stored(2, &sums[0][2], STRIDE);
    _tile_stored(3, &sums[0][3], STRIDE);
    for (int64_t row = 0; row < rows; row++) finish_sums(part, row, sums[row], input.scales[row], panels);
}

#endif

// Rounds a row to 8 bits by its largest value.
void quantize(const float* row, int64_t inputs, uint8_t* quantized, float* scale) {
    Vector most = all(0), none = all(0);  // of numbers `none` stays zero; of others it is no number
    for (int64_t k = 0; k < inputs; k += WIDTH) {
        const Vector values = load(row + k);
        most = _mm512_max_ps(most, _mm512_abs_ps(values));
        none = multiply_add(values, all(0), none);
    }
    const float largest = _mm512_reduce_max_ps(most) + sum(none);
    const float factor = largest > 1e-30f ? 127 / largest : 0;
    *scale = largest / 127;
    const __m128i shift = _mm_set1_epi8(static_cast<char>(SHIFT));
    for (int64_t k = 0; k < inputs; k += WIDTH) {
        const __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(load(row + k), all(factor)));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(quantized + k),
                         _mm_xor_si128(_mm512_cvtepi32_epi8(rounded), shift));
    }
}

void multiply_int8(const Linear& linear, const float* input, const float* added, float* output,
                   int64_t num_rows, int threads) {
    const int64_t inputs = linear.inputs;
    // AMX reads whole tiles, so there is memory for its last one.
    auto* quantized = scratch<0, uint8_t>((num_rows + 15) * inputs);
    auto* scales = scratch<1, float>(num_rows);
    share_rows(num_rows, inputs, threads, [=](int64_t row) {
        quantize(input + row * inputs, inputs, quantized + row * inputs, scales + row);
    });
    const auto rounded_from = [=](int64_t row) { return Rounded{quantized + row * inputs, scales + row}; };
    pool.share((linear.outputs + BLOCK - 1) / BLOCK, threads, [=](int64_t block) {
        const int64_t first = block * BLOCK;
        const Part part = part_of(first, linear, added, output);
        const Panels panels = {static_cast<const int8_t*>(linear.weight) + first * inputs,
                               linear.scales + first, linear.shifts + first};
#ifdef __AMX_INT8__
        if (num_rows >= AMX_ROWS && inputs % TILE_BYTES == 0) {
            const Tiles tiles;
            for (int64_t row = 0; row < num_rows; row += TILE_ROWS)
                multiply_tiles(from_row(part, row), rounded_from(row), panels,
                               std::min<int64_t>(TILE_ROWS, num_rows - row));
            return;
        }
#endif
        for_rows(num_rows, [&](auto rows, int64_t row) {
            multiply_int8<rows>(from_row(part, row), rounded_from(row), panels);
        });
    });
}

#endif

// output = input * weight + bias + added, for rows that lie one after the other.
inline void multiply(const Linear& linear, const float* input, const float* added, float* output,
                     int64_t num_rows, int threads) {
#ifdef __AVX512VNNI__
    if (linear.scales) return multiply_int8(linear, input, added, output, num_rows, threads);
#endif
    multiply_float32(linear, input, added, output, num_rows, threads);
}

}  // namespace
