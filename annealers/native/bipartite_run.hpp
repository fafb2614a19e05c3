// Lanes to blocks, blocks to threads, and the instruction set to the machine, for bipartite problems.
#pragma once

#include <algorithm>
#include <functional>
#include <vector>

#include "bipartite_job.hpp"
#include "cpu.hpp"
#include "team.hpp"

namespace bipartite {

inline std::vector<const Kernel *> kernels() {
    std::vector<const Kernel *> found;  // best first
#if defined(__x86_64__)
    if (cpu::has_avx512()) found.push_back(&avx512);
    if (cpu::has_avx2()) found.push_back(&avx2);
#endif
    found.push_back(&plain);
    return found;
}

// Run it all; `alive` is asked now and then, and false stops the sweeps. The fewest sweeps any lane did, or -1 without
// memory. Problems with a J each are taken one by one; blocks are narrower where whole ones would leave threads idle.
inline int run(Job job, const Kernel &kernel, int threads, const std::function<bool()> &alive) {
    std::atomic<bool> stop{false};
    job.stop = &stop;
    const std::int64_t N = job.n + job.m, own = job.J_stride ? job.problems : 1, rows = job.lanes() / own;
    std::vector<float> sum(own * N);
    std::vector<double> column(job.m);
    for (std::int64_t p = 0; p < own; ++p)
        kernel.sums(job.J + p * job.J_stride, job.n, job.m, column.data(), sum.data() + p * N);
    job.sum = sum.data(), job.sum_stride = own > 1 ? N : 0;
    const std::int64_t blocks = (rows + lanes - 1) / lanes;
    const std::int64_t parts = own > 1 ? 1 : (blocks + threads - 1) / threads * threads;
    const std::int64_t share = own > 1 ? (rows + blocks - 1) / blocks : (rows + parts - 1) / parts;
    const std::int64_t width = (share + 15) / 16 * 16, pieces = (rows + width - 1) / width;
    const auto piece = [&](std::size_t k) {
        const std::int64_t first = static_cast<std::int64_t>(k) % pieces * width;
        return kernel.run(job, static_cast<std::int64_t>(k) / pieces * rows + first,
                          static_cast<int>(std::min(width, rows - first)));
    };
    const double updates = static_cast<double>(job.lanes()) * (N + job.n * job.m / 128.0) * job.sweeps;
    return team::share(own * pieces, threads, updates, job.sweeps, stop, alive, piece);
}

}  // namespace bipartite
