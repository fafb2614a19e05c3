// A call of the bipartite kernel: what its blocks share is made ready once, lanes go to blocks, blocks to threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <new>
#include <vector>

#include "../law/unit.hpp"
#include "../run/team.hpp"
#include "job.hpp"

namespace bipartite {

// The largest sum of |J| over a row or a column of J [n, m]: one function for all instruction sets, in one order of sums.
inline double reach_of(const float *J, std::int64_t n, std::int64_t m) {
    std::vector<double> column(static_cast<std::size_t>(m));
    double reach = 0;
    for (std::int64_t i = 0; i < n; ++i, J += m) {
        double part[16] = {};
        std::int64_t j = 0;
        for (; j + 16 <= m; j += 16)
            for (int k = 0; k < 16; ++k) {
                const double size = std::fabs(static_cast<double>(J[j + k]));
                part[k] += size, column[j + k] += size;
            }
        for (; j < m; ++j) {
            const double size = std::fabs(static_cast<double>(J[j]));
            part[j % 16] += size, column[j] += size;
        }
        double row = 0;
        for (const double one : part) row += one;
        reach = std::max(reach, row);
    }
    for (const double sum : column) reach = std::max(reach, sum);
    return reach;
}

// The units of all problems.
class Units {
  public:
    explicit Units(Job &job) {
        const std::int64_t N = job.n + job.m;
        double reach = 0;
        for (std::int64_t p = 0; p < job.problems; ++p) {
            if (p == 0 || job.J_stride) reach = reach_of(job.J + p * job.J_stride, job.n, job.m);
            double field = 0;
            for (std::int64_t i = 0; i < N; ++i) field = std::max(field, std::fabs(static_cast<double>(job.h[p * N + i])));
            unit_.push_back(law::unit(reach, field));
        }
        job.unit = unit_.data();
    }
    bool same() const {
        return std::all_of(unit_.begin(), unit_.end(), [&](double one) { return one == unit_[0]; });
    }

  private:
    std::vector<double> unit_;
};

// J in whole units, for problems that share it and its unit.
class Shared {
  public:
    Shared(Job &job, const Kernel &kernel) {
        const std::int64_t spins[2] = {job.n, job.m}, N = job.n + job.m;
        Rounded &to = job.rounded;
        for (int side = 0; side < 2; ++side) {
            to.row[side] = row_length(spins[1 - side]);
            twice_K_[side].resize(static_cast<std::size_t>(spins[side] * to.row[side]));
            to.twice_K[side] = twice_K_[side].data();
        }
        sums_.resize(static_cast<std::size_t>(2 * N));
        to.sum_K = sums_.data(), to.sum_size = sums_.data() + N;
        kernel.round(job.J, job.n, job.m, 1 / job.unit[0], to);
    }

  private:
    std::vector<std::int32_t> twice_K_[2], sums_;
};

// Lanes first .. first + count - 1 of a job in blocks, which one thread runs.
inline int run_blocks(const Job &job, const Kernel &kernel, std::int64_t first, std::int64_t count) {
    int fewest = job.sweeps;
    for (std::int64_t at = first; at < first + count; at += exact_lanes) {
        const int lanes = static_cast<int>(std::min<std::int64_t>(exact_lanes, first + count - at));
        fewest = std::min(fewest, kernel.exact(job, at, lanes));
    }
    return fewest;
}

// Problem p alone.
inline Job alone(const Job &all, std::int64_t p) {
    const std::int64_t N = all.n + all.m, R = all.replicas;
    Job job = all;
    job.problems = 1, job.J_stride = 0;
    job.h += p * N, job.J += p * all.J_stride, job.unit += p, job.seed += p;
    job.spins += p * R * N, job.energy += p * R, job.done += p * R;
    if (job.beta_stride) job.beta += p * R;
    return job;
}

// Run it all; `alive` is asked now and then, and false stops the sweeps. The fewest sweeps any lane did, or -1 without
// memory. Problems that share J and its unit fill blocks together, and threads share the lanes. Others are taken one by one,
// by threads side by side.
inline int run(Job job, const Kernel &kernel, int threads, const std::function<bool()> &alive) {
    std::atomic<bool> stop{false};
    job.stop = &stop;
    if (job.lanes() == 0) return job.sweeps;
    const double updates = static_cast<double>(job.lanes()) * (job.n + job.m + job.n * job.m / 128.0) * job.sweeps;
    try {
        const Units units(job);
        if (job.problems > 1 && (job.J_stride || !units.same()))
            return team::share(static_cast<std::size_t>(job.problems), threads, updates, job.sweeps, stop, alive,
                               [&](std::size_t p) {
                Job one = alone(job, static_cast<std::int64_t>(p));
                try {
                    const Shared shared(one, kernel);
                    return run_blocks(one, kernel, 0, one.lanes());
                } catch (const std::bad_alloc &) {
                    return -1;
                }
            });
        const Shared shared(job, kernel);
        const std::int64_t width = team::block_width(job.lanes(), exact_lanes, threads, 16);
        const std::int64_t pieces = (job.lanes() + width - 1) / width;
        return team::share(static_cast<std::size_t>(pieces), threads, updates, job.sweeps, stop, alive, [&](std::size_t k) {
            const std::int64_t first = static_cast<std::int64_t>(k) * width;
            return run_blocks(job, kernel, first, std::min(width, job.lanes() - first));
        });
    } catch (const std::bad_alloc &) {
        return -1;
    }
}

}  // namespace bipartite
