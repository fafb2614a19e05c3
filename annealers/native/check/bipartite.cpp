// The bipartite kernels over fuzzed problems.
#include "../bipartite/run.hpp"
#include "../run/isa.hpp"
#include "batch.hpp"
#include "checks.hpp"

namespace check {

namespace {

struct Trial {
    int left, right;
    Batch batch;
    bipartite::Job job{};

    Trial(int number, int n, int m) : left(n), right(m), batch(number, n + m, std::int64_t{n} * m) {
        if (number % 4 == 0) {  // what a filter takes
            batch.metropolis = batch.own_beta = false;
            for (float &one : batch.beta) one = std::fabs(one);
        }
        batch.into(job);
        job.n = n, job.m = m;
        job.first_replica = static_cast<std::uint32_t>(number % 5);  // a filter takes even ones
    }

    Result run(const bipartite::Kernel &kernel, int threads) const {
        Result result = batch.fresh();
        bipartite::Job whole = job;
        result.into(whole);
        demand(bipartite::run(whole, kernel, threads, alive) == batch.sweeps, "bipartite sweeps", batch.number);
        return result;
    }
    // The first replica of each problem in a call of its own, among the results of all.
    Result firsts(const bipartite::Kernel &kernel, Result result) const {
        const Result start = batch.fresh();
        std::vector<float> betas;
        for (std::int64_t lane = 0; lane < batch.lanes(); lane += batch.replicas) {
            std::copy_n(start.spins.begin() + lane * batch.n, batch.n, result.spins.begin() + lane * batch.n);
            bipartite::Job one = batch.alone(job, lane, betas);
            one.spins = result.spins.data() + lane * batch.n;
            one.energy = &result.energy[lane], one.done = &result.done[lane];
            bipartite::run(one, kernel, 1, alive);
        }
        return result;
    }
    bool filters(const bipartite::Kernel &kernel) const {
        bipartite::Job one = job;
        const bipartite::Units units(one, kernel);
        if (batch.own_J || !units.same()) one = bipartite::part(one, 0, 1);
        return bipartite::Shared(one, kernel).tabulate(1, false);
    }
    // Exactly, in blocks of `width` lanes; as `wanted` where lanes do not share couplings.
    Result blocks(const bipartite::Kernel &kernel, int width, const Result &wanted) const {
        Result result = batch.fresh();
        bipartite::Job whole = job;
        result.into(whole);
        Halt halt;
        whole.halt = &halt;
        const bipartite::Units units(whole, kernel);
        if (batch.own_J || !units.same()) return wanted;
        const bipartite::Shared shared(whole, kernel);
        for (std::int64_t first = 0; first < batch.lanes(); first += width)
            kernel.exact(whole, first, static_cast<int>(std::min<std::int64_t>(width, batch.lanes() - first)));
        return result;
    }
    // A sweep visits the right side, then the left one, whose spins it does not visit again on the way back.
    void refer(const Result &result, std::int64_t lane) const {
        Reference problem;
        problem.near.resize(static_cast<std::size_t>(batch.n));
        const float *J = job.J + lane / batch.replicas * job.J_stride;
        for (int j = 0; j < right; ++j) problem.order.push_back(left + j);
        for (int i = 0; i < left; ++i) {
            problem.order.push_back(i);
            for (int j = 0; j < right; ++j) {
                problem.near[i].emplace_back(left + j, J[i * right + j]);
                problem.near[left + j].emplace_back(i, J[i * right + j]);
            }
        }
        problem.back.assign(problem.order.begin(), problem.order.begin() + right);
        batch.refer(problem, result, lane, job.first_replica);
    }
};

int filtered = 0;  // trials, for each instruction set

void bipartite_trial(int number, Digest &digest) {
    const int n = below(number % 9 ? 70 : 2), m = below(number % 7 ? 70 : 2);
    const Trial trial(number, n, m);
    const Result wanted = trial.run(*isa::sets().back().bipartite, 1);
    for (int k = 0; k < 4; ++k) trial.refer(wanted, below(static_cast<int>(trial.batch.lanes())));
    digest.add(wanted);
    const int width = 1 + below(bipartite::exact_lanes);
    for (const isa::Set &set : isa::sets()) {
        demand(trial.run(*set.bipartite, 1 + number % 4) == wanted, set.name, number);
        bipartite::Kernel eager = *set.bipartite;  // filters wherever it can
        eager.cost = {0, 0, 0};
        filtered += trial.filters(eager);
        demand(trial.run(eager, 1 + number % 3) == wanted, "bipartite, filtered", number);
        demand(trial.blocks(*set.bipartite, width, wanted) == wanted, "bipartite, other blocks", number);
        demand(trial.firsts(*set.bipartite, wanted) == wanted, "bipartite, one by one", number);
    }
}

}  // namespace

unsigned long long fuzz_bipartite(int trials) {
    Digest digest;
    for (int trial = 0; trial < trials; ++trial) bipartite_trial(trial, digest);
    std::fprintf(stderr, "bipartite: %d trials; filtered %d times, over all instruction sets\n", trials, filtered);
    return digest.value();
}

}  // namespace check
