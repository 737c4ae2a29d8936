// Thread pool with a parallel loop, for kernels that take microseconds.
//
// It replaces OpenMP's `parallel for`, whose barrier needs every thread: if another process has a
// thread's core, all wait for a time slice, milliseconds. Here the calling thread works too and waits
// only for chunks that a worker has begun. There are no queues, futures or nested loops: one loop runs
// at a time, and a second caller runs its loop alone.

#pragma once

#include <immintrin.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace {

// Polls before a worker sleeps, and before the caller yields its core.
constexpr int MAX_SPINS = 4096;

class ThreadPool {
public:
    // Calls `body(index)` for each index in [0, count), on at most `num_threads` threads. Each chunk is a
    // run of consecutive indices, as their data is consecutive in memory.
    template <typename Body>
    void parallel_for(int64_t count, int num_threads, const Body& body) {
        if (count < 2 || num_threads < 2 || !in_use.try_lock()) {
            for (int64_t index = 0; index < count; index++) body(index);
            return;
        }
        const int64_t size = std::max<int64_t>(1, count / (CHUNKS_PER_THREAD * num_threads));
        const auto run_chunk = [&](int64_t chunk) {
            for (int64_t index = chunk * size; index < std::min(count, (chunk + 1) * size); index++) body(index);
        };
        run_chunks((count + size - 1) / size, num_threads, run_chunk);
        in_use.unlock();
    }

private:
    static constexpr uint32_t CLOSED = UINT32_MAX;
    static constexpr int CHUNKS_PER_THREAD = 4;  // balances the load if a thread is interrupted

    template <typename RunChunk>
    void run_chunks(int64_t count, int num_threads, const RunChunk& run_chunk) {
        for (; num_started < num_threads - 1; num_started++)
            std::thread(&ThreadPool::run_worker, this, num_started).detach();
        const uint64_t round = (ticket.load() >> 32) + 1;
        ticket = round << 32 | CLOSED;  // no chunk can be taken while these fields change
        num_chunks = static_cast<uint32_t>(count);
        num_finished = 0;
        num_workers = num_threads - 1;
        argument = &run_chunk;
        function = [](const void* closure, int64_t chunk) { (*static_cast<const RunChunk*>(closure))(chunk); };
        ticket = round << 32;
        if (num_sleeping > 0) {
            std::lock_guard<std::mutex> guard(mutex);
            wake.notify_all();
        }
        while (static_cast<uint32_t>(ticket.load()) < count) try_chunk();
        for (int spins = 0; num_finished < count; spins++) {
            if (spins < MAX_SPINS) _mm_pause();
            else sched_yield();
        }
    }

    // Takes a chunk by a compare-and-swap of the ticket. Success means that the round has not changed,
    // so the function and the argument read before belong to it.
    void try_chunk() {
        uint64_t current = ticket;
        const uint32_t chunk = static_cast<uint32_t>(current);
        if (chunk >= num_chunks) return;
        const auto run_chunk = function.load();
        const void* closure = argument;
        if (!ticket.compare_exchange_strong(current, current + 1)) return;
        run_chunk(closure, chunk);
        num_finished++;
    }

    bool has_chunk(int worker) const {
        return static_cast<uint32_t>(ticket.load()) < num_chunks && worker < num_workers;
    }

    void run_worker(int worker) {
        for (;;) {
            for (int spins = 0; spins < MAX_SPINS; spins++) {
                if (has_chunk(worker)) try_chunk(), spins = 0;
                _mm_pause();
            }
            std::unique_lock<std::mutex> lock(mutex);
            num_sleeping++;
            wake.wait(lock, [&] { return has_chunk(worker); });
            num_sleeping--;
        }
    }

    std::mutex in_use, mutex;
    std::condition_variable wake;
    std::atomic<int> num_sleeping{0}, num_workers{0};
    std::atomic<uint64_t> ticket{CLOSED};  // upper half: round, lower half: next chunk
    std::atomic<uint32_t> num_chunks{0}, num_finished{0};
    std::atomic<const void*> argument{nullptr};
    std::atomic<void (*)(const void*, int64_t)> function{nullptr};
    int num_started = 0;
};

ThreadPool& pool = *new ThreadPool;  // never destroyed, as its threads run until the process ends

// Calls `body(row)` for each row; rows of few numbers are grouped, as sharing them costs more than it saves.
template <typename Body>
void parallel_for_rows(int64_t num_rows, int64_t row_size, int num_threads, const Body& body) {
    const int64_t group = std::max<int64_t>(1, 16384 / row_size);
    pool.parallel_for((num_rows + group - 1) / group, num_threads, [=](int64_t index) {
        for (int64_t row = index * group; row < std::min(num_rows, (index + 1) * group); row++) body(row);
    });
}

// Thread-local buffers for intermediate results, aligned to cache lines. A buffer only grows; kernels that run
// inside each other use different ones.
enum class Buffer { QUANTIZED, SCALES, NORMED, RESIDUAL, UP, ACTIVATED, PROJECTED, ATTENDED, PREFILL };

template <Buffer buffer, typename Number>
Number* scratch(int64_t count) {
    constexpr int64_t LINE = 64;  // bytes
    static thread_local std::vector<Number> memory;
    count += LINE / sizeof(Number);
    if (static_cast<int64_t>(memory.size()) < count) memory.resize(count);
    const auto address = reinterpret_cast<uintptr_t>(memory.data());
    return reinterpret_cast<Number*>((address + LINE - 1) / LINE * LINE);
}

}  // namespace
