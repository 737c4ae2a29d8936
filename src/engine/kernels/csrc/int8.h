// Linear layers whose weights and inputs are rounded to 8 bits.
//
// Four inputs of an output lie side by side in a panel, as VNNI's instruction multiplies and adds four
// at once. Sixteen such quartets are a tile of AMX, which multiplies 16 rows with it at once. AVX2 has
// no exact sum of four: there the numbers are widened to 16 bits, whose products are added in pairs.
//
// All sums are of integers, thus exact, and each is scaled by the same instructions. So a row's result
// is the same in every variant and beside any other rows.

#pragma once

#ifdef __AMX_INT8__
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "linear.h"

namespace {

// What one input is rounded to: with VNNI 8 bits plus SHIFT, as its instruction wants one factor unsigned.
#ifdef __AVX512VNNI__
using Input = uint8_t;
constexpr int INT8_ROWS = ROWS;
#else
using Input = int16_t;
constexpr int INT8_ROWS = 2;  // with 4 vectors of sums each; more are slower, as registers run out
#endif

// Rows of input, rounded, each with its scale.
struct Rounded {
    const Input* rows;
    const float* scales;
};

// What one thread multiplies them with: a block's panels, and the outputs' scales and shifts.
struct Panels {
    const int8_t* weight;
    const float* scales;
    const int32_t* shifts;
};

#ifdef __AVX512VNNI__

// The intrinsic makes GCC 12 keep the sums in memory.
inline __m512i add_products(__m512i sums, __m512i unsigned_bytes, __m512i signed_bytes) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(unsigned_bytes), "v"(signed_bytes));
    return sums;
}

constexpr int SHIFT = 128;  // makes signed inputs unsigned

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

// Rounds WIDTH numbers.
inline void round(const float* values, float factor, Input* rounded) {
    const __m512i integers = _mm512_cvtps_epi32(_mm512_mul_ps(load(values), all(factor)));
    const __m128i shift = _mm_set1_epi8(static_cast<char>(SHIFT));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(rounded), _mm_xor_si128(_mm512_cvtepi32_epi8(integers), shift));
}

#else

// The sums of a panel's outputs: of each the even and the odd quartets' halves, side by side.
constexpr int SUMS = 4;

// Adds both halves of 8 outputs' sums, in order.
inline Vector join(__m256i low, __m256i high) {
    const __m256i sums = _mm256_permute4x64_epi64(_mm256_hadd_epi32(low, high), _MM_SHUFFLE(3, 1, 2, 0));
    return _mm256_cvtepi32_ps(sums);
}

inline void finish_sums(const Part& part, int row, const __m256i* sums, float input_scale, const Panels& panels) {
    static_assert(BLOCK == PANEL);
    float values[BLOCK];
    for (int v = 0; v < VECTORS; v++) {
        const Vector scale = multiply(load(panels.scales + v * WIDTH), all(input_scale));
        store(values + v * WIDTH, multiply(join(sums[2 * v], sums[2 * v + 1]), scale));
    }
    finish(part, row, values);
}

template <int rows>
void multiply_int8(const Part& part, const Rounded& input, const Panels& panels) {
    __m256i sums[rows][SUMS];
    for (int row = 0; row < rows; row++)
        for (int s = 0; s < SUMS; s++) sums[row][s] = _mm256_setzero_si256();
    for (int64_t k = 0; k < part.inputs; k += 4) {
        __m256i x[rows];
        for (int row = 0; row < rows; row++) {
            int64_t four;
            std::memcpy(&four, input.rows + row * part.inputs + k, sizeof four);
            x[row] = _mm256_set1_epi64x(four);
        }
        for (int s = 0; s < SUMS; s++) {
            const auto* from = reinterpret_cast<const __m128i*>(panels.weight + k * PANEL + s * 16);
            const __m256i weights = _mm256_cvtepi8_epi16(_mm_loadu_si128(from));
            for (int row = 0; row < rows; row++)
                sums[row][s] = _mm256_add_epi32(sums[row][s], _mm256_madd_epi16(x[row], weights));
        }
    }
    for (int row = 0; row < rows; row++) finish_sums(part, row, sums[row], input.scales[row], panels);
}

// Rounds WIDTH numbers.
inline void round(const float* values, float factor, Input* rounded) {
    const __m256i integers = _mm256_cvtps_epi32(multiply(load(values), all(factor)));
    const __m128i low = _mm256_castsi256_si128(integers), high = _mm256_extracti128_si256(integers, 1);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(rounded), _mm_packs_epi32(low, high));
}

#endif

inline float largest_absolute(Vector minus) {
    float values[WIDTH];
    store(values, minus);
    float most = 0;
    for (const float value : values) most = std::max(most, -value);
    return most;
}

// Rounds a row to 8 bits by its largest value.
void quantize(const float* row, int64_t inputs, Input* quantized, float* scale) {
    Vector minus = all(0), none = all(0);  // of numbers `none` stays zero; of others it is no number
    for (int64_t k = 0; k < inputs; k += WIDTH) {
        const Vector values = load(row + k);
        minus = smallest(minus, minus_absolute(values));
        none = multiply_add(values, all(0), none);
    }
    const float largest = largest_absolute(minus) + sum(none);
    const float factor = largest > 1e-30f ? 127 / largest : 0;
    *scale = largest / 127;
    for (int64_t k = 0; k < inputs; k += WIDTH) round(row + k, factor, quantized + k);
}

void multiply_int8(const Linear& linear, const float* input, const float* added, float* output,
                   int64_t num_rows, int threads) {
    const int64_t inputs = linear.inputs;
    // AMX reads whole tiles, so there is memory for its last one.
    auto* quantized = scratch<0, Input>((num_rows + 15) * inputs);
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
        for_rows<INT8_ROWS>(num_rows, [&](auto rows, int64_t row) {
            multiply_int8<rows>(from_row(part, row), rounded_from(row), panels);
        });
    });
}

// output = input * weight + bias + added, for rows that lie one after the other.
inline void multiply(const Linear& linear, const float* input, const float* added, float* output,
                     int64_t num_rows, int threads) {
    if (linear.scales) return multiply_int8(linear, input, added, output, num_rows, threads);
    multiply_float32(linear, input, added, output, num_rows, threads);
}

}  // namespace
