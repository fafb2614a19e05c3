// What one call of the bipartite kernel works on. Plain data.
#pragma once

#include <atomic>
#include <cstdint>

namespace bipartite {

// P problems of n left and m right spins with R replicas each: lane l is replica l % R of problem l / R.
struct Job {
    std::int64_t n, m, problems, replicas;
    int sweeps;
    const float *h;                            // [P, n + m]
    const float *J;                            // [P or 1, n, m]
    std::int64_t J_stride;                     // n m, or 0 where J is shared
    const float *sum;                          // [P or 1, n + m]: of each row of J, then of each column
    std::int64_t sum_stride;                   // n + m or 0
    const float *beta;                         // [sweeps], or [sweeps, P R]
    std::int64_t beta_stride;                  // 0, or P R
    bool metropolis, palindromic, random_start;
    const double *unit;                        // [P], see law/unit.hpp
    const std::uint64_t *seed;                 // [P]
    std::uint32_t first_sweep;                 // randomness goes on from here
    std::int8_t *spins;                        // [P R, n + m]: in where not random_start; out
    double *energy;                            // [P R]: out, without the offset
    std::int32_t *done;                        // [P R]: out, sweeps
    const std::atomic<bool> *stop;             // looked at once a sweep

    std::int64_t lanes() const { return problems * replicas; }
};

constexpr int lanes = 256;      // of a block, at most

struct Kernel {
    // The sums of the rows and columns of J [n, m], and those of its sizes; `column` is room for m numbers.
    void (*sums)(const float *J, std::int64_t n, std::int64_t m, double *column, float *sum);
    void (*sizes)(const float *J, std::int64_t n, std::int64_t m, double *column, double *sum);
    // Run the lanes first .. first + count - 1, of one problem where J is not shared: the number of sweeps done, or -1
    // without memory.
    int (*run)(const Job &, std::int64_t first, int count);
};

}  // namespace bipartite
