// Lanes to blocks, blocks to threads, and the instruction set to the machine.
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <vector>

#include "cpu.hpp"
#include "job.hpp"
#include "team.hpp"

namespace sparse {

inline std::vector<const Kernel *> kernels() {
    std::vector<const Kernel *> found;  // best first
#if defined(__x86_64__)
    if (cpu::has_avx512()) found.push_back(&avx512);
    if (cpu::has_avx2()) found.push_back(&avx2);
#endif
    found.push_back(&plain);
    return found;
}

constexpr int few = 8;

struct Piece {
    Job job;
    std::int64_t first;
    int count;
    Run run;
};

// A block is 64 lanes, or 32 where 64 would leave threads idle. Problems with many replicas are taken one by one, so
// that their fields are shared by the block; so are large problems with a J each, whose couplings by lane would not
// fit a cache (in 16 bits problems that share J may have units of their own), and problems of so few replicas in all
// that lanes would idle. Other batches fill blocks across problems. Up to 8 replicas of one problem take the colours'
// spins as lanes, unless colours are so small that those idle too; 16 bits have no such path.
inline std::vector<Piece> cut(const Job &job, int threads, const Kernel &kernel) {
    const bool wide = !job.tables && job.n >= 8 * std::int64_t{job.colours};
    const bool own_J = job.J_stride || job.tables, large = job.start[job.n] > (job.tables ? 32768 : 16384);
    const bool apart = job.problems > 1 && (job.replicas >= 32 || (own_J && large) || (wide && job.lanes() <= few));
    const std::int64_t rows = apart ? job.replicas : job.lanes(), parts = apart ? job.problems : 1;
    const int width = (rows + 63) / 64 * parts >= threads && rows > 32 ? 64 : 32;
    std::vector<Piece> pieces;
    for (std::int64_t p = 0; p < parts; ++p) {
        Job one = job;
        if (apart) {
            one.problems = 1;
            one.h += p * job.n, one.J += p * job.J_stride, one.J_stride = 0, one.seed += p;
            one.unit += job.tables ? p : 0;
            one.spins += p * job.replicas * job.n, one.energy += p * job.replicas, one.done += p * job.replicas;
            if (job.beta_stride) one.beta += p * job.replicas;
        } else if (job.problems == 1) {
            one.J_stride = 0;
        }
        for (std::int64_t first = 0; first < rows; first += width) {
            const int count = static_cast<int>(std::min<std::int64_t>(width, rows - first));
            const Run lanes = width == 64 ? kernel.lanes64 : kernel.lanes32;
            pieces.push_back({one, first, count, one.problems == 1 && wide && count <= few ? kernel.few : lanes});
        }
    }
    return pieces;
}

// Run it all; `alive` is asked every 2 ms or so by the calling thread, and false stops the sweeps. The fewest sweeps
// any lane did, or -1 without memory.
inline int run(Job job, const Kernel &kernel, int threads, const std::function<bool()> &alive) {
    std::atomic<bool> stop{false};
    job.stop = &stop;
    const std::vector<Piece> pieces = cut(job, threads, kernel);
    const auto piece = [&](std::size_t k) { return pieces[k].run(pieces[k].job, pieces[k].first, pieces[k].count); };
    const double updates = static_cast<double>(job.lanes()) * (job.n + job.start[job.n] / 8.0) * job.sweeps;
    return team::share(pieces.size(), threads, updates, job.sweeps, stop, alive, piece);
}

}  // namespace sparse
