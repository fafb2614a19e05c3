// What one call of the sparse kernel works on. Plain data: this header is compiled for several instruction sets.
#pragma once

#include <cstdint>

#include "../run/halt.hpp"

namespace sparse {

// Sums of couplings to four neighbours at a time, for fields of 16 bits; see filter.hpp. Of one J, shared by blocks.
struct Tables {
    float unit;                  // of a field in 16 bits
    int deepest;                 // most groups of a spin
    const std::int32_t *group;   // [n + 1]: where the groups of each spin begin
    const std::uint32_t *state;  // [groups, 4]: where the state of each neighbour begins, in bytes
    const std::int32_t *twice_K;  // [groups, 4]: 2 K, or 0 past a spin's last neighbour
    const std::uint8_t *sums;    // [groups, 32]: the low bytes of the sixteen sums, then the high ones
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
    const double *unit;                     // [P], see law/unit.hpp
    bool one_unit;                          // whether those of all problems are the same
    const std::int32_t *twice_K;            // [2k]: 2 K by neighbour, and their sum by spin [n], halved; of a shared J
    const std::int32_t *sum_K;              //       in one unit, null otherwise
    Tables tables;                          // of the same
    const double *step;                     // [P]: of fields in 16 bits where couplings differ (apart.hpp), or null
    const float *beta;                      // [sweeps], or [sweeps, all lanes of the call]
    std::int64_t beta_stride;               // 0, or all lanes of the call
    bool metropolis;                        // see `law::rule_of`
    bool palindromic;                       // each sweep there and back
    const std::uint64_t *seed;              // [P]
    std::uint32_t first_replica;            // replica 0 draws the numbers of this one
    std::uint32_t first_sweep;              // randomness goes on from here
    bool random_start;
    std::int8_t *spins;                     // [lanes, n]: in where not random_start; out
    double *energy;                         // [lanes]: out, without the offset
    std::int32_t *done;                     // [lanes]: out, sweeps
    Halt *halt;               // looked at once a sweep

    std::int64_t lanes() const { return std::int64_t{problems} * replicas; }
};

constexpr int most_together = 8;  // threads that sweep one block

// Run the lanes first .. first + count - 1: the number of sweeps done, or -1 without memory.
using Run = int (*)(const Job &, std::int64_t first, int count);

struct Kernel {
    // Fields summed exactly (of 64 lanes, or of 32), or filtered in 16 bits; `few`: one problem, at most 8 lanes.
    // `apart`: filtered, at most 32 lanes of problems with a J each.
    Run lanes64, lanes32, filter64, filter32, few, apart;
    // The sums of four couplings each, `sums` of job.tables, from twice_K.
    void (*fill)(const Job &, std::uint8_t *sums);
    // `filter64` for `most_together` threads or fewer that sweep a block together: it is opened (null without memory), served by each
    // member, which takes turns of so many spins and returns the sweeps done, and closed, which gives its lanes.
    void *(*open)(const Job &, std::int64_t first, int count);
    int (*serve)(void *block, int member, int members, int spins);
    void (*close)(void *block);
};

}  // namespace sparse
