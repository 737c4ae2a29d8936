// What a step that decodes is made of, for x86-64 with AVX2 or AVX-512.
//
// Such a step has few rows: reading weights and keys from memory is what takes its time. So each is
// laid out in the order in which it is read, and read once.
//
// Each output is computed in one order of additions, whatever other rows there are.
//
// All functions are called through ctypes; library.py says what their arguments are.

#include "layer.h"
#include "sampling.h"

extern "C" {

// Whether this process may use what the kernels were compiled for.
int prepare() {
#ifdef __AMX_INT8__
    return may_use_tiles();
#else
    return 1;
#endif
}

void linear(const Linear* layer, const float* input, float* output, int64_t num_rows, int threads) {
    multiply(*layer, input, nullptr, output, num_rows, threads);
}

void attend_to_slots(const Attention* layer, const Projected* rows, const int64_t* slots,
                     const int64_t* positions, float* output, int64_t num_rows, int threads) {
    decode_attention(*layer, *rows, slots, positions, output, num_rows, threads);
}

void project_layer(const Layer* layer, const float* hidden, const float* cosine, const float* sine,
                   float* output, int64_t num_rows, int threads) {
    project(*layer, hidden, cosine, sine, output, num_rows, threads);
}

void complete_layer(const Layer* layer, const float* hidden, const float* attended, float* output,
                    int64_t num_rows, int threads) {
    complete(*layer, hidden, attended, output, num_rows, threads);
}

void decode_layer(const Layer* layer, const float* hidden, const float* cosine, const float* sine,
                  const int64_t* slots, const int64_t* positions, float* output, int64_t num_rows,
                  int threads) {
    decode(*layer, hidden, cosine, sine, slots, positions, output, num_rows, threads);
}

void largest_of_rows(const float* scores, float* values, int64_t* places, int64_t num_rows, int64_t size,
                     int threads) {
    pool.share(num_rows, threads,
               [=](int64_t row) { find_largest(scores + row * size, size, values + row, places + row); });
}

void most_likely_of_rows(const float* logits, const float* temperatures, float* probabilities, int64_t* tokens,
                         int64_t num_rows, int64_t size, int64_t count, int threads) {
    pool.share(num_rows, threads, [=](int64_t row) {
        find_most_likely(logits + row * size, size, temperatures[row], count, probabilities + row * count,
                         tokens + row * count);
    });
}

}  // extern "C"
