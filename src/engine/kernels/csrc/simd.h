// SIMD vectors of float: 16 lanes with AVX-512, 8 with AVX2.
//
// One function for each instruction that the kernels use, and a polynomial for exp. It is no general
// SIMD library: no other types, no masks for tails. Arrays are padded to a multiple of the lanes, or
// the caller handles the tail.

#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

#ifdef __AVX512F__
using Vector = __m512;
inline Vector load(const float* from) { return _mm512_loadu_ps(from); }
inline void store(float* to, Vector value) { _mm512_storeu_ps(to, value); }
inline Vector broadcast(float value) { return _mm512_set1_ps(value); }
inline Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
inline Vector sub(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
inline Vector mul(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
inline Vector div(Vector a, Vector b) { return _mm512_div_ps(a, b); }
inline Vector fmadd(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
inline Vector max(Vector a, Vector b) { return _mm512_max_ps(a, b); }
inline Vector min(Vector a, Vector b) { return _mm512_min_ps(a, b); }
inline float horizontal_sum(Vector value) { return _mm512_reduce_add_ps(value); }
inline float horizontal_max(Vector value) { return _mm512_reduce_max_ps(value); }
// Stores the horizontal sums of four vectors.
inline void store_sums(float* to, const Vector (&values)[4]) {
    const auto halve = [](Vector a, Vector b) {  // the sums of both halves of a, then those of b
        return add(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
    };
    const Vector ab = halve(values[0], values[1]), cd = halve(values[2], values[3]);
    Vector sums = add(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xDD));
    sums = add(sums, _mm512_permute_ps(sums, 0x4E));
    sums = add(sums, _mm512_permute_ps(sums, 0xB1));
    _mm_storeu_ps(to, _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, sums)));
}
// Comparisons return a bit mask, the first lane in the lowest bit.
inline int greater(Vector a, Vector b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
inline int equal(Vector a, Vector b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
// `yes` in the lanes where a > b, else `no`.
inline Vector select_greater(Vector a, Vector b, Vector yes, Vector no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), no, yes);
}
inline int is_nan(Vector a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
inline Vector negative_abs(Vector a) { return _mm512_or_ps(a, broadcast(-0.0f)); }
inline Vector round_to_integer(Vector a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// 2^n for integers n within the range of a float's exponent.
inline Vector exp2_integer(Vector n) {
    const __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23));
}
#else
using Vector = __m256;
inline Vector load(const float* from) { return _mm256_loadu_ps(from); }
inline void store(float* to, Vector value) { _mm256_storeu_ps(to, value); }
inline Vector broadcast(float value) { return _mm256_set1_ps(value); }
inline Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
inline Vector sub(Vector a, Vector b) { return _mm256_sub_ps(a, b); }
inline Vector mul(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
inline Vector div(Vector a, Vector b) { return _mm256_div_ps(a, b); }
inline Vector fmadd(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
inline Vector max(Vector a, Vector b) { return _mm256_max_ps(a, b); }
inline Vector min(Vector a, Vector b) { return _mm256_min_ps(a, b); }
inline float horizontal_sum(Vector value) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(value), _mm256_extractf128_ps(value, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
inline float horizontal_max(Vector value) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(value), _mm256_extractf128_ps(value, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}
inline void store_sums(float* to, const Vector (&values)[4]) {
    const Vector ab = _mm256_hadd_ps(values[0], values[1]), cd = _mm256_hadd_ps(values[2], values[3]);
    const Vector sums = _mm256_hadd_ps(ab, cd);
    _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1)));
}
inline int greater(Vector a, Vector b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)); }
inline int equal(Vector a, Vector b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_EQ_OQ)); }
inline Vector select_greater(Vector a, Vector b, Vector yes, Vector no) {
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_GT_OQ));
}
inline int is_nan(Vector a) { return _mm256_movemask_ps(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)); }
inline Vector negative_abs(Vector a) { return _mm256_or_ps(a, broadcast(-0.0f)); }
inline Vector round_to_integer(Vector a) {
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline Vector exp2_integer(Vector n) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}
#endif
constexpr int LANES = sizeof(Vector) / sizeof(float);

// Transposes 8 x 8 numbers.
inline void transpose(__m256 (&rows)[8]) {
    __m256 pairs[8], fours[8];
    for (int i = 0; i < 8; i += 2) {
        pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            fours[i + 2 * j] = _mm256_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0x44);
            fours[i + 2 * j + 1] = _mm256_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0xEE);
        }
    for (int i = 0; i < 4; i++) {
        rows[i] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20);
        rows[i + 4] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31);
    }
}

// Prefetches a cache line; an address behind the end of an array does no harm.
inline void prefetch(const void* from) { _mm_prefetch(static_cast<const char*>(from), _MM_HINT_T0); }

inline void prefetch_bytes(const void* from, int64_t count) {
    for (int64_t n = 0; n < count; n += 64) prefetch(static_cast<const char*>(from) + n);
}

template <typename From, typename To>
inline void copy_numbers(const From* from, int64_t count, To* to) {
    for (int64_t n = 0; n < count; n += LANES) store(to + n, load(from + n));
}

constexpr float MIN_EXPONENT = -87;  // of exp_nonpositive; less would be subnormal

// exp(x) for x <= 0: range reduction to 2^n, and the polynomial of expf in the Cephes library (Moshier).
// It is at least exp(MIN_EXPONENT), exactly 1 for x = 0, and NaN for NaN.
inline Vector exp_nonpositive(Vector x) {
    x = max(broadcast(MIN_EXPONENT), x);
    const Vector n = round_to_integer(mul(x, broadcast(1.44269504f)));
    const Vector r = fmadd(n, broadcast(2.12194440e-4f), fmadd(n, broadcast(-0.693359375f), x));
    Vector p = broadcast(1.9875691500e-4f);
    for (const float factor :
         {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        p = fmadd(p, r, broadcast(factor));
    return mul(fmadd(mul(p, r), r, add(r, broadcast(1))), exp2_integer(n));
}

// The same, but 0 below MIN_EXPONENT, thus for minus infinity.
inline Vector exp_or_zero(Vector x) {
    return select_greater(broadcast(MIN_EXPONENT), x, broadcast(0), exp_nonpositive(x));
}

// tanh(x) = sign(x) (1 - e) / (1 + e) with e = exp(-2 |x|), which does not overflow.
inline Vector tanh(Vector x) {
    const Vector power = exp_nonpositive(mul(broadcast(2), negative_abs(x)));
    const Vector positive = div(sub(broadcast(1), power), add(broadcast(1), power));
    return select_greater(broadcast(0), x, sub(broadcast(0), positive), positive);
}

inline float exp_nonpositive(float x) {
    float values[LANES];
    store(values, exp_nonpositive(broadcast(x)));
    return values[0];
}

inline float exp_or_zero(float x) { return x < MIN_EXPONENT ? 0 : exp_nonpositive(x); }

}  // namespace
