// Whether sweeps go on: what every kernel asks once a sweep. Plain data: this header is compiled for several instruction
// sets.
#pragma once

#include <atomic>

struct Halt {
    std::atomic<bool> stop{false};
    void (*look)(Halt &) = nullptr;  // may set `stop`; called each time it is asked, by any thread
    void *of = nullptr;              // what `look` needs
};

namespace {

inline bool stopped(Halt *halt) {
    if (halt->look) halt->look(*halt);
    return halt->stop.load(std::memory_order_relaxed);
}

}  // namespace
