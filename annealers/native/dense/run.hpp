// A call of the dense kernel: what its blocks share is made ready once, lanes go to blocks, blocks to threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <memory>
#include <new>
#include <vector>

#include "../law/unit.hpp"
#include "../run/team.hpp"
#include "job.hpp"

namespace dense {

// The largest sum of |J_ij| over j: eight sums by column, added up in one order.
inline double reach(const Job &job, const float *J) {
    constexpr int parts = 8;
    double largest = 0;
    for (std::int64_t i = 0; i < job.n; ++i) {
        double part[parts] = {}, sum = 0;
        for (std::int64_t j = 0; j < job.row; j += parts)
            for (int k = 0; k < parts; ++k) part[k] += std::fabs(static_cast<double>(J[i * job.row + j + k]));
        for (const double one : part) sum += one;
        largest = std::max(largest, sum);
    }
    return largest;
}

inline std::vector<double> units(const Job &job) {
    std::vector<double> unit;
    double of_J = 0;
    for (std::int64_t p = 0; p < job.problems; ++p) {
        if (p == 0 || job.J_stride) of_J = reach(job, job.J + p * job.J_stride);
        double field = 0;
        for (std::int64_t i = 0; i < job.n; ++i)
            field = std::max(field, std::fabs(static_cast<double>(job.h[p * job.n + i])));
        unit.push_back(law::unit(of_J, field));
    }
    return unit;
}

// Run it all; `alive` is asked every 2 ms or so by the calling thread, and false stops the sweeps. The fewest sweeps
// any lane did, or -1 without memory.
inline int run(Job job, const Kernel &kernel, int threads, const std::function<bool()> &alive) {
    Halt halt;
    job.halt = &halt;
    const std::vector<double> unit = units(job);
    job.unit = unit.data(), job.twice_K = nullptr;
    std::unique_ptr<std::int32_t[]> rows;
    const bool one_unit = std::all_of(unit.begin(), unit.end(), [&](double one) { return one == unit[0]; });
    if (!job.J_stride && one_unit) {  // others make their own: blocks of several problems, or of one problem
        rows.reset(new (std::nothrow) std::int32_t[static_cast<std::size_t>(job.rows_size() + 16)]);
        if (!rows) return -1;
        const std::uintptr_t past = reinterpret_cast<std::uintptr_t>(rows.get()) % 64 / sizeof(std::int32_t);
        std::int32_t *aligned = rows.get() + (16 - past) % 16;
        kernel.round(job, job.J, unit[0], aligned);
        job.twice_K = aligned;
    }
    // Blocks of lanes with the same J are the fast ones; problems of a J each share blocks where they have few lanes.
    const std::int64_t lanes_in_all = job.problems * job.replicas;
    const std::int64_t alone = !job.twice_K && job.replicas >= 4 ? job.problems : 1, rest = lanes_in_all / alone;
    const std::int64_t width = team::block_width(rest, lanes, alone > 1 ? 1 : threads, 16);
    const std::int64_t blocks = (rest + width - 1) / width;
    const double updates = static_cast<double>(lanes_in_all) * static_cast<double>(job.n) * job.sweeps * 20;
    const auto piece = [&](std::size_t k) {
        const std::int64_t first = static_cast<std::int64_t>(k) % blocks * width;
        const auto count = static_cast<int>(std::min(width, rest - first));
        return kernel.run(job, static_cast<std::int64_t>(k) / blocks * rest + first, count);
    };
    return team::share(static_cast<std::size_t>(alone * blocks), threads, updates, job.sweeps, halt, alive, piece);
}

}  // namespace dense
