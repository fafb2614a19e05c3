// Lanes to blocks, blocks to threads, and the instruction set to the machine, for bipartite problems.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <new>
#include <vector>

#include "bipartite_job.hpp"
#include "cpu.hpp"
#include "fixed_refusal.hpp"
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

// The units of 16-bit fields, a problem each.
inline std::vector<float> units(const Job &job, const Kernel &kernel) {
    const std::int64_t N = job.n + job.m, degree = std::min(job.n, job.m) ? std::max(job.n, job.m) : 0;
    const float coldest = sparse::coldest(job);
    std::vector<double> push(N), column(job.m);
    std::vector<float> unit;
    for (std::int64_t p = 0; p < job.problems; ++p) {
        if (p == 0 || job.J_stride)
            kernel.sizes(job.J + p * job.J_stride, job.n, job.m, column.data(), push.data());
        double largest = 0, pushed = 0;
        for (std::int64_t i = 0; i < N; ++i) {
            largest = std::fmax(largest, push[i] + std::fabs(job.h[p * N + i]));
            pushed = std::fmax(pushed, push[i]);
        }
        unit.push_back(sparse::fine_unit(sparse::scale_of(largest, pushed, degree), coldest));
    }
    return unit;
}

// Problem p alone, in 16 bits: its lanes and what is prepared for it.
struct Alone {
    Job job;
    std::unique_ptr<std::uint16_t[]> memory;
    bool ready;

    Alone(const Job &all, std::int64_t p, const Kernel &kernel) : job(all) {
        const std::int64_t N = job.n + job.m, R = job.replicas;
        job.problems = 1, job.J_stride = 0, job.sum_stride = 0;
        job.h += p * N, job.J += p * all.J_stride, job.sum += p * all.sum_stride, job.unit += p, job.seed += p;
        job.spins += p * R * N, job.energy += p * R, job.done += p * R;
        if (job.beta_stride) job.beta += p * R;
        const std::int64_t left = job.n * ((job.m + 4) / 5) * five_sums, right = job.m * ((job.n + 4) / 5) * five_sums;
        memory.reset(new (std::nothrow) std::uint16_t[left + right + N]);
        std::uint16_t *const fives[2] = {memory.get(), memory.get() + left}, *const base = memory.get() + left + right;
        job.fives[0] = fives[0], job.fives[1] = fives[1], job.base16 = base;
        ready = memory && kernel.prepare(job, fives, base);
    }
    int run(const Kernel &kernel, std::int64_t first, std::int64_t width) const {
        return kernel.run(job, first, static_cast<int>(std::min(width, job.replicas - first)));
    }
};

// In 16 bits problems are taken one by one: their units differ. Threads share their blocks, or several problems.
inline int run16(const Job &job, const Kernel &kernel, int threads, double updates, std::atomic<bool> &stop,
                 const std::function<bool()> &alive) {
    if (job.problems == 1) {
        const Alone one(job, 0, kernel);
        const std::int64_t width = team::block_width(job.replicas, lanes, threads, 32);
        const auto block = [&](std::size_t k) { return one.run(kernel, static_cast<std::int64_t>(k) * width, width); };
        const std::int64_t blocks = (job.replicas + width - 1) / width;
        return one.ready ? team::share(blocks, threads, updates, job.sweeps, stop, alive, block) : -1;
    }
    const std::int64_t width = team::block_width(job.replicas, lanes, 1, 32);
    return team::share(job.problems, threads, updates, job.sweeps, stop, alive, [&](std::size_t k) {
        const Alone one(job, static_cast<std::int64_t>(k), kernel);
        int fewest = one.ready ? job.sweeps : -1;
        for (std::int64_t first = 0; one.ready && first < job.replicas; first += width)
            fewest = std::min(fewest, one.run(kernel, first, width));
        return fewest;
    });
}

// Run it all; `alive` is asked now and then, and false stops the sweeps. The fewest sweeps any lane did, or -1 without
// memory. Problems with a J each are taken one by one.
inline int run(Job job, const Kernel &kernel, int threads, const std::function<bool()> &alive) {
    std::atomic<bool> stop{false};
    job.stop = &stop;
    const std::int64_t N = job.n + job.m, own = job.J_stride ? job.problems : 1, rows = job.lanes() / own;
    std::vector<float> sum(own * N);
    std::vector<double> column(job.m);
    for (std::int64_t p = 0; p < own; ++p)
        kernel.sums(job.J + p * job.J_stride, job.n, job.m, column.data(), sum.data() + p * N);
    job.sum = sum.data(), job.sum_stride = own > 1 ? N : 0;
    const double updates = static_cast<double>(job.lanes()) * (N + job.n * job.m / 128.0) * job.sweeps;
    if (job.tables) return run16(job, kernel, threads, updates, stop, alive);
    const std::int64_t width = team::block_width(rows, 128, own > 1 ? 1 : threads, 16);
    const std::int64_t pieces = (rows + width - 1) / width;
    const auto piece = [&](std::size_t k) {
        const std::int64_t first = static_cast<std::int64_t>(k) % pieces * width;
        return kernel.run(job, static_cast<std::int64_t>(k) / pieces * rows + first,
                          static_cast<int>(std::min(width, rows - first)));
    };
    return team::share(own * pieces, threads, updates, job.sweeps, stop, alive, piece);
}

}  // namespace bipartite
