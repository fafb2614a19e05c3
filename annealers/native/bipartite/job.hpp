// What one call of the bipartite kernel works on. Plain data: this header is compiled for several instruction sets.
#pragma once

#include <cstdint>

#include "../run/halt.hpp"

namespace bipartite {

// The sides of a problem: 0 the left one, 1 the right one. Spins of both are numbered in one row, the left side first.

// A shared J in whole units (law/unit.hpp). Rows are filled with zeros up to a whole number of `row_step` couplings.
constexpr std::int64_t row_step = 32;
inline std::int64_t row_length(std::int64_t couplings) { return (couplings + row_step - 1) / row_step * row_step; }

struct Rounded {
    std::int64_t row[2];             // the length of the rows of a side
    std::int32_t *twice_K[2];        // [spins of the side, row]: 2 K of each spin of a side to all of the other
    std::int32_t *sum_K, *sum_size;  // [n + m]: the sums of K and of |K|
    std::int32_t largest;            // |K|
};

// Sums of four couplings each for the filter (tables.hpp), of a side's spins. A spin's fields are in units of 2^drop u.
constexpr int planes = 3, exact_planes = 5;  // bytes of an entry
constexpr int least_drop = 6, most_drop = 12, drops = most_drop + 1;
constexpr std::int64_t most_inputs = 4096;  // sums of a 6-bit plane stay below 2^16
struct Tables {
    std::uint8_t *sums[2];               // null where the filter does not serve
    std::uint8_t *remainders[2];         // of the side `last`: upper parts and lower ones, 4 bytes for each coupling
    const std::uint8_t *drop;            // [n + m]
};

// P problems of n left and m right spins with R replicas each: lane l is replica l % R of problem l / R.
struct Job {
    std::int64_t n, m, problems, replicas;
    int sweeps;
    const float *h;                            // [P, n + m]
    const float *J;                            // [P or 1, n, m]
    std::int64_t J_stride;                     // n m, or 0 where J is shared
    const double *unit;                        // [P]
    Rounded rounded;                           // of a J shared in one unit
    Tables tables;                             // of the same
    const float *beta;                         // [sweeps], or [sweeps, all lanes of the call]
    std::int64_t beta_stride;                  // 0, or all lanes of the call
    bool metropolis, palindromic, random_start;
    const std::uint64_t *seed;                 // [P]
    std::uint32_t first_sweep;                 // randomness goes on from here
    std::uint32_t first_replica;               // replica 0 draws the numbers of this one
    std::int8_t *spins;                        // [P R, n + m]: in where not random_start; out
    double *energy;                            // [P R]: out, without the offset
    std::int32_t *done;                        // [P R]: out, sweeps
    Halt *halt;               // looked at once a sweep

    std::int64_t lanes() const { return problems * replicas; }
    int last() const { return palindromic; }   // the side that a sweep visits last, of whose fields energies are made
};

constexpr int exact_lanes = 128;   // of a block of the exact path, at most
constexpr int filter_lanes = 64;   // of a block of the filter, always of one problem

// In lanes that are swept exactly in the same time: the sums that an exact block makes for itself in a sweep, a sweep
// of a filtered block, and the filter's tables.
struct Cost {
    double sums, block, tables;
};

struct Kernel {
    // The largest sum of |J| over a row or a column of J [n, m]; `column` [m] begins with a cache's line, and is lost.
    double (*reach)(const float *J, std::int64_t n, std::int64_t m, double *column);
    // 2 K, and the sums, of J [n, m] in units of 1 / inverse; false without memory.
    bool (*round)(const float *J, std::int64_t n, std::int64_t m, double inverse, Rounded &to);
    // Run the lanes first .. first + count - 1, at most `exact_lanes`: the number of sweeps done, or -1 without memory.
    int (*exact)(const Job &, std::int64_t first, int count);
    // The filter, null where this instruction set has none: the tables of the spins first .. end - 1 of a side; and
    // chains of the blocks first .. end - 1, each problem's replicas being cut into blocks of `filter_lanes`. They go
    // on from where they are, or from `job.spins` (or uniform spins), and keep the job, which outlives them.
    void (*tabulate)(const Job &, int side, std::int64_t first, std::int64_t end);
    void *(*open)(const Job &, std::int64_t first, std::int64_t end);  // null without memory
    int (*run)(void *chains, bool go_on);
    void (*write)(void *chains);  // to `job.spins`
    void (*close)(void *chains);
    Cost cost;
    double range;                 // of the sums of four |2 K|, in steps 2^drop u, that its tables hold
};

}  // namespace bipartite
