// What one call of the dense kernel works on. Plain data: this header is compiled for several instruction sets.
#pragma once

#include <cstdint>

#include "../run/halt.hpp"

namespace dense {

constexpr int tile = 64;  // spins that are decided before their flips reach all fields; numbers of a stretch (rows.hpp)

// P problems of n spins with R replicas each: lane l is replica l % R of problem l / R.
struct Job {
    std::int64_t n, row, problems, replicas;   // row: n rounded up to whole vectors
    int sweeps;
    const float *h;                            // [P, n]
    const float *J;                            // [P or 1, n, row], symmetric, zero diagonal, padded with zeros
    std::int64_t J_stride;                     // n row, or 0 where J is shared
    const double *unit;                        // [P], see law/unit.hpp
    const std::int32_t *twice_K;               // [stretches, n, tile] of a shared J in one unit, null otherwise
    const float *beta;                         // [sweeps], or [sweeps, P R]
    std::int64_t beta_stride;                  // 0, or P R
    bool metropolis, palindromic, random_start;
    const std::uint64_t *seed;                 // [P]
    std::uint32_t first_sweep;                 // randomness goes on from here
    std::int8_t *spins;                        // [P R, n]
    double *energy;                            // [P R], without the offset
    std::int32_t *done;                        // [P R], sweeps
    Halt *halt;

    std::int64_t stretches() const { return (n + tile - 1) / tile; }
    std::int64_t rows_size() const { return stretches() * n * tile; }  // numbers
};

constexpr int lanes = 64;  // replicas of a block, at most

// Run the lanes first .. first + count - 1: the number of sweeps done, or -1 without memory.
using Run = int (*)(const Job &, std::int64_t first, int count);

struct Kernel {
    Run run;
    // 2 K of a J in a unit.
    void (*round)(const Job &, const float *J, double unit, std::int32_t *twice_K);
};

}  // namespace dense
