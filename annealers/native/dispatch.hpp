// Lanes to blocks, blocks to threads, and the instruction set to the machine.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "job.hpp"

namespace sparse {

inline std::vector<const Kernel *> kernels() {
    std::vector<const Kernel *> found;  // best first
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        found.push_back(&avx512);
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(&avx2);
#endif
    found.push_back(&plain);
    return found;
}

struct Piece {
    Job job;
    std::int64_t first;
    int count;
};

// A block is 64 lanes, or 32 where 64 would leave threads idle. Problems with many replicas are taken one by one, so
// that their fields are shared by the block; so are large problems with a J each, whose couplings by lane would not
// fit a cache. Other batches fill blocks across problems.
inline std::vector<Piece> cut(const Job &job, int threads, int &width) {
    const bool apart = job.problems > 1 && (job.replicas >= 32 || (job.J_stride && job.J_stride > 8192));
    const std::int64_t rows = apart ? job.replicas : job.lanes(), parts = apart ? job.problems : 1;
    width = (rows + 63) / 64 * parts >= threads && rows > 32 ? 64 : 32;
    std::vector<Piece> pieces;
    for (std::int64_t p = 0; p < parts; ++p) {
        Job one = job;
        if (apart) {
            one.problems = 1;
            one.h += p * job.n, one.J += p * job.J_stride, one.J_stride = 0, one.seed += p;
            one.spins += p * job.replicas * job.n, one.energy += p * job.replicas;
            if (job.beta_stride) one.beta += p * job.replicas;
        } else if (job.problems == 1) {
            one.J_stride = 0;
        }
        for (std::int64_t first = 0; first < rows; first += width)
            pieces.push_back({one, first, static_cast<int>(std::min<std::int64_t>(width, rows - first))});
    }
    return pieces;
}

// Run it all; `alive` is asked every 50 ms or so by the calling thread, and false stops the sweeps. The fewest sweeps
// any lane did, or -1 without memory.
inline int run(Job job, const Kernel &kernel, int threads, const std::function<bool()> &alive) {
    std::atomic<bool> stop{false};
    std::atomic<std::size_t> next{0};
    std::atomic<int> fewest{job.sweeps};
    job.stop = &stop;
    int width = 64;
    const std::vector<Piece> pieces = cut(job, threads, width);
    const Run work = width == 64 ? kernel.lanes64 : kernel.lanes32;
    const auto serve = [&] {
        for (std::size_t k; (k = next++) < pieces.size();) {
            const int done = work(pieces[k].job, pieces[k].first, pieces[k].count);
            for (int least = fewest; done < least && !fewest.compare_exchange_weak(least, done);) {}
        }
    };
    const double updates = static_cast<double>(job.lanes()) * job.n * job.sweeps;
    threads = static_cast<int>(std::min<std::size_t>(threads, pieces.size()));
    if (updates < 3e5 || (threads == 1 && updates < 3e6)) {  // under some milliseconds: no thread, no interrupt
        serve();
        return fewest;
    }
    std::mutex mutex;
    std::condition_variable ended;
    int left = threads;
    std::vector<std::thread> team;
    for (int t = 0; t < threads; ++t)
        team.emplace_back([&] {
            serve();
            const std::lock_guard<std::mutex> lock(mutex);
            --left;
            ended.notify_one();
        });
    {
        std::unique_lock<std::mutex> lock(mutex);
        while (!ended.wait_for(lock, std::chrono::milliseconds(50), [&] { return left == 0; })) {
            lock.unlock();
            if (!stop && !alive()) stop = true;
            lock.lock();
        }
    }
    for (std::thread &t : team) t.join();
    return fewest;
}

}  // namespace sparse
