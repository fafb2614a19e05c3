// A random batch of problems and how it is to be swept: what all sparse, dense and bipartite kernels are asked.
#pragma once

#include <algorithm>

#include "chance.hpp"
#include "reference.hpp"
#include "result.hpp"

namespace check {

inline bool alive() { return true; }

struct Batch {
    int number, n, problems, replicas, sweeps;  // trial; spins of a problem
    std::int64_t couplings;                     // of a problem
    bool own_J, own_beta, metropolis, palindromic, random_start;
    std::uint32_t first_sweep;
    std::vector<float> h, J, beta;
    std::vector<std::uint64_t> seed;

    std::int64_t lanes() const { return std::int64_t{problems} * replicas; }
    std::int64_t J_stride() const { return own_J ? couplings : 0; }

    Batch(int trial, int spins, std::int64_t pairs) : number(trial), n(spins), couplings(pairs) {
        problems = trial % 3 ? 1 : 1 + below(6);
        replicas = trial % 2 ? 1 + below(9) : 1 + below(200);
        sweeps = below(7);
        own_J = problems > 1 && below(2), own_beta = below(2);
        h = reals(std::size_t(problems) * n);
        J = reals(std::size_t(own_J ? problems : 1) * couplings);
        seed.assign(problems, trial);
        beta = reals(std::size_t(sweeps) * (own_beta ? lanes() : 1));
        if (below(3))  // a schedule: filters take no beta below 0
            for (float &one : beta) one = std::fabs(one);
        metropolis = below(2), palindromic = below(2), random_start = below(2);
        first_sweep = static_cast<std::uint32_t>(below(1000));
    }

    template <class Job>
    void into(Job &job) const {
        job.n = n, job.problems = problems, job.replicas = replicas, job.sweeps = sweeps;
        job.h = h.data(), job.J = J.data(), job.J_stride = J_stride();
        job.beta = beta.data(), job.beta_stride = own_beta ? lanes() : 0, job.seed = seed.data();
        job.metropolis = metropolis, job.palindromic = palindromic, job.random_start = random_start;
        job.first_sweep = first_sweep;
    }
    // `job` of one lane alone, but for its spins, energy and count; `betas` is the memory of its betas.
    template <class Job>
    Job alone(Job job, std::int64_t lane, std::vector<float> &betas) const {
        const std::int64_t p = lane / replicas;
        betas = betas_of(lane);
        job.problems = job.replicas = 1;
        job.h += p * n, job.J += p * J_stride(), job.J_stride = 0, job.seed += p;
        job.beta = betas.data(), job.beta_stride = 0;
        return job;
    }

    std::vector<float> betas_of(std::int64_t lane) const {
        std::vector<float> own(static_cast<std::size_t>(sweeps));
        for (int s = 0; s < sweeps; ++s) own[s] = own_beta ? beta[s * lanes() + lane] : beta[s];
        return own;
    }
    // Spins to begin with.
    Result fresh() const {
        Result result(lanes(), n);
        std::uint32_t state = static_cast<std::uint32_t>(number);
        for (std::int8_t &spin : result.spins) {
            state = state * 1664525u + 1013904223u;
            spin = state >> 31 ? 1 : -1;
        }
        return result;
    }
    // Whether a lane is as the law has it; `problem` is its problem, but for h.
    void refer(Reference problem, const Result &result, std::int64_t lane, std::uint32_t first_replica = 0) const {
        const std::int64_t p = lane / replicas;
        problem.h.assign(h.begin() + p * n, h.begin() + (p + 1) * n);
        const auto replica = first_replica + static_cast<std::uint32_t>(lane % replicas);
        const Reference::Lane own{seed[p], replica, first_sweep, betas_of(lane), metropolis, palindromic, random_start};
        const Result start = fresh();
        std::vector<std::int8_t> spins(start.spins.begin() + lane * n, start.spins.begin() + (lane + 1) * n);
        const double energy = problem.run(own, spins.data());
        const bool same = std::equal(spins.begin(), spins.end(), result.spins.begin() + lane * n);
        demand(same, "spins are not the law's", number);
        demand(energy == result.energy[lane], "an energy is not the law's", number);
        demand(result.done[lane] == sweeps, "sweeps", number);
    }
};

}  // namespace check
