// Kernels of a step on x86-64 CPUs with AVX2, AVX-512 or AMX: the functions that Python calls.
//
// A decoding step has few rows, so reading weights and keys from memory takes most of its time. All data is
// laid out in the order in which it is read, and read once. Every output is computed in a fixed order of
// additions, so a row's result does not depend on the other rows (batch invariance).
//
// bindings.py calls these functions through ctypes and documents their arguments. Pointers are valid only
// during a call. Nothing here allocates tensors, checks arguments or depends on a version of PyTorch.

#include "layer.h"
#include "layouts.h"
#include "prefill_attention.h"
#include "sampling.h"

extern "C" {

// Returns 0 if this process may not use the instructions of this variant.
int prepare() {
#ifdef __AMX_INT8__
    return request_amx_permission();
#else
    return 1;
#endif
}

const int64_t* struct_layout(int index) { return LAYOUTS[index]; }

void linear(const Linear* layer, const float* input, float* output, int64_t num_rows, int num_threads) {
    gemm(*layer, input, nullptr, output, num_rows, num_threads);
}

void decode_attention(const Attention* layer, const Projection* rows, const int32_t* block_tables,
                      int64_t table_width, const int64_t* positions, float* output, int64_t num_rows,
                      int num_threads) {
    attention_decode(*layer, *rows, {block_tables, table_width, positions}, output, num_rows, num_threads);
}

void prefill_attention(const Attention* layer, const Projection* tokens, const int32_t* block_table,
                       int64_t start, float* output, int64_t num_tokens, int num_threads) {
    attention_prefill(*layer, *tokens, block_table, start, output, num_tokens, num_threads);
}

void project_layer(const Layer* layer, const float* hidden, const float* cosine, const float* sine,
                   float* output, int64_t num_rows, int num_threads) {
    layer_project(*layer, hidden, cosine, sine, output, num_rows, num_threads);
}

void complete_layer(const Layer* layer, const float* hidden, const float* attended, float* output,
                    int64_t num_rows, int num_threads) {
    layer_complete(*layer, hidden, attended, output, num_rows, num_threads);
}

void decode_layer(const Layer* layer, const float* hidden, const float* cosine, const float* sine,
                  const int32_t* block_tables, int64_t table_width, const int64_t* positions, float* output,
                  int64_t num_rows, int num_threads) {
    layer_decode(*layer, hidden, cosine, sine, {block_tables, table_width, positions}, output, num_rows,
                 num_threads);
}

void argmax_rows(const float* scores, float* values, int64_t* indices, int64_t num_rows, int64_t size,
                 int num_threads) {
    pool.parallel_for(num_rows, num_threads,
                      [=](int64_t row) { argmax(scores + row * size, size, values + row, indices + row); });
}

void top_k_probs_rows(const float* logits, const float* temperatures, float* probs, int64_t* tokens,
                      int64_t num_rows, int64_t size, int64_t count, int num_threads) {
    pool.parallel_for(num_rows, num_threads, [=](int64_t row) {
        top_k_probs(logits + row * size, size, temperatures[row], count, probs + row * count, tokens + row * count);
    });
}

}  // extern "C"
