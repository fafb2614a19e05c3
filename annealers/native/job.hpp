// What one call of the sparse kernel works on. Plain data: this header is compiled for several instruction sets.
#pragma once

#include <atomic>
#include <cstdint>

namespace sparse {

enum class Rule : int { heat_bath, metropolis };

// The rule of a sweep by its number. Metropolis flips a spin in no field (and nearly always one in hardly any) at each
// visit: under a fixed order of visits domain walls then circulate for ever and never meet. So the first of every four
// of its sweeps is one of the heat bath; a cycle of kernels that leave the law invariant leaves it invariant.
constexpr std::uint32_t metropolis_cycle = 4;
inline Rule rule_of(bool metropolis, std::uint32_t sweep) {
    return metropolis && sweep % metropolis_cycle ? Rule::metropolis : Rule::heat_bath;
}

// A probability by its logit in 16 bits; see fixed_table.hpp.
struct Table {
    alignas(64) std::uint16_t c0[64], c1[64], c2[64];
};

// P problems on one graph with R replicas each: lane l is replica l % R of problem l / R. Spins are renumbered so that
// a sweep visits 0, 1, 2, ...; the neighbours of spin i are near[start[i]] ... and its couplings edge[start[i]] ....
struct Job {
    int n, problems, replicas, sweeps;
    const std::int32_t *order, *place;      // the caller's number of each renumbered spin, and the inverse
    const std::int32_t *start, *near, *edge;
    const std::int32_t *colour;             // [colours + 1]: where each colour begins among the renumbered spins
    int colours;
    const float *h;                         // [P, n], the caller's order
    const float *J;                         // [P or 1, k]
    std::int64_t J_stride;                  // k, or 0 where J is shared
    const float *beta;                      // [sweeps], or [sweeps, all lanes of the call]
    std::int64_t beta_stride;               // 0, or all lanes of the call
    bool metropolis;                        // see `rule_of`
    bool palindromic;                       // each sweep there and back
    const Table *tables;                    // 16-bit fields and the probabilities of each rule; null for single precision
    const float *unit;                      // [P], of 16-bit fields
    const std::uint64_t *seed;              // [P]
    std::uint32_t first_replica;            // replica 0 draws the numbers of this one
    std::uint32_t first_sweep;              // randomness goes on from here
    bool random_start;
    std::int8_t *spins;                     // [lanes, n]: in where not random_start; out
    double *energy;                         // [lanes]: out, without the offset
    std::int32_t *done;                     // [lanes]: out, sweeps
    const std::atomic<bool> *stop;          // looked at once a sweep

    std::int64_t lanes() const { return std::int64_t{problems} * replicas; }
};

// Run the lanes first .. first + count - 1: the number of sweeps done, or -1 without memory.
using Run = int (*)(const Job &, std::int64_t first, int count);

struct Kernel {
    const char *name;
    Run lanes64, lanes32, few;  // few: one problem, at most 8 lanes
};

extern const Kernel plain, avx2, avx512;

}  // namespace sparse
