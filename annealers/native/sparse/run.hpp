// A call of the sparse kernel: what its blocks share is made ready once, lanes go to blocks, blocks to threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "../law/filter.hpp"
#include "../law/unit.hpp"
#include "../run/team.hpp"
#include "job.hpp"

namespace sparse {

constexpr int few = 8;            // lanes
constexpr int fewest_apart = 16;  // lanes of problems with a J each, and
constexpr int many = 16;          // replicas of each, from which on they are taken one by one
constexpr int turn = 64;          // spins of a colour that a thread takes at a time, where some sweep a block together

// What blocks share, and the memory of it.
class Shared {
  public:
    Shared(Job &job, const Kernel &kernel) {
        measure(job);
        job.twice_K = job.sum_K = nullptr;
        job.tables = Tables{};
        job.step = nullptr;
        if (job.J_stride || !job.one_unit) {
            if (filters_apart(job, kernel)) job.step = step_of_.data();
            return;
        }
        round(job);
        if (filters(job, kernel)) tabulate(job, kernel);
    }

  private:
    static constexpr int beside = 4;  // problems with a J each that are measured at a time

    // Not zeros, as std::vector's would be: they are written once.
    template <class T>
    struct Memory {
        std::unique_ptr<T[]> own;
        void resize(std::size_t n) { own.reset(new T[n]); }
        T *data() const { return own.get(); }
        T &operator[](std::int64_t i) const { return own[static_cast<std::size_t>(i)]; }
    };
    Memory<float> coupling_;           // by neighbour, of a shared J
    std::vector<double> unit_;         // by problem
    std::vector<double> size_, push_;  // |J| by edge, of several problems, and their sum by the caller's spin, of the last J
    double reach_[beside] = {};        // the largest of these sums
    Memory<std::int32_t> twice_K_, sum_K_, group_, fours_;
    Memory<std::uint32_t> state_;
    Memory<std::uint8_t> sums_;
    std::vector<double> step_of_;      // by problem; at first that of a field of one step
    double largest_ = 0;               // field of any problem

    // Sizes |x| by their bits, which are in the same order and which compilers know how to compare; the largest of them.
    static std::int32_t bits_of(float x) {
        std::int32_t bits;
        std::memcpy(&bits, &x, sizeof bits);
        return bits & 0x7FFFFFFF;
    }
    static double size_of(std::int32_t bits) {
        float size;
        std::memcpy(&size, &bits, sizeof size);
        return static_cast<double>(size);
    }
    static double largest_of(const float *x, std::int64_t size) {
        std::int32_t most = 0;
        for (std::int64_t k = 0; k < size; ++k) most = std::max(most, bits_of(x[k]));
        return size_of(most);
    }
    void measure(Job &job) {
        unit_.resize(static_cast<std::size_t>(job.problems)), step_of_.resize(static_cast<std::size_t>(job.problems));
        job.J_stride ? measure_own(job) : measure_shared(job);
        job.unit = unit_.data();
        job.one_unit = std::all_of(unit_.begin(), unit_.end(), [&](double one) { return one == unit_[0]; });
        if (job.J_stride || job.one_unit) return;
        for (int p = 0; p < job.problems; ++p) step(job, p, largest_of(job.J, job.start[job.n] / 2), 0, 1);
    }
    // Of problems with a J each, with their steps.
    void measure_own(const Job &job) {
        for (int p = 0; p < job.problems; p += beside) {
            const float *J[beside];
            for (int q = 0; q < beside; ++q) J[q] = job.J + std::min(p + q, job.problems - 1) * job.J_stride;
            push<beside>(job, J);
            for (int q = 0; q < beside && p + q < job.problems; ++q) {
                const double field = largest_of(job.h + std::int64_t{p + q} * job.n, job.n);
                unit_[static_cast<std::size_t>(p + q)] = law::unit(reach_[q], field);
                step(job, p + q, largest_of(J[q], job.start[job.n] / 2), q, beside);
            }
        }
    }
    // Of problems that share J: the largest sum of a spin has the largest of its fields.
    void measure_shared(const Job &job) {
        const std::int64_t ends = job.start[job.n];
        coupling_.resize(static_cast<std::size_t>(ends));
        for (std::int64_t e = 0; e < ends; ++e) coupling_[e] = job.J[job.edge[e]];
        push<1>(job, &job.J);
        std::vector<std::int32_t> field(static_cast<std::size_t>(job.n));
        for (int p = 0; p < job.problems; ++p) {
            const float *h = job.h + std::int64_t{p} * job.n;
            std::int32_t most = 0, *one = field.data();
            for (std::int64_t i = 0; i < job.n; ++i) {
                const std::int32_t bits = bits_of(h[i]);
                most = std::max(most, bits), one[i] = std::max(one[i], bits);
            }
            unit_[static_cast<std::size_t>(p)] = law::unit(reach_[0], size_of(most));
        }
        for (std::size_t i = 0; i < field.size(); ++i) largest_ = std::max(largest_, size_of(field[i]) + push_[i]);
    }
    // Sums of |J| by spin, for several problems at a time: by turns to two sums, since one would wait for itself. Their order
    // is part of the law.
    template <int count>
    void push(const Job &job, const float *const *J) {
        const std::int64_t edges = job.start[job.n] / 2;
        if (count > 1) size_.resize(static_cast<std::size_t>(count * edges));
        for (std::int64_t k = 0; k < (count > 1 ? edges : 0); ++k)
            for (int q = 0; q < count; ++q) size_[count * k + q] = std::fabs(static_cast<double>(J[q][k]));
        push_.resize(static_cast<std::size_t>(count * job.n));
        std::fill(reach_, reach_ + count, 0.0);
        for (std::int64_t i = 0; i < job.n; ++i) {
            double even[count] = {}, odd[count] = {};
            const auto add = [&](std::int32_t e, double *sum) {
                if (count == 1) sum[0] += std::fabs(static_cast<double>(coupling_[e]));
                for (int q = 0; q < (count > 1 ? count : 0); ++q) sum[q] += size_[count * std::int64_t{job.edge[e]} + q];
            };
            std::int32_t e = job.start[i];
            for (; e + 2 <= job.start[i + 1]; e += 2) add(e, even), add(e + 1, odd);
            for (int q = 0; q < count; ++q) even[q] += odd[q];
            if (e < job.start[i + 1]) add(e, even);
            for (int q = 0; q < count; ++q) {
                push_[count * std::int64_t{job.order[i]} + q] = even[q];
                reach_[q] = std::max(reach_[q], even[q]);
            }
        }
    }
    // The step of problem p, given the largest |J|: the couplings' reach by spin is number q of `count`. Maxima are of some
    // spins side by side, since one would wait for itself.
    void step(const Job &job, int p, double largest_J, int q, int count) {
        constexpr int some = 4;
        const float *h = job.h + std::int64_t{p} * job.n;
        double most[some] = {};
        const auto take = [&](std::int64_t i, int k) {
            most[k] = std::max(most[k], std::fabs(static_cast<double>(h[i])) + push_[count * i + q]);
        };
        std::int64_t i = 0;
        for (; i + some <= job.n; i += some)
            for (int k = 0; k < some; ++k) take(i + k, k);
        for (; i < job.n; ++i) take(i, 0);
        const double largest = *std::max_element(most, most + some);
        largest_ = std::max(largest_, largest);
        step_of_[static_cast<std::size_t>(p)] = std::max(largest, 2 * largest_J);
    }
    void round(Job &job) {
        const double inverse = 1 / unit_[0];
        const std::int64_t ends = job.start[job.n];
        twice_K_.resize(static_cast<std::size_t>(ends) + 1);
        sum_K_.resize(static_cast<std::size_t>(job.n) + 1);
        for (std::int64_t e = 0; e < ends; ++e) twice_K_[e] = 2 * law::units(coupling_[e], inverse);
        for (std::int64_t i = 0; i < job.n; ++i) {
            std::int32_t sum = 0;
            for (std::int32_t e = job.start[i]; e < job.start[i + 1]; ++e) sum += twice_K_[e] >> 1;
            sum_K_[i] = sum;
        }
        job.twice_K = twice_K_.data(), job.sum_K = sum_K_.data();
    }

    // Whether fields of 16 bits decide nearly every spin: where betas are so large that steps of a field are steps of the
    // logit beyond `law::widest` (or below 0), too many lanes would be left open. Measured on AVX2 with Pegasus-16, on both
    // sides: at the last beta that is filtered 1.02 updates per ns, at the next 0.49; one sweep of 64 lanes 1.97 ms with its
    // tables and 1.86 without, two sweeps 1.94 and 3.21; 100 sweeps of 8 lanes 0.28 (few.hpp), of 9 lanes 0.22.
    bool filters(const Job &job, const Kernel &kernel) {
        if (!kernel.fill || job.lanes() <= few || job.sweeps == 0) return false;
        float coldest = 0, hottest = 0;
        for (std::int64_t s = 0; s < job.sweeps; ++s) {
            const float *row = job.beta + s * (job.beta_stride ? job.beta_stride : 1);
            const float *end = row + (job.beta_stride ? job.lanes() : 1);
            coldest = std::max(coldest, *std::max_element(row, end));
            hottest = std::min(hottest, *std::min_element(row, end));
        }
        int degree = 0;
        for (std::int64_t i = 0; i < job.n; ++i) degree = std::max(degree, job.start[i + 1] - job.start[i]);
        deepest_ = (degree + 3) / 4;
        const double steps = 32766 - deepest_ - 1;
        step_ = largest_ > 0 ? largest_ / steps : 1e-30;
        return hottest >= 0 && law::field_error(static_cast<double>(coldest), step_, deepest_ + 1) <= law::widest;
    }
    // The same for problems with a J each, of few replicas; apart.hpp says how far fields are rounded.
    bool filters_apart(const Job &job, const Kernel &kernel) {
        if (!kernel.apart || job.replicas >= many || job.lanes() < fewest_apart || job.sweeps == 0) return false;
        int degree = 0;
        for (std::int64_t i = 0; i < job.n; ++i) degree = std::max(degree, job.start[i + 1] - job.start[i]);
        if (degree > 4096) return false;
        for (double &step : step_of_) step = std::max(step / (32766 - 0.26 * degree - 3), 1e-30);
        const double coarsest = *std::max_element(step_of_.begin(), step_of_.end());
        for (std::int64_t k = 0; k < job.sweeps * (job.beta_stride ? job.lanes() : 1); ++k) {
            const std::int64_t lane = k % (job.beta_stride ? job.lanes() : 1);
            const double step = job.beta_stride ? step_of_[static_cast<std::size_t>(lane / job.replicas)] : coarsest;
            const double error = law::field_error(static_cast<double>(job.beta[k]), step, (degree + 1) / 2 + 2);
            if (!(job.beta[k] >= 0 && error <= law::widest)) return false;
        }
        return true;
    }
    void tabulate(Job &job, const Kernel &kernel) {
        group_.resize(static_cast<std::size_t>(job.n) + 1);
        group_[0] = 0;
        for (std::int64_t i = 0; i < job.n; ++i) group_[i + 1] = group_[i] + (job.start[i + 1] - job.start[i] + 3) / 4;
        const auto groups = static_cast<std::size_t>(group_[job.n]);
        state_.resize(4 * groups + 1);
        fours_.resize(4 * groups + 1);
        for (std::int64_t i = 0; i < job.n; ++i) {
            std::int64_t to = 4 * std::int64_t{group_[i]};
            for (std::int32_t e = job.start[i]; e < job.start[i + 1]; ++e, ++to)
                state_[to] = 32u * static_cast<std::uint32_t>(job.near[e]), fours_[to] = twice_K_[e];
            for (; to < 4 * std::int64_t{group_[i + 1]}; ++to)  // no neighbour: a state of its own
                state_[to] = 32u * static_cast<std::uint32_t>(job.n), fours_[to] = 0;
        }
        sums_.resize(32 * groups + 64);
        std::uint8_t *aligned = sums_.data() + (64 - reinterpret_cast<std::uintptr_t>(sums_.data()) % 64) % 64;
        job.tables = {static_cast<float>(step_), deepest_, group_.data(), state_.data(), fours_.data(), aligned};
        kernel.fill(job, aligned);
    }

    int deepest_ = 0;
    double step_ = 0;
};

// Lanes first .. first + count - 1 of a job, in blocks of `width`; `alone` makes ready what they share.
struct Piece {
    Job job;
    std::int64_t first, count;
    int width;
    bool alone;

    int run(const Kernel &kernel) {
        if (!alone) return blocks(kernel);
        const Shared shared(job, kernel);
        return blocks(kernel);
    }

  private:
    int blocks(const Kernel &kernel) const {
        int fewest = job.sweeps;
        for (std::int64_t at = first; at < first + count; at += width) {
            const int lanes = static_cast<int>(std::min<std::int64_t>(width, first + count - at));
            fewest = std::min(fewest, chosen(kernel, lanes)(job, at, lanes));
        }
        return fewest;
    }
    // Up to 8 replicas of one problem take the colours' spins as lanes, unless colours are so small that those idle too.
    Run chosen(const Kernel &kernel, int lanes) const {
        if (job.problems == 1 && lanes <= few && job.n >= 8 * std::int64_t{job.colours}) return kernel.few;
        if (job.step) return kernel.apart;
        if (job.tables.sums) return width == 64 ? kernel.filter64 : kernel.filter32;
        return width == 64 ? kernel.lanes64 : kernel.lanes32;
    }
};

// A block is 64 lanes, or 32 where 64 would leave threads idle. Problems with many replicas are taken one by one, so
// that their fields are shared by the block; so are problems of so few replicas in all that lanes would idle. Others fill
// blocks across problems: filtered, also where each has its own J (32 lanes, whose couplings keep to the cache). Where those
// have to be summed exactly, large problems are taken one by one, since their couplings by lane would not fit a cache.
inline std::vector<Piece> cut(const Job &job, int threads) {
    const bool own_J = job.J_stride || !job.one_unit, large = job.start[job.n] > 16384;
    const bool idle = job.n >= 8 * std::int64_t{job.colours} && job.lanes() <= few;
    const bool apart = job.problems > 1 && !job.step && (job.replicas >= (own_J ? many : 32) || (own_J && large) || idle);
    const std::int64_t rows = apart ? job.replicas : job.lanes(), parts = apart ? job.problems : 1;
    const int width = !job.step && (rows + 63) / 64 * parts >= threads && rows > 32 ? 64 : 32;
    const bool whole = apart && own_J && parts >= threads;  // what is made ready for a problem serves all its lanes
    std::vector<Piece> pieces;
    for (std::int64_t p = 0; p < parts; ++p) {
        Job one = job;
        if (apart) {
            one.problems = 1;
            one.h += p * job.n, one.J += p * job.J_stride, one.J_stride = 0, one.seed += p, one.unit += p;
            one.spins += p * job.replicas * job.n, one.energy += p * job.replicas, one.done += p * job.replicas;
            if (job.beta_stride) one.beta += p * job.replicas;
        }
        const std::int64_t step = whole ? rows : width;
        for (std::int64_t first = 0; first < rows; first += step)
            pieces.push_back({one, first, std::min(step, rows - first), width, apart && own_J});
    }
    return pieces;
}

// How many threads sweep the only block of a job together: more than one where its colours are large enough to be shared
// out (measured with two threads alone).
inline int together(const Job &job, int threads) {
    const bool only = job.tables.sums && job.lanes() > 32 && job.lanes() <= 64;
    const std::int64_t turns = job.n / (std::int64_t{turn} * job.colours);  // of a colour
    return only ? static_cast<int>(std::min<std::int64_t>({threads, turns / 4, most_together})) : 1;
}

// Run it all; `alive` is asked every 2 ms or so by the calling thread, and false stops the sweeps. The fewest sweeps
// any lane did, or -1 without memory.
inline int run(Job job, const Kernel &kernel, int threads, const std::function<bool()> &alive) {
    Halt halt;
    job.halt = &halt;
    const Shared shared(job, kernel);
    const double updates = static_cast<double>(job.lanes()) * (job.n + job.start[job.n] / 8.0) * job.sweeps;
    if (const int members = together(job, threads); members > 1) {
        void *const block = kernel.open(job, 0, static_cast<int>(job.lanes()));
        if (!block) return -1;
        const int done = team::share(static_cast<std::size_t>(members), members, updates, job.sweeps, halt, alive,
                                     [&](std::size_t k) { return kernel.serve(block, static_cast<int>(k), members, turn); });
        kernel.close(block);
        return done;
    }
    std::vector<Piece> pieces = cut(job, threads);
    return team::share(pieces.size(), threads, updates, job.sweeps, halt, alive,
                       [&](std::size_t k) { return pieces[k].run(kernel); });
}

}  // namespace sparse
