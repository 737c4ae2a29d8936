// Threads that share the work of a kernel.

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

constexpr int SPINS = 4096;  // looks for work before a thread sleeps, and for its end before it yields

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

// Calls `work(row)` for each row of so many numbers; few are not worth sharing.
template <typename Work>
void share_rows(int64_t num_rows, int64_t size, int threads, const Work& work) {
    const int64_t together = std::max<int64_t>(1, 16384 / size);
    pool.share((num_rows + together - 1) / together, threads, [=](int64_t part) {
        for (int64_t row = part * together; row < std::min(num_rows, (part + 1) * together); row++) work(row);
    });
}

// Memory of the calling thread for what is between two kernels, one for each `use`; it only grows.
template <int use, typename Number>
Number* scratch(int64_t count) {
    static thread_local std::vector<Number> memory;
    if (static_cast<int64_t>(memory.size()) < count) memory.resize(count);
    return memory.data();
}

}  // namespace
