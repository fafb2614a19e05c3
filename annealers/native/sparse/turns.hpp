// How threads sweep one block together: by turns, pieces of a colour each, in the order of a sweep.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "job.hpp"

namespace sparse {
namespace {

// Each thread takes the turns of its own share of a colour, whose spins its cache holds, and then what is left of others'.
// Turns may begin once all of the colours before are done. No thread waits for a turn that nobody has taken, and a thread
// alone takes them all.
class Turns {
  public:
    explicit Turns(int sweeps) : end_(sweeps) {}

    // The next turn of a share, counted from the first sweep's on; -1 where that is not below `limit`.
    std::int64_t take(int share, std::int64_t limit) {
        std::atomic<std::int64_t> &next = share_[share].next;
        std::int64_t turn = next.load(std::memory_order_relaxed);
        while (turn < limit)
            if (next.compare_exchange_weak(turn, turn + 1, std::memory_order_relaxed)) return turn;
        return -1;
    }
    void finish() { done_.fetch_add(1, std::memory_order_release); }
    // Whether turns of a sweep may begin, given how many are before their colour: false where there is no such sweep. It
    // yields where that takes long: another thread may want this processor.
    bool begin(std::int64_t before, int sweep) const {
        for (int tries = 0; done_.load(std::memory_order_acquire) < before; ++tries) {
            if (sweep >= end()) return false;
            tries < patience ? pause() : std::this_thread::yield();
        }
        return sweep < end();
    }
    // No sweep from this one on.
    void stop(int sweep) { end_.store(sweep, std::memory_order_relaxed); }
    int end() const { return end_.load(std::memory_order_relaxed); }

  private:
    static constexpr int patience = 1000;  // some tens of microseconds
    struct alignas(64) Share {
        std::atomic<std::int64_t> next{0};
    };
    Share share_[most_together];
    alignas(64) std::atomic<std::int64_t> done_{0};
    alignas(64) std::atomic<int> end_;

    static void pause() {
#if defined(__x86_64__)
        _mm_pause();
#elif defined(__aarch64__)
        asm volatile("yield");
#endif
    }
};

// One thread's way through the turns of all sweeps.
class Way {
  public:
    Way(Turns &turns, int member, int members) : turns_(turns), member_(member), members_(members) {}

    // `work(piece)` for those of so many pieces of a colour that fall to this thread; false where the sweep is not wanted.
    template <class Work>
    bool pass(int pieces, int sweep, const Work &work) {
        bool begun = false;
        for (int k = 0; k < members_; ++k) {
            const int share = (member_ + k) % members_, from = first(share, pieces), end = first(share + 1, pieces);
            const std::int64_t limit = before_[share] + end - from;
            for (std::int64_t turn; (turn = turns_.take(share, limit)) >= 0; turns_.finish()) {
                if (!begun && !turns_.begin(all_before_, sweep)) return false;
                begun = true;
                work(from + static_cast<int>(turn - before_[share]));
            }
        }
        for (int share = 0; share < members_; ++share) before_[share] += first(share + 1, pieces) - first(share, pieces);
        all_before_ += pieces;
        return true;
    }

  private:
    Turns &turns_;
    const int member_, members_;
    std::int64_t before_[most_together] = {}, all_before_ = 0;  // turns of the colours before, of each share

    int first(int share, int pieces) const { return static_cast<int>(std::int64_t{pieces} * share / members_); }
};

}  // namespace
}  // namespace sparse
