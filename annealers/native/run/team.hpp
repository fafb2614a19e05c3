// Pieces of work shared out over threads, while the calling thread listens for an interrupt.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "pool.hpp"

namespace team {

// The lanes of a block: at most `widest`, fewer where that would leave threads idle.
inline std::int64_t block_width(std::int64_t rows, std::int64_t widest, std::int64_t threads, std::int64_t multiple) {
    if (!rows) return multiple;
    const std::int64_t blocks = (rows + widest - 1) / widest, parts = (blocks + threads - 1) / threads * threads;
    return ((rows + parts - 1) / parts + multiple - 1) / multiple * multiple;
}

// `work(k)` for each piece k < pieces, on at most `threads` threads; it returns the sweeps done, or -1. The calling
// thread asks `alive` every 2 ms or so, and sets `stop` when that says false. Short calls (few `updates` of a spin) run
// right here, unheard. The fewest sweeps of any piece; `all` where there is none.
inline int share(std::size_t pieces, int threads, double updates, int all, std::atomic<bool> &stop,
                 const std::function<bool()> &alive, const std::function<int(std::size_t)> &work) {
    std::atomic<std::size_t> next{0};
    std::atomic<int> fewest{all};
    const auto serve = [&] {
        std::size_t served = 0;
        for (std::size_t k; (k = next++) < pieces; ++served) {
            const int done = work(k);
            for (int least = fewest; done < least && !fewest.compare_exchange_weak(least, done);) {}
        }
        return served;
    };
    threads = static_cast<int>(std::min<std::size_t>(static_cast<std::size_t>(threads), pieces));
    if (updates < 3e5 || (threads <= 1 && updates < 1e6)) {
        serve();
        return fewest;
    }
    std::mutex mutex;
    std::condition_variable ended;
    std::size_t left = pieces;
    const auto serve_and_tell = [&] {
        const std::size_t served = serve();
        const std::lock_guard<std::mutex> lock(mutex);
        if (!(left -= served)) ended.notify_one();
    };
    const auto listen = [&] {
        std::unique_lock<std::mutex> lock(mutex);
        while (!ended.wait_for(lock, std::chrono::milliseconds(2), [&] { return left == 0; })) {
            lock.unlock();
            if (!stop && !alive()) stop = true;
            lock.lock();
        }
    };
    // Torch's own threads work, all but the calling one, which listens: they are awake from torch's operations, and would
    // else be in the way of ours. In its stead there is one of ours.
    const std::thread::id caller = std::this_thread::get_id();
    const int lent = threads > 1 && pool::runtime() ? threads - 1 : 0;
    std::vector<std::thread> members;
    for (int t = lent; t < threads; ++t) members.emplace_back(serve_and_tell);
    if (lent) pool::run(threads, [&] { std::this_thread::get_id() == caller ? listen() : serve_and_tell(); });
    else listen();
    for (std::thread &member : members) member.join();
    return fewest;
}

}  // namespace team
