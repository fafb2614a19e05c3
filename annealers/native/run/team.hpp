// Pieces of work shared out over threads, of which the calling one listens for an interrupt.
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

#include "halt.hpp"
#include "pool.hpp"

namespace team {

// The lanes of a block: at most `widest`, fewer where that would leave threads idle.
inline std::int64_t block_width(std::int64_t rows, std::int64_t widest, std::int64_t threads, std::int64_t multiple) {
    if (!rows) return multiple;
    const std::int64_t blocks = (rows + widest - 1) / widest, parts = (blocks + threads - 1) / threads * threads;
    return ((rows + parts - 1) / parts + multiple - 1) / multiple * multiple;
}

// What the calling thread asks every 2 ms or so.
struct Question {
    using Clock = std::chrono::steady_clock;
    static constexpr std::chrono::milliseconds pause{2};
    const std::function<bool()> &alive;
    const std::thread::id caller = std::this_thread::get_id();
    Clock::time_point next = Clock::now() + pause;

    void ask(Halt &halt) {
        if (!halt.stop && !alive()) halt.stop = true;
        next = Clock::now() + pause;
    }
    static void look(Halt &halt) {
        auto &question = *static_cast<Question *>(halt.of);
        if (std::this_thread::get_id() == question.caller && Clock::now() >= question.next) question.ask(halt);
    }
};

// `work(k)` for each piece k < pieces, on at most `threads` threads; it returns the sweeps done, or -1. The calling
// thread is one of them, and asks `alive` every 2 ms or so: where work asks `halt`, and while it waits for others; false
// of it stops the sweeps. Others are torch's own, where there are any: they are awake from torch's operations, and would
// else be in the way of ours. Short calls (few `updates` of a spin) run right here, unheard. The fewest sweeps of any
// piece; `all` where there is none.
inline int share(std::size_t pieces, int threads, double updates, int all, Halt &halt,
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
    Question question{alive};
    halt.look = Question::look, halt.of = &question;
    std::mutex mutex;
    std::condition_variable ended;
    std::size_t left = pieces;
    const auto member = [&] {
        const std::size_t served = serve();
        std::unique_lock<std::mutex> lock(mutex);
        if (!(left -= served)) ended.notify_one();
        if (std::this_thread::get_id() != question.caller) return;
        while (!ended.wait_for(lock, Question::pause, [&] { return left == 0; })) {
            lock.unlock();
            question.ask(halt);
            lock.lock();
        }
    };
    if (threads > 1 && pool::runtime()) {
        pool::run(threads, member);
    } else {
        std::vector<std::thread> others;
        for (int t = 1; t < threads; ++t) others.emplace_back(member);
        member();
        for (std::thread &other : others) other.join();
    }
    halt.look = nullptr;
    return fewest;
}

}  // namespace team
