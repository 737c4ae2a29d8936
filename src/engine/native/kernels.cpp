// The products and the attention of a step that decodes, for x86-64 with AVX2 or AVX-512.
//
// Such a step has few rows: reading weights and keys from memory is what takes its time. So each
// is laid out in the order in which it is read, and read once.
//
// A linear layer's weight is cut into panels of 16 outputs, each (inputs, 16) with the outputs of
// one input side by side. A few rows of input stay in cache, a panel is read from its start to its
// end, and each of its numbers serves all rows: the inner kernel of Goto and van de Geijn, "Anatomy
// of high-performance matrix multiplication" (ACM TOMS 34, 2008). With 8 bits four inputs of an
// output lie side by side, as VNNI's instruction multiplies and adds four at once.
//
// Attention goes once through a sequence's keys and values, a tile after the other, with the
// running softmax of Milakov and Gimelshein (arXiv:1805.02867), as FlashAttention does.
//
// Each output is computed in one order of additions, whatever other rows there are.
//
// All functions are called through ctypes; library.py says what their arguments are.

#include <immintrin.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <thread>

namespace {

constexpr int PANEL = 16;     // outputs that lie side by side
constexpr int ROWS = 6;       // rows of input that are multiplied at once
constexpr int TILE = 64;      // tokens whose scores are held at once
constexpr int MAX_HEADS = 32; // query heads of one task
constexpr int SPINS = 4096;   // looks for work before a thread sleeps, and for its end before it yields

// Threads that share work. Who shares it takes part, and waits for no helper that has not begun: if
// another process has its core, the others do its parts. OpenMP's threads all have to come first,
// which then costs a slice of the scheduler's time, milliseconds, for work of microseconds.
class Pool {
public:
    // Calls `work(index)` for each index from 0 to `count`, in `threads` threads at most. Who takes a
    // part takes some that follow one another, as what they read does too.
    template <typename Work>
    void share(int64_t count, int threads, const Work& work) {
        if (count < 2 || threads < 2 || !busy.try_lock()) {  // or in use: this thread does it alone
            for (int64_t index = 0; index < count; index++) work(index);
            return;
        }
        const int64_t size = std::max<int64_t>(1, count / (PARTS * threads));
        const auto run = [&](int64_t part) {
            for (int64_t index = part * size; index < std::min(count, (part + 1) * size); index++) work(index);
        };
        distribute((count + size - 1) / size, threads, run);
        busy.unlock();
    }

private:
    static constexpr uint32_t CLOSED = UINT32_MAX;
    static constexpr int PARTS = 4;  // for each thread: if one is held up the others take more

    template <typename Work>
    void distribute(int64_t count, int threads, const Work& work) {
        for (; started < threads - 1; started++) std::thread(&Pool::help, this, started).detach();
        const uint64_t round = (ticket.load() >> 32) + 1;
        ticket = round << 32 | CLOSED;  // nobody takes a part while these change
        parts = static_cast<uint32_t>(count);
        finished = 0;
        helpers = threads - 1;
        context = &work;
        call = [](const void* given, int64_t part) { (*static_cast<const Work*>(given))(part); };
        ticket = round << 32;
        if (sleeping > 0) {
            std::lock_guard<std::mutex> guard(mutex);
            wake.notify_all();
        }
        while (static_cast<uint32_t>(ticket.load()) < count) take_part();
        for (int spins = 0; finished < count; spins++) {
            if (spins < SPINS) _mm_pause();
            else sched_yield();
        }
    }

    // Whoever moves the ticket from a part to the next one has taken it, and knows that what it
    // read of the work before was of the same round.
    void take_part() {
        uint64_t now = ticket;
        const uint32_t part = static_cast<uint32_t>(now);
        if (part >= parts) return;
        const auto work = call.load();
        const void* given = context;
        if (!ticket.compare_exchange_strong(now, now + 1)) return;
        work(given, part);
        finished++;
    }

    bool has_part(int helper) const {
        return static_cast<uint32_t>(ticket.load()) < parts && helper < helpers;
    }

    void help(int helper) {
        for (;;) {
            for (int spins = 0; spins < SPINS; spins++) {
                if (has_part(helper)) take_part(), spins = 0;
                _mm_pause();
            }
            std::unique_lock<std::mutex> lock(mutex);
            sleeping++;
            wake.wait(lock, [&] { return has_part(helper); });
            sleeping--;
        }
    }

    std::mutex busy, mutex;
    std::condition_variable wake;
    std::atomic<int> sleeping{0}, helpers{0};
    std::atomic<uint64_t> ticket{CLOSED};  // the round, and in the lower half the next part
    std::atomic<uint32_t> parts{0}, finished{0};
    std::atomic<const void*> context{nullptr};
    std::atomic<void (*)(const void*, int64_t)> call{nullptr};
    int started = 0;
};

Pool& pool = *new Pool;  // its threads live as long as the process

#ifdef __AVX512F__
constexpr int PANELS = 4;  // that are read at once; with ROWS they fill the registers
using Vector = __m512;
inline Vector load(const float* from) { return _mm512_loadu_ps(from); }
inline void store(float* to, Vector value) { _mm512_storeu_ps(to, value); }
inline Vector all(float value) { return _mm512_set1_ps(value); }
inline Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
inline float sum(Vector value) { return _mm512_reduce_add_ps(value); }
#else
constexpr int PANELS = 1;
using Vector = __m256;
inline Vector load(const float* from) { return _mm256_loadu_ps(from); }
inline void store(float* to, Vector value) { _mm256_storeu_ps(to, value); }
inline Vector all(float value) { return _mm256_set1_ps(value); }
inline Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
inline float sum(Vector value) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(value), _mm256_extractf128_ps(value, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
#endif
constexpr int WIDTH = sizeof(Vector) / sizeof(float);
constexpr int BLOCK = PANELS * PANEL;   // outputs that are computed at once
constexpr int VECTORS = BLOCK / WIDTH;  // in registers, for each row

// The part of a product that one thread computes at once: some rows, and BLOCK outputs of which
// `outputs` are there.
struct Part {
    int64_t inputs, outputs, output_stride;
    const float* bias;  // or null
    float* output;
};

inline void finish(const Part& part, int row, const float* values) {
    float* output = part.output + row * part.output_stride;
    if (part.outputs == BLOCK && !part.bias) {
        std::memcpy(output, values, sizeof(float) * BLOCK);
        return;
    }
    for (int64_t n = 0; n < part.outputs; n++) output[n] = values[n] + (part.bias ? part.bias[n] : 0);
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
            weights[v] = load(weight + (at / PANEL) * panel + k * PANEL + at % PANEL);
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

inline Part part_of(int64_t first, int64_t inputs, int64_t outputs, const float* bias, float* output) {
    return {inputs, std::min<int64_t>(BLOCK, outputs - first), outputs, bias ? bias + first : nullptr,
            output + first};
}

#ifdef __AVX512VNNI__

// The intrinsic makes GCC 12 keep the sums in memory.
inline __m512i add_products(__m512i sums, __m512i unsigned_bytes, __m512i signed_bytes) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(unsigned_bytes), "v"(signed_bytes));
    return sums;
}

constexpr int SHIFT = 128;  // makes signed inputs unsigned

template <int rows>
void multiply_int8(const Part& part, const uint8_t* input, const float* input_scales, const int8_t* weight,
                   const float* scales, const int32_t* shifts) {
    __m512i sums[rows][PANELS];
    for (int row = 0; row < rows; row++)
        for (int p = 0; p < PANELS; p++) sums[row][p] = _mm512_setzero_si512();
    const int64_t panel = part.inputs * PANEL;
    for (int64_t k = 0; k < part.inputs; k += 4) {
        __m512i weights[PANELS];
        for (int p = 0; p < PANELS; p++) weights[p] = _mm512_loadu_si512(weight + p * panel + k * PANEL);
        for (int row = 0; row < rows; row++) {
            int32_t four;
            std::memcpy(&four, input + row * part.inputs + k, sizeof four);
            const __m512i x = _mm512_set1_epi32(four);
            for (int p = 0; p < PANELS; p++) sums[row][p] = add_products(sums[row][p], x, weights[p]);
        }
    }
    for (int row = 0; row < rows; row++) {
        float values[BLOCK];
        for (int p = 0; p < PANELS; p++) {
            const __m512i shift = _mm512_loadu_si512(shifts + p * PANEL);
            const __m512 sum = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums[row][p], shift));
            const __m512 scale = _mm512_mul_ps(load(scales + p * PANEL), all(input_scales[row]));
            store(values + p * PANEL, _mm512_mul_ps(sum, scale));
        }
        finish(part, row, values);
    }
}

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

#endif

// e to the power of values that are not above zero: 2^n times a polynomial (Cephes' expf).
inline float exponential(float x) {
    x = std::max(x, -87.0f);
    const float n = std::rint(x * 1.44269504f);
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1;
    const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return p * power;
}

// One sequence's part in a step: some of its key heads, and the query heads that belong to them.
struct Heads {
    int64_t count, group, key_dim, value_dim;  // `group` query heads share a key head
    int64_t key_stride, value_stride;          // from a token to the next
    const float *query, *keys, *values;
    int64_t query_stride;  // from a head to the next
    float scale;
    float* output;
};

// Attention to the tokens from `first` to `end`, for at most MAX_HEADS heads.
void attend(const Heads& heads, int64_t first, int64_t end) {
    float scores[MAX_HEADS][TILE], largest[MAX_HEADS], total[MAX_HEADS];
    for (int64_t h = 0; h < heads.count; h++) largest[h] = -INFINITY, total[h] = 0;
    std::memset(heads.output, 0, sizeof(float) * heads.count * heads.value_dim);
    for (int64_t start = first; start < end; start += TILE) {
        const int64_t size = std::min<int64_t>(TILE, end - start);
        for (int64_t t = 0; t < size; t++) {
            const float* token = heads.keys + (start + t) * heads.key_stride;
            for (int64_t h = 0; h < heads.count; h++) {
                const float* query = heads.query + h * heads.query_stride;
                const float* key = token + h / heads.group * heads.key_dim;
                Vector product = all(0);
                for (int64_t d = 0; d < heads.key_dim; d += WIDTH)
                    product = multiply_add(load(query + d), load(key + d), product);
                scores[h][t] = sum(product) * heads.scale;
            }
        }
        for (int64_t h = 0; h < heads.count; h++) {
            const float most = std::max(largest[h], *std::max_element(scores[h], scores[h] + size));
            const float shrink = largest[h] == -INFINITY ? 0 : exponential(largest[h] - most);
            largest[h] = most;
            total[h] *= shrink;
            for (int64_t t = size; t < TILE; t++) scores[h][t] = most;
            for (int t = 0; t < TILE; t++) scores[h][t] = exponential(scores[h][t] - most);
            for (int64_t t = size; t < TILE; t++) scores[h][t] = 0;
            Vector sums = all(0);
            for (int t = 0; t < TILE; t += WIDTH) sums = add(sums, load(scores[h] + t));
            total[h] += sum(sums);
            float* output = heads.output + h * heads.value_dim;
            for (int64_t d = 0; d < heads.value_dim; d++) output[d] *= shrink;
        }
        for (int64_t t = 0; t < size; t++) {
            const float* token = heads.values + (start + t) * heads.value_stride;
            for (int64_t h = 0; h < heads.count; h++) {
                const float* value = token + h / heads.group * heads.value_dim;
                float* output = heads.output + h * heads.value_dim;
                const Vector weight = all(scores[h][t]);
                for (int64_t d = 0; d < heads.value_dim; d += WIDTH)
                    store(output + d, multiply_add(weight, load(value + d), load(output + d)));
            }
        }
    }
    for (int64_t h = 0; h < heads.count; h++)
        for (int64_t d = 0; d < heads.value_dim; d++) heads.output[h * heads.value_dim + d] /= total[h];
}

}  // namespace

extern "C" {

void linear_float32(const float* input, const float* weight, const float* bias, float* output,
                    int64_t num_rows, int64_t inputs, int64_t outputs, int threads) {
    pool.share((outputs + BLOCK - 1) / BLOCK, threads, [=](int64_t block) {
        const int64_t first = block * BLOCK;
        const Part part = part_of(first, inputs, outputs, bias, output);
        for_rows(num_rows, [&](auto rows, int64_t row) {
            Part some = part;
            some.output += row * outputs;
            multiply_float32<rows>(some, input + row * inputs, weight + first * inputs);
        });
    });
}

#ifdef __AVX512VNNI__
// `quantized` (num_rows, inputs) and `input_scales` (num_rows) are memory for the rounded rows.
void linear_int8(const float* input, const int8_t* weight, const float* scales, const int32_t* shifts,
                 const float* bias, float* output, uint8_t* quantized, float* input_scales,
                 int64_t num_rows, int64_t inputs, int64_t outputs, int threads) {
    const int64_t together = std::max<int64_t>(1, 32768 / inputs);  // rows that are not worth sharing
    pool.share((num_rows + together - 1) / together, threads, [=](int64_t part) {
        for (int64_t row = part * together; row < std::min(num_rows, (part + 1) * together); row++)
            quantize(input + row * inputs, inputs, quantized + row * inputs, input_scales + row);
    });
    pool.share((outputs + BLOCK - 1) / BLOCK, threads, [=](int64_t block) {
        const int64_t first = block * BLOCK;
        const Part part = part_of(first, inputs, outputs, bias, output);
        for_rows(num_rows, [&](auto rows, int64_t row) {
            Part some = part;
            some.output += row * outputs;
            multiply_int8<rows>(some, quantized + row * inputs, input_scales + row, weight + first * inputs,
                                scales + first, shifts + first);
        });
    });
}
#endif

// Writes each row's key and value into its slot at its position, and attends to it and to those
// before it, `window` in all if that is not zero. Strides count floats.
void decode_attention(const float* query, const float* key, const float* value, float* keys, float* values,
                      float* output, const int64_t* slots, const int64_t* positions, const int64_t* strides,
                      int64_t num_rows, int64_t num_heads, int64_t num_kv_heads, int64_t key_dim,
                      int64_t value_dim, float scale, int64_t window, int threads) {
    const int64_t query_row = strides[0], query_head = strides[1], key_row = strides[2],
                  key_head = strides[3], value_row = strides[4], value_head = strides[5],
                  keys_slot = strides[6], values_slot = strides[7];
    const int64_t group = num_heads / num_kv_heads;
    const int64_t most = std::max<int64_t>(1, MAX_HEADS / group);  // key heads of a task
    const int64_t wanted = (2 * threads + num_rows - 1) / num_rows;
    const int64_t per_task = std::min(most, std::max<int64_t>(1, (num_kv_heads + wanted - 1) / wanted));
    const int64_t tasks = (num_kv_heads + per_task - 1) / per_task;
    pool.share(num_rows * tasks, threads, [=](int64_t task) {
        const int64_t row = task / tasks, first_head = task % tasks * per_task;
        const int64_t num_heads_here = std::min(per_task, num_kv_heads - first_head);
        const int64_t position = positions[row];
        float* row_keys = keys + slots[row] * keys_slot + first_head * key_dim;
        float* row_values = values + slots[row] * values_slot + first_head * value_dim;
        const int64_t key_stride = num_kv_heads * key_dim, value_stride = num_kv_heads * value_dim;
        for (int64_t h = 0; h < num_heads_here; h++) {
            std::memcpy(row_keys + position * key_stride + h * key_dim,
                        key + row * key_row + (first_head + h) * key_head, sizeof(float) * key_dim);
            std::memcpy(row_values + position * value_stride + h * value_dim,
                        value + row * value_row + (first_head + h) * value_head, sizeof(float) * value_dim);
        }
        const int64_t first_query = first_head * group;
        const Heads heads = {
            num_heads_here * group, group, key_dim, value_dim, key_stride, value_stride,
            query + row * query_row + first_query * query_head, row_keys, row_values, query_head, scale,
            output + (row * num_heads + first_query) * value_dim};
        attend(heads, window ? std::max<int64_t>(0, position + 1 - window) : 0, position + 1);
    });
}

}  // extern "C"
