// Threads for work of a millisecond, which to begin anew costs as much: those of the OpenMP runtime that torch has
// loaded, where it has one. They are awake from torch's own operations, and would else be in the way of ours.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>
#if defined(__linux__)
#include <dlfcn.h>
#include <pthread.h>
#endif

namespace pool {

// What compilers call for `#pragma omp parallel`: a function of a pointer, on so many threads.
using Parallel = void (*)(void (*)(void *), void *, unsigned, unsigned);

// Whether this process is a fork: its copy of a runtime has lost its threads, and would wait for them for ever.
inline std::atomic<bool> &forked() {
    static std::atomic<bool> value{false};
    return value;
}

// To be called once, before anything can have forked: when the module is loaded.
inline void watch_forks() {
#if defined(__linux__)
    pthread_atfork(nullptr, nullptr, [] { forked() = true; });
#endif
}

// Null where no such runtime is loaded, and in a fork.
inline Parallel runtime() {
#if defined(__linux__)
    static const Parallel found = []() -> Parallel {
        for (const char *name : {"libgomp.so.1", "libiomp5.so", "libomp.so"})
            if (void *library = dlopen(name, RTLD_LAZY | RTLD_NOLOAD))
                if (void *symbol = dlsym(library, "GOMP_parallel")) return reinterpret_cast<Parallel>(symbol);
        return nullptr;
    }();
    return forked() ? nullptr : found;
#else
    return nullptr;
#endif
}

// `work()` on so many threads of the runtime, of which there is one: the calling thread and others.
template <class Work>
void run(int threads, const Work &work) {
    const auto call = [](void *it) { (*static_cast<const Work *>(it))(); };
    runtime()(call, const_cast<Work *>(&work), static_cast<unsigned>(threads), 0);
}

// `work(part)` for each part, on as many threads.
template <class Work>
void share(int parts, const Work &work) {
    std::atomic<int> next{0};
    const auto serve = [&] {
        for (int part; (part = next++) < parts;) work(part);
    };
    if (parts <= 1) return serve();
    if (runtime()) return run(parts, serve);
    std::vector<std::thread> members;
    for (int t = 1; t < parts; ++t) members.emplace_back(serve);
    serve();
    for (std::thread &member : members) member.join();
}

// Threads that so many operations on numbers are worth, of those that may be used.
inline int worthwhile(double operations, int threads) {
    constexpr double least = 2e5;  // what outweighs waking a thread
    const double worth = operations / least;
    return worth < 2 ? 1 : static_cast<int>(worth < threads ? worth : threads);
}

}  // namespace pool
