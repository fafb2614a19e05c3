// A call of the bipartite kernel: what its blocks share is made ready once, lanes go to blocks, blocks to threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <vector>

#include "../law/filter.hpp"
#include "../law/unit.hpp"
#include "../run/team.hpp"
#include "job.hpp"
#include "kept.hpp"

namespace bipartite {

constexpr double widest_error = 0.3, widest_step = 0.2;  // of a logit

// The units of all problems.
class Units {
  public:
    Units(Job &job, const Kernel &kernel) {
        const std::int64_t N = job.n + job.m;
        const auto lines = static_cast<std::size_t>(job.m / 8 + 1);
        const std::unique_ptr<double[], decltype(&std::free)> column(
            static_cast<double *>(std::aligned_alloc(64, 64 * lines)), std::free);
        if (!column) throw std::bad_alloc();
        double reach = 0;
        for (std::int64_t p = 0; p < job.problems; ++p) {
            if (p == 0 || job.J_stride) reach = kernel.reach(job.J + p * job.J_stride, job.n, job.m, column.get());
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
    // How many problems from p on have the unit of p.
    std::int64_t alike(std::int64_t p) const {
        const auto from = unit_.begin() + p;
        return std::find_if(from, unit_.end(), [&](double one) { return one != *from; }) - from;
    }

  private:
    std::vector<double> unit_;
};

// The filter's blocks of a job, in the order of lanes.
inline std::int64_t blocks_of(const Job &job) {
    return job.problems * ((job.replicas + filter_lanes - 1) / filter_lanes);
}

// What blocks share: J in whole units, for problems that share it and its unit, and the filter's tables.
class Shared {
  public:
    Shared(Job &job, const Kernel &kernel) : job_(job), kernel_(kernel) {
        const std::int64_t spins[2] = {job.n, job.m}, N = job.n + job.m;
        std::int64_t couplings = 0;
        for (int side = 0; side < 2; ++side) {
            job.rounded.row[side] = row_length(spins[1 - side]);
            couplings += spins[side] * job.rounded.row[side];
        }
        const std::int64_t entries = couplings / 4 * 16 * planes, last = job.last();
        const std::int64_t remainders = 4 * spins[last] * job.rounded.row[last];
        memory_.need(static_cast<std::size_t>(4 * (couplings + 2 * N) + entries + 2 * remainders + 2 * N + 1024));
        for (int side = 0; side < 2; ++side)
            job.rounded.twice_K[side] = memory_.take<std::int32_t>(spins[side] * job.rounded.row[side]);
        job.rounded.sum_K = memory_.take<std::int32_t>(N), job.rounded.sum_size = memory_.take<std::int32_t>(N);
        if (!kernel.round(job.J, job.n, job.m, 1 / job.unit[0], job.rounded)) throw std::bad_alloc();
        job.tables = Tables{};
        drop_ = memory_.take<std::uint8_t>(N), made_ = memory_.take<std::uint8_t>(N);
        for (int side = 0; side < 2; ++side)
            job.tables.sums[side] = memory_.take<std::uint8_t>(spins[side] * job.rounded.row[side] / 4 * 16 * planes);
        for (std::uint8_t *&part : job.tables.remainders) part = memory_.take<std::uint8_t>(remainders);
    }
    // Whether the filter serves the job's betas: if so with its tables, made unless they are there.
    bool tabulate(int threads, bool kept) {
        const bool old = job_.tables.drop;
        if (!pays(threads, kept) || !fits()) return false;
        job_.tables.drop = made_;
        const auto N = static_cast<std::size_t>(job_.n + job_.m);
        if (old && !std::memcmp(drop_, made_, N)) return true;
        std::memcpy(made_, drop_, N);
        Halt halt;
        const auto updates = static_cast<double>(job_.n * job_.m * 2);
        const auto pieces = static_cast<std::size_t>(threads);
        team::share(pieces, threads, updates, 0, halt, [] { return true; }, [&](std::size_t k) {
            for (int side = 0; side < 2; ++side) {
                const std::int64_t piece = static_cast<std::int64_t>(k), spins = side ? job_.m : job_.n;
                kernel_.tabulate(job_, side, spins * piece / threads, spins * (piece + 1) / threads);
            }
            return 0;
        });
        ++versions_;
        return true;
    }
    int versions() const { return versions_; }  // of the tables
    // Whether some of the problems may be filtered where all are not.
    bool too_wide() { return job_.problems > 1 && pays(1, false) && !fits(); }

  private:
    Job &job_;
    const Kernel &kernel_;
    Kept memory_;
    std::uint8_t *drop_ = nullptr, *made_ = nullptr;  // of the job's betas; of the tables
    int versions_ = 0;

    // The one place that chooses between the paths. The filter costs its tables, unless they are kept for calls to
    // come, and blocks that few replicas leave idle, as they do threads; on AVX2 it pays from 185 replicas on in one
    // sweep, and from 33 in ten. It cannot do Metropolis' rule, betas below 0, one side alone, more than 4096 spins on a
    // side, or replicas whose first is an odd one; and where a field's error is steps of the logit, most lanes would be
    // left open.
    bool pays(int threads, bool kept) const {
        if (!kernel_.tabulate || job_.metropolis || job_.first_replica % 2) return false;
        const Cost &cost = kernel_.cost;
        const double lanes = std::ceil(static_cast<double>(job_.lanes()) / threads);
        const double blocks = std::ceil(static_cast<double>(blocks_of(job_)) / threads);
        const double exactly = lanes + cost.sums * std::ceil(lanes / exact_lanes), filtered = cost.block * blocks;
        return job_.sweeps * exactly > job_.sweeps * filtered + (kept ? 0 : cost.tables / threads);
    }
    // Whether one set of drops serves all of its problems.
    bool fits() {
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
            int drop = drop_of(job_.rounded.sum_size[i], H, inputs / 4 + 4, 2 * hottest * unit);
            while (8.0 * job_.rounded.largest >= std::ldexp(kernel_.range, drop)) ++drop;
            if (drop > most_drop) return false;
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

// Problems p .. p + count - 1 alone, which share J.
inline Job part(const Job &all, std::int64_t p, std::int64_t count) {
    const std::int64_t N = all.n + all.m, R = all.replicas;
    Job job = all;
    job.problems = count, job.J_stride = 0;
    job.h += p * N, job.J += p * all.J_stride, job.unit += p, job.seed += p;
    job.spins += p * R * N, job.energy += p * R, job.done += p * R;
    if (job.beta_stride) job.beta += p * R;
    return job;
}

// Of spins, about, for `team::share`.
inline double updates_of(const Job &job) {
    return static_cast<double>(job.lanes()) * (job.n + job.m + job.n * job.m / 128.0) * job.sweeps;
}

// Problems that share J and its unit, swept again and again: tables and the filter's chains are kept between calls.
class Together {
  public:
    Together(const Job &job, const Kernel &kernel) : job_(job), kernel_(kernel), shared_(job_, kernel) {}
    Together(const Together &) = delete;
    ~Together() { close(); }

    // The sweeps of a job that differs from the first one in its sweeps and betas. Threads share the lanes; without
    // `alive` it all runs right here. The fewest sweeps that any lane did, or -1 without memory.
    int sweep(const Job &now, int threads, bool kept, Halt &halt, const std::function<bool()> &alive) {
        const bool same = (now.beta_stride != 0) == (job_.beta_stride != 0) && !now.random_start;
        const int version = shared_.versions();
        job_.sweeps = now.sweeps, job_.first_sweep = now.first_sweep, job_.random_start = now.random_start;
        job_.beta = now.beta, job_.beta_stride = now.beta_stride, job_.halt = &halt;
        const double updates = alive ? updates_of(job_) : 0;
        if (!shared_.tabulate(threads, kept)) {
            leave();
            const std::int64_t width = team::block_width(job_.lanes(), exact_lanes, threads, 16);
            const auto pieces = static_cast<std::size_t>((job_.lanes() + width - 1) / width);
            return team::share(pieces, threads, updates, job_.sweeps, halt, alive, [&](std::size_t k) {
                const std::int64_t first = static_cast<std::int64_t>(k) * width;
                return kernel_.exact(job_, first, static_cast<int>(std::min(width, job_.lanes() - first)));
            });
        }
        if (!same || version != shared_.versions()) leave();
        if (chains_.empty()) {
            // A thread takes as many blocks as there are side by side, which share tables in a cache.
            const std::int64_t blocks = blocks_of(job_), pieces = std::min<std::int64_t>(threads, blocks);
            for (std::int64_t k = 0; k < pieces; ++k) {
                void *const chains = kernel_.open(job_, k * blocks / pieces, (k + 1) * blocks / pieces);
                if (!chains) return close(), -1;
                chains_.push_back(chains);
            }
        }
        const bool go_on = ahead_ || read_;
        ahead_ = true;
        return team::share(chains_.size(), threads, updates, job_.sweeps, halt, alive,
                           [&](std::size_t k) { return kernel_.run(chains_[k], go_on); });
    }
    bool too_wide() { return shared_.too_wide(); }
    // Spins to `job.spins`.
    void write() {
        if (ahead_)
            for (void *chains : chains_) kernel_.write(chains);
        if (ahead_) read_ = true;
        ahead_ = false;
    }
    // `job.spins` has been written to: chains go on from there.
    void read() { ahead_ = read_ = false; }

  private:
    Job job_;
    const Kernel &kernel_;
    Shared shared_;
    std::vector<void *> chains_;
    bool ahead_ = false, read_ = false;  // whether chains are ahead of `job.spins`, or where these are

    void leave() {
        if (!job_.random_start) write();
        close();
    }
    void close() {
        for (void *chains : chains_) kernel_.close(chains);
        chains_.clear();
        read();
    }
};

// All problems of a call, and of calls to come. Those that share J and its unit fill blocks together; others are taken
// part by part, by threads side by side, and nothing is kept of them.
class Plan {
  public:
    Plan(const Job &job, const Kernel &kernel, bool kept) : job_(job), kernel_(kernel), kept_(kept), units_(job_, kernel) {}

    // See `Together::sweep`; false of `alive` stops the sweeps.
    int sweep(Job now, int threads, const std::function<bool()> &alive) {
        Halt halt;
        now.unit = job_.unit;
        if (now.lanes() == 0) return now.sweeps;
        try {
            if (now.problems == 1 || (!now.J_stride && units_.same())) {
                if (!together_) together_.emplace(now, kernel_);
                return together_->sweep(now, threads, kept_, halt, alive);
            }
            std::vector<std::int64_t> first;
            for (std::int64_t p = 0; p < now.problems; p += now.J_stride ? 1 : units_.alike(p)) first.push_back(p);
            first.push_back(now.problems);
            return team::share(first.size() - 1, threads, updates_of(now), now.sweeps, halt, alive, [&](std::size_t k) {
                return run_alone(part(now, first[k], first[k + 1] - first[k]), halt);
            });
        } catch (const std::bad_alloc &) {
            return -1;
        }
    }
    void write() {
        if (together_) together_->write();
    }
    void read() {
        if (together_) together_->read();
    }

  private:
    Job job_;
    const Kernel &kernel_;
    const bool kept_;
    const Units units_;
    std::optional<Together> together_;

    int run_alone(const Job &job, Halt &halt) const {
        try {
            Together together(job, kernel_);
            if (together.too_wide()) {
                const std::int64_t half = job.problems / 2;
                const int first = run_alone(part(job, 0, half), halt);
                return std::min(first, run_alone(part(job, half, job.problems - half), halt));
            }
            const int fewest = together.sweep(job, 1, false, halt, nullptr);
            together.write();
            return fewest;
        } catch (const std::bad_alloc &) {
            return -1;
        }
    }
};

// One call alone.
inline int run(const Job &job, const Kernel &kernel, int threads, const std::function<bool()> &alive) {
    Plan plan(job, kernel, false);
    const int fewest = plan.sweep(job, threads, alive);
    plan.write();
    return fewest;
}

}  // namespace bipartite
