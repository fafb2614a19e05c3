// A call of the bipartite kernel: what its blocks share is made ready once, lanes go to blocks, blocks to threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <new>
#include <vector>

#include "../law/filter.hpp"
#include "../law/unit.hpp"
#include "../run/team.hpp"
#include "job.hpp"
#include "kept.hpp"

namespace bipartite {

constexpr double widest_error = 0.3, widest_step = 0.2;  // of a logit

// The largest sum of |J| over a row or a column of J [n, m]: one function for all instruction sets, in one order of
// sums.
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
            for (std::int64_t i = 0; i < N; ++i)
                field = std::max(field, std::fabs(static_cast<double>(job.h[p * N + i])));
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

// What blocks share: J in whole units, for problems that share it and its unit, and the filter's tables.
class Shared {
  public:
    Shared(Job &job, const Kernel &kernel, int threads = 1) : job_(job) {
        const std::int64_t spins[2] = {job.n, job.m}, N = job.n + job.m;
        std::int64_t couplings = 0;
        for (int side = 0; side < 2; ++side) {
            job.rounded.row[side] = row_length(spins[1 - side]);
            couplings += spins[side] * job.rounded.row[side];
        }
        const std::int64_t entries = couplings / 4 * 16 * planes, last = job.last();
        const std::int64_t remainders = 4 * spins[last] * job.rounded.row[last];
        memory_.need(static_cast<std::size_t>(4 * (couplings + 2 * N) + entries + 2 * remainders + N + 1024));
        for (int side = 0; side < 2; ++side)
            job.rounded.twice_K[side] = memory_.take<std::int32_t>(spins[side] * job.rounded.row[side]);
        job.rounded.sum_K = memory_.take<std::int32_t>(N), job.rounded.sum_size = memory_.take<std::int32_t>(N);
        kernel.round(job.J, job.n, job.m, 1 / job.unit[0], job.rounded);
        job.tables = Tables{};
        drop_ = memory_.take<std::uint8_t>(N);
        if (!filters(kernel)) return;
        job.tables.drop = drop_;
        for (int side = 0; side < 2; ++side)
            job.tables.sums[side] = memory_.take<std::uint8_t>(spins[side] * job.rounded.row[side] / 4 * 16 * planes);
        for (std::uint8_t *&part : job.tables.remainders) part = memory_.take<std::uint8_t>(remainders);
        std::atomic<bool> stop{false};
        const auto pieces = static_cast<std::size_t>(threads);
        team::share(pieces, threads, static_cast<double>(couplings), 0, stop, [] { return true; }, [&](std::size_t k) {
            for (int side = 0; side < 2; ++side) {
                const auto piece = static_cast<std::int64_t>(k);
                kernel.tabulate(job, side, spins[side] * piece / threads, spins[side] * (piece + 1) / threads);
            }
            return 0;
        });
    }

  private:
    const Job &job_;
    Kept memory_;
    std::uint8_t *drop_ = nullptr;

    // The one place that chooses between the paths. The filter costs its tables, and blocks that few replicas leave
    // idle; on AVX2 it pays from 44 replicas on in one sweep, and from 18 in ten. It cannot do Metropolis' rule, betas
    // below 0, one side alone, or more than 4096 spins on a side; and where a field's error is steps of the logit, most
    // lanes would be left open.
    bool filters(const Kernel &kernel) {
        if (!kernel.filter || job_.metropolis) return false;
        const auto blocks = static_cast<double>((job_.replicas + filter_lanes - 1) / filter_lanes);
        const auto exactly = static_cast<double>(job_.sweeps) * static_cast<double>(job_.lanes());
        const double filtered = job_.sweeps * static_cast<double>(job_.problems) * blocks * kernel.block_cost;
        if (exactly <= filtered + kernel.tables_cost) return false;
        if (!job_.n || !job_.m || job_.n > most_inputs || job_.m > most_inputs) return false;
        double coldest = 0, hottest = 1e30;  // of those above 0: at 0 fields do not matter
        const std::int64_t betas = job_.beta_stride ? job_.lanes() : 1;
        const std::int64_t stride = job_.beta_stride ? job_.beta_stride : 1;
        for (std::int64_t k = 0; k < job_.sweeps * betas; ++k) {
            const auto beta = static_cast<double>(job_.beta[k / betas * stride + k % betas]);
            if (!(beta >= 0)) return false;
            coldest = std::max(coldest, beta);
            if (beta > 0) hottest = std::min(hottest, beta);
        }
        const double unit = job_.unit[0];
        const std::int64_t N = job_.n + job_.m;
        for (std::int64_t i = 0; i < N; ++i) {
            double largest = 0;
            for (std::int64_t p = 0; p < job_.problems; ++p)
                largest = std::max(largest, std::fabs(static_cast<double>(job_.h[p * N + i])));
            const double H = std::nearbyint(largest / unit), inputs = static_cast<double>(i < job_.n ? job_.m : job_.n);
            const int drop = drop_of(job_.rounded.sum_size[i], H, inputs / 4 + 4, 2 * hottest * unit);
            const double step = 2 * coldest * std::ldexp(unit, drop);  // of the logit
            if (16 * step > widest_step || step * ((inputs / 4 + 4) / 2 + 8.5) > widest_error) return false;
            drop_[i] = static_cast<std::uint8_t>(drop);
        }
        return true;
    }
    // The least drop at which 20 bits hold a spin's field less H, |field - H| <= size, and 16 bits the upper part of
    // all of it; unless those may saturate, all the logits beyond the table's reach being alike.
    static int drop_of(double size, double H, double groups, double logit) {
        const auto fits = [&](double x, int bits, int drop) {
            return x / std::ldexp(1.0, drop) + 2 * groups + 32 < std::ldexp(1.0, bits - 1);
        };
        int drop = least_drop;
        while (!fits(size, 20, drop)) ++drop;
        const bool far = 16 * std::ldexp(logit, drop) * 32768 / law::reach >= 1;  // whether 2^15 steps reach that end
        const bool apart = far && H / std::ldexp(16.0, drop) < 32767;
        while (!apart && !fits(size + H, 20, drop)) ++drop;
        return drop;
    }
};

// The filter's blocks of a job, in the order of lanes.
inline std::int64_t blocks_of(const Job &job) {
    return job.problems * ((job.replicas + filter_lanes - 1) / filter_lanes);
}

// All of a job, which one thread runs.
inline int run_alone(Job job, const Kernel &kernel) {
    try {
        const Shared shared(job, kernel);
        if (job.tables.drop) return kernel.filter(job, 0, blocks_of(job));
        int fewest = job.sweeps;
        for (std::int64_t at = 0; at < job.lanes(); at += exact_lanes) {
            const int lanes = static_cast<int>(std::min<std::int64_t>(exact_lanes, job.lanes() - at));
            fewest = std::min(fewest, kernel.exact(job, at, lanes));
        }
        return fewest;
    } catch (const std::bad_alloc &) {
        return -1;
    }
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
// memory. Problems that share J and its unit fill blocks together, and threads share the lanes. Others are taken one by
// one, by threads side by side.
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
                return run_alone(alone(job, static_cast<std::int64_t>(p)), kernel);
            });
        const Shared shared(job, kernel, threads);
        // Of the filter's blocks a thread takes as many as there are side by side, which share tables in a cache.
        const bool filtered = job.tables.drop;
        const std::int64_t width = team::block_width(job.lanes(), exact_lanes, threads, 16);
        const std::int64_t blocks = blocks_of(job), pieces = filtered ? std::min<std::int64_t>(threads, blocks)
                                                                      : (job.lanes() + width - 1) / width;
        const auto piece = [&](std::size_t number) {
            const auto k = static_cast<std::int64_t>(number);
            if (filtered) return kernel.filter(job, k * blocks / pieces, (k + 1) * blocks / pieces);
            return kernel.exact(job, k * width, static_cast<int>(std::min(width, job.lanes() - k * width)));
        };
        return team::share(static_cast<std::size_t>(pieces), threads, updates, job.sweeps, stop, alive, piece);
    } catch (const std::bad_alloc &) {
        return -1;
    }
}

}  // namespace bipartite
