// Linear layer in 8 bits: a GEMM of quantized weights and inputs, with float32 results.
//
// Weights have a scale for each output, inputs a scale for each row; both are symmetric. Four inputs of an
// output are adjacent in a panel, as VNNI's instruction adds four products at once. Sixteen such groups are
// a row of an AMX tile, which is multiplied with 16 rows of input at once. AVX2 has no exact sum of four
// 8-bit products, so there the numbers are widened to 16 bits and their products added in pairs.
//
// All sums are of integers and exact, and all variants scale them by the same float32 operations. So they
// agree to the last bit, and a row's result does not depend on the other rows. There are no outlier
// columns, no zero points and no 4-bit weights.

#pragma once

#ifdef __AMX_INT8__
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "linear.h"

namespace {

// Quantized input. With VNNI 8 bits plus SHIFT, as its instruction takes one factor unsigned.
#ifdef __AVX512VNNI__
using Input = uint8_t;
constexpr int INT8_ROWS = ROWS;
#else
using Input = int16_t;
constexpr int INT8_ROWS = 2;  // each needs 4 registers of sums; more rows would spill
#endif

struct QuantizedRows {
    const Input* rows;
    const float* scales;
};

// Weights of a block of outputs, with the outputs' scales and shifts.
struct Int8Block {
    const int8_t* weight;
    const float* scales;
    const int32_t* shifts;
};

#ifdef __AVX512VNNI__

// VNNI's dot product of four bytes, in assembly: with the intrinsic GCC 12 keeps the sums in memory.
inline __m512i dot_product_4(__m512i sums, __m512i unsigned_bytes, __m512i signed_bytes) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(unsigned_bytes), "v"(signed_bytes));
    return sums;
}

constexpr int SHIFT = 128;  // makes signed inputs unsigned

inline void store_int8_row(const OutputTile& tile, int row, const __m512i* sums, float input_scale,
                           const Int8Block& block) {
    float values[BLOCK];
    for (int p = 0; p < BLOCK_PANELS; p++) {
        const __m512i shift = _mm512_loadu_si512(block.shifts + p * PANEL);
        const __m512 sum = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums[p], shift));
        const __m512 scale = _mm512_mul_ps(load(block.scales + p * PANEL), broadcast(input_scale));
        store(values + p * PANEL, _mm512_mul_ps(sum, scale));
    }
    store_row(tile, row, values);
}

template <int rows>
void gemm_tile_int8(const OutputTile& tile, const QuantizedRows& input, const Int8Block& block) {
    __m512i sums[rows][BLOCK_PANELS];
    for (int row = 0; row < rows; row++)
        for (int p = 0; p < BLOCK_PANELS; p++) sums[row][p] = _mm512_setzero_si512();
    const int64_t panel_size = tile.num_inputs * PANEL;
    for (int64_t k = 0; k < tile.num_inputs; k += 4) {
        __m512i weights[BLOCK_PANELS];
        for (int p = 0; p < BLOCK_PANELS; p++)
            weights[p] = _mm512_loadu_si512(block.weight + p * panel_size + k * PANEL);
        for (int row = 0; row < rows; row++) {
            int32_t four;
            std::memcpy(&four, input.rows + row * tile.num_inputs + k, sizeof four);
            const __m512i x = _mm512_set1_epi32(four);
            for (int p = 0; p < BLOCK_PANELS; p++) sums[row][p] = dot_product_4(sums[row][p], x, weights[p]);
        }
    }
    for (int row = 0; row < rows; row++) store_int8_row(tile, row, sums[row], input.scales[row], block);
}

#ifdef __AMX_INT8__

constexpr int AMX_ROWS = 16, AMX_ROW_BYTES = 64;  // of a tile register
constexpr int MIN_AMX_ROWS = 3;                   // VNNI is faster for fewer rows

// Asks Linux for the permission to use the tile registers; returns false if it is refused.
inline bool request_amx_permission() {
    constexpr int REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

// All tiles have the same shape. A constant, as GCC does not know that the instruction reads all of it.
struct alignas(64) TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
const TileConfig tile_config;

// Configures the thread's tile registers while it exists.
struct TileRegisters {
    TileRegisters() { _tile_loadconfig(&tile_config); }
    ~TileRegisters() { _tile_release(); }
};

// The same product by AMX, for AMX_ROWS rows, of which the first `num_rows` are stored.
inline void gemm_tile_amx(const OutputTile& tile, const QuantizedRows& input, const Int8Block& block,
                          int64_t num_rows) {
    static_assert(BLOCK_PANELS == 4);
    const int64_t panel_size = tile.num_inputs * PANEL;
    std::atomic_signal_fence(std::memory_order_seq_cst);  // GCC does not know that tile loads read memory
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < tile.num_inputs; k += AMX_ROW_BYTES) {
        const int8_t* weight = block.weight + k * PANEL;
        _tile_loadd(4, input.rows + k, tile.num_inputs);
        _tile_loadd(5, weight, AMX_ROW_BYTES);
        _tile_dpbusd(0, 4, 5);
        _tile_loadd(6, weight + panel_size, AMX_ROW_BYTES);
        _tile_dpbusd(1, 4, 6);
        _tile_loadd(7, weight + 2 * panel_size, AMX_ROW_BYTES);
        _tile_dpbusd(2, 4, 7);
        _tile_loadd(5, weight + 3 * panel_size, AMX_ROW_BYTES);
        _tile_dpbusd(3, 4, 5);
    }
    __m512i sums[AMX_ROWS][BLOCK_PANELS];
    constexpr int STRIDE = BLOCK_PANELS * sizeof(__m512i);
    _tile_stored(0, &sums[0][0], STRIDE);
    _tile_stored(1, &sums[0][1], STRIDE);
    _tile_stored(2, &sums[0][2], STRIDE);
    _tile_stored(3, &sums[0][3], STRIDE);
    for (int64_t row = 0; row < num_rows; row++) store_int8_row(tile, row, sums[row], input.scales[row], block);
}

#endif

// Quantizes LANES numbers.
inline void quantize_vector(const float* values, float factor, Input* quantized) {
    const __m512i integers = _mm512_cvtps_epi32(_mm512_mul_ps(load(values), broadcast(factor)));
    const __m128i shift = _mm_set1_epi8(static_cast<char>(SHIFT));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(quantized), _mm_xor_si128(_mm512_cvtepi32_epi8(integers), shift));
}

#else

// Registers of sums of a panel. Each holds two partial sums of 4 outputs, side by side.
constexpr int SUM_REGISTERS = 4;

// Adds both partial sums of 8 outputs; returns them in the outputs' order.
inline Vector add_partial_sums(__m256i low, __m256i high) {
    const __m256i sums = _mm256_permute4x64_epi64(_mm256_hadd_epi32(low, high), _MM_SHUFFLE(3, 1, 2, 0));
    return _mm256_cvtepi32_ps(sums);
}

inline void store_int8_row(const OutputTile& tile, int row, const __m256i* sums, float input_scale,
                           const Int8Block& block) {
    static_assert(BLOCK == PANEL);
    float values[BLOCK];
    for (int v = 0; v < VECTORS; v++) {
        const Vector scale = mul(load(block.scales + v * LANES), broadcast(input_scale));
        store(values + v * LANES, mul(add_partial_sums(sums[2 * v], sums[2 * v + 1]), scale));
    }
    store_row(tile, row, values);
}

template <int rows>
void gemm_tile_int8(const OutputTile& tile, const QuantizedRows& input, const Int8Block& block) {
    __m256i sums[rows][SUM_REGISTERS];
    for (int row = 0; row < rows; row++)
        for (int s = 0; s < SUM_REGISTERS; s++) sums[row][s] = _mm256_setzero_si256();
    for (int64_t k = 0; k < tile.num_inputs; k += 4) {
        __m256i x[rows];
        for (int row = 0; row < rows; row++) {
            int64_t four;
            std::memcpy(&four, input.rows + row * tile.num_inputs + k, sizeof four);
            x[row] = _mm256_set1_epi64x(four);
        }
        for (int s = 0; s < SUM_REGISTERS; s++) {
            const auto* from = reinterpret_cast<const __m128i*>(block.weight + k * PANEL + s * 16);
            const __m256i weights = _mm256_cvtepi8_epi16(_mm_loadu_si128(from));
            for (int row = 0; row < rows; row++)
                sums[row][s] = _mm256_add_epi32(sums[row][s], _mm256_madd_epi16(x[row], weights));
        }
    }
    for (int row = 0; row < rows; row++) store_int8_row(tile, row, sums[row], input.scales[row], block);
}

// Quantizes LANES numbers.
inline void quantize_vector(const float* values, float factor, Input* quantized) {
    const __m256i integers = _mm256_cvtps_epi32(mul(load(values), broadcast(factor)));
    const __m128i low = _mm256_castsi256_si128(integers), high = _mm256_extracti128_si256(integers, 1);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(quantized), _mm_packs_epi32(low, high));
}

#endif

// Largest absolute value of a vector of negated absolute values.
inline float horizontal_abs_max(Vector negated) {
    float values[LANES];
    store(values, negated);
    float largest = 0;
    for (const float value : values) largest = std::max(largest, -value);
    return largest;
}

// Quantizes a row to 8 bits by its largest absolute value. NaN and infinity make the scale NaN.
void quantize_row(const float* row, int64_t num_inputs, Input* quantized, float* scale) {
    Vector negated = broadcast(0), nan_check = broadcast(0);  // 0 times NaN or infinity is NaN
    for (int64_t k = 0; k < num_inputs; k += LANES) {
        const Vector values = load(row + k);
        negated = min(negated, negative_abs(values));
        nan_check = fmadd(values, broadcast(0), nan_check);
    }
    const float largest = horizontal_abs_max(negated) + horizontal_sum(nan_check);
    const float factor = largest > 1e-30f ? 127 / largest : 0;
    *scale = largest / 127;
    for (int64_t k = 0; k < num_inputs; k += LANES) quantize_vector(row + k, factor, quantized + k);
}

void gemm_int8(const Linear& linear, const float* input, const float* residual, float* output, int64_t num_rows,
               int num_threads) {
    const int64_t num_inputs = linear.num_inputs;
    // Padded, as AMX reads the last tile as a whole.
    auto* quantized = scratch<Buffer::QUANTIZED, Input>((num_rows + 15) * num_inputs);
    auto* scales = scratch<Buffer::SCALES, float>(num_rows);
    parallel_for_rows(num_rows, num_inputs, num_threads, [=](int64_t row) {
        quantize_row(input + row * num_inputs, num_inputs, quantized + row * num_inputs, scales + row);
    });
    const auto rows_from = [=](int64_t row) { return QuantizedRows{quantized + row * num_inputs, scales + row}; };
    pool.parallel_for((linear.num_outputs + BLOCK - 1) / BLOCK, num_threads, [=](int64_t index) {
        const int64_t first = index * BLOCK;
        const OutputTile tile = output_tile(first, linear, residual, output);
        const Int8Block block = {static_cast<const int8_t*>(linear.weight) + first * num_inputs,
                                 linear.scales + first, linear.shifts + first};
#ifdef __AMX_INT8__
        if (num_rows >= MIN_AMX_ROWS && num_inputs % AMX_ROW_BYTES == 0) {
            const TileRegisters registers;
            for (int64_t row = 0; row < num_rows; row += AMX_ROWS)
                gemm_tile_amx(from_row(tile, row), rows_from(row), block,
                              std::min<int64_t>(AMX_ROWS, num_rows - row));
            return;
        }
#endif
        for_row_tiles<INT8_ROWS>(num_rows, [&](auto rows, int64_t row) {
            gemm_tile_int8<rows>(from_row(tile, row), rows_from(row), block);
        });
    });
}

// output = input * weight^T + bias + residual, for contiguous rows.
inline void gemm(const Linear& linear, const float* input, const float* residual, float* output, int64_t num_rows,
                 int num_threads) {
    if (linear.scales) return gemm_int8(linear, input, residual, output, num_rows, num_threads);
    gemm_float32(linear, input, residual, output, num_rows, num_threads);
}

}  // namespace
