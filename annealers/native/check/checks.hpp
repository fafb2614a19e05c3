// The checks, each in a file of its own.
#pragma once

#include <cstdint>

namespace check {

// Fuzzed problems: each instruction set, as many threads, any block and reads asked for one by one give the same bits,
// and some lanes those of the law as reference.hpp has it. The digest of all results.
unsigned long long fuzz_sparse(int trials);
unsigned long long fuzz_dense(int trials);
unsigned long long fuzz_bipartite(int trials);
unsigned long long fuzz_logits(int trials);
unsigned long long fuzz_products(int trials);
unsigned long long fuzz_philox(int trials);
void stops();

// Decisions that contradict the filter's bound, over all fields of 16 bits at `settings` betas and units, for each
// instruction set that has a filter.
std::int64_t bound(int settings);

// Spins and energies in which sweeps filtered and sweeps summed exactly differ, after so many decisions of each
// instruction set that has a filter.
std::int64_t equal_sparse(double decisions, int threads);
std::int64_t equal_bipartite(double decisions, int threads);

}  // namespace check
