// The same problems swept by a filter and by exact sums, on several threads, until enough decisions are made.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <thread>
#include <vector>

#include "result.hpp"

namespace law {
extern std::atomic<std::int64_t> left_open;  // lanes
}

namespace check {

// `Case(number)` is a problem, the same for each number; `near` says whether it is near the segments' edges. The number
// of spins and energies that differ.
template <class Case, class Kernel>
std::int64_t compare(const char *name, const char *set, const Kernel &kernel, const Kernel &exact, double decisions,
                     int threads) {
    std::atomic<std::uint32_t> next{0};
    std::atomic<std::int64_t> made{0}, near{0}, differing{0}, cases{0}, unfiltered{0};
    law::left_open = 0;
    const auto work = [&] {
        while (static_cast<double>(made) < decisions) {
            const std::uint32_t number = next++;
            const Case problem(number);
            if (!problem.filters(kernel)) {
                ++unfiltered;
                continue;
            }
            const Result filtered = problem.run(kernel), summed = problem.run(exact);
            for (std::size_t k = 0; k < summed.spins.size(); ++k) differing += filtered.spins[k] != summed.spins[k];
            for (std::size_t k = 0; k < summed.energy.size(); ++k) differing += filtered.energy[k] != summed.energy[k];
            const auto count = static_cast<std::int64_t>(problem.decisions());
            made += count, near += problem.near ? count : 0, ++cases;
        }
    };
    std::vector<std::thread> team;
    for (int t = 1; t < threads; ++t) team.emplace_back(work);
    work();
    for (std::thread &member : team) member.join();
    std::printf("equal, %s, %s: %lld decisions, %lld of them near segments' edges, %lld left open, in %lld problems "
                "(%lld not filtered); spins and energies that differ: %lld\n", name, set, static_cast<long long>(made),
                static_cast<long long>(near), static_cast<long long>(law::left_open), static_cast<long long>(cases),
                static_cast<long long>(unfiltered), static_cast<long long>(differing));
    std::fflush(stdout);
    return differing;
}

}  // namespace check
