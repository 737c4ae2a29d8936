// Vectors of floats: 16 with AVX-512, else 8.

#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

constexpr int PANEL = 16;  // outputs that lie side by side

#ifdef __AVX512F__
constexpr int PANELS = 4;  // that are read at once; with ROWS they fill the registers
using Vector = __m512;
inline Vector load(const float* from) { return _mm512_loadu_ps(from); }
inline void store(float* to, Vector value) { _mm512_storeu_ps(to, value); }
inline Vector all(float value) { return _mm512_set1_ps(value); }
inline Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
inline Vector multiply(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
inline float sum(Vector value) { return _mm512_reduce_add_ps(value); }
inline Vector largest(Vector a, Vector b) { return _mm512_max_ps(a, b); }
inline Vector smallest(Vector a, Vector b) { return _mm512_min_ps(a, b); }
// Of which numbers this is true, as bits.
inline int greater(Vector a, Vector b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
inline int equal(Vector a, Vector b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
inline int unordered(Vector a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
inline Vector minus_absolute(Vector a) { return _mm512_or_ps(a, all(-0.0f)); }
inline Vector divide(Vector a, Vector b) { return _mm512_div_ps(a, b); }
inline Vector nearest(Vector a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vector power_of_two(Vector n) {  // of whole numbers that a float's exponent can be
    const __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23));
}
#else
constexpr int PANELS = 1;
using Vector = __m256;
inline Vector load(const float* from) { return _mm256_loadu_ps(from); }
inline void store(float* to, Vector value) { _mm256_storeu_ps(to, value); }
inline Vector all(float value) { return _mm256_set1_ps(value); }
inline Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
inline Vector multiply(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
inline float sum(Vector value) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(value), _mm256_extractf128_ps(value, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
inline Vector largest(Vector a, Vector b) { return _mm256_max_ps(a, b); }
inline Vector smallest(Vector a, Vector b) { return _mm256_min_ps(a, b); }
inline int greater(Vector a, Vector b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)); }
inline int equal(Vector a, Vector b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_EQ_OQ)); }
inline int unordered(Vector a) { return _mm256_movemask_ps(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)); }
inline Vector minus_absolute(Vector a) { return _mm256_or_ps(a, all(-0.0f)); }
inline Vector divide(Vector a, Vector b) { return _mm256_div_ps(a, b); }
inline Vector nearest(Vector a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vector power_of_two(Vector n) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}
#endif
constexpr int WIDTH = sizeof(Vector) / sizeof(float);

// Asks for what will be wanted soon; addresses behind the end do no harm.
inline void fetch(const void* from) { _mm_prefetch(static_cast<const char*>(from), _MM_HINT_T0); }

// e to the power of values that are not above zero: 2^n times a polynomial (Cephes' expf).
inline Vector exponential(Vector x) {
    x = largest(all(-87), x);
    const Vector n = nearest(multiply(x, all(1.44269504f)));
    const Vector r = multiply_add(n, all(2.12194440e-4f), multiply_add(n, all(-0.693359375f), x));
    Vector p = all(1.9875691500e-4f);
    for (const float factor : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        p = multiply_add(p, r, all(factor));
    return multiply(multiply_add(multiply(p, r), r, add(r, all(1))), power_of_two(n));
}

inline float exponential(float x) {
    float values[WIDTH];
    store(values, exponential(all(x)));
    return values[0];
}

}  // namespace
