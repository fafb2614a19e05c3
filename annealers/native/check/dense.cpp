// The dense kernels over fuzzed problems.
#include "../dense/run.hpp"
#include "../run/isa.hpp"
#include "batch.hpp"
#include "checks.hpp"

namespace check {

namespace {

struct Trial {
    std::int64_t row;  // n, filled up
    Batch batch;
    dense::Job job{};

    static std::int64_t filled(int n) { return (n + 15) / 16 * 16; }
    Trial(int number, int n) : row(filled(n)), batch(number, n, n * filled(n)) {
        for (float *J = batch.J.data(); J != batch.J.data() + batch.J.size(); J += n * row)
            for (int i = 0; i < n; ++i)
                for (int j = i; j < row; ++j) {
                    if (j == i || j >= n) J[i * row + j] = 0;
                    if (j < n) J[j * row + i] = J[i * row + j];
                }
        batch.into(job);
        job.row = row;
    }

    Result run(const dense::Kernel &kernel, int threads) const {
        Result result = batch.fresh();
        dense::Job whole = job;
        result.into(whole);
        demand(dense::run(whole, kernel, threads, alive) == batch.sweeps, "dense sweeps", batch.number);
        return result;
    }
    // The first replica of each problem in a call of its own, among the results of all.
    Result firsts(const dense::Kernel &kernel, Result result) const {
        const Result start = batch.fresh();
        std::vector<float> betas;
        for (std::int64_t lane = 0; lane < batch.lanes(); lane += batch.replicas) {
            std::copy_n(start.spins.begin() + lane * batch.n, batch.n, result.spins.begin() + lane * batch.n);
            dense::Job one = batch.alone(job, lane, betas);
            one.spins = result.spins.data() + lane * batch.n;
            one.energy = &result.energy[lane], one.done = &result.done[lane];
            dense::run(one, kernel, 1, alive);
        }
        return result;
    }
    Result blocks(const dense::Kernel &kernel, int width) const {
        Result result = batch.fresh();
        dense::Job whole = job;
        result.into(whole);
        Halt halt;
        const std::vector<double> unit = dense::units(whole);
        whole.halt = &halt, whole.unit = unit.data();
        for (std::int64_t first = 0; first < batch.lanes(); first += width)
            kernel.run(whole, first, static_cast<int>(std::min<std::int64_t>(width, batch.lanes() - first)));
        return result;
    }
    void refer(const Result &result, std::int64_t lane) const {
        Reference problem;
        problem.near.resize(static_cast<std::size_t>(batch.n));
        const float *J = job.J + lane / batch.replicas * job.J_stride;
        for (int i = 0; i < batch.n; ++i) {
            problem.order.push_back(i);
            for (int j = 0; j < batch.n; ++j) problem.near[i].emplace_back(j, J[i * row + j]);
        }
        problem.back.assign(problem.order.rbegin(), problem.order.rend());
        batch.refer(problem, result, lane);
    }
};

void dense_trial(int number, Digest &digest) {
    const Trial trial(number, 1 + below(number % 5 ? 40 : 150));
    const Result wanted = trial.run(*isa::sets().back().dense, 1);
    for (int k = 0; k < 4; ++k) trial.refer(wanted, below(static_cast<int>(trial.batch.lanes())));
    digest.add(wanted);
    const int width = 1 + below(dense::lanes);
    for (const isa::Set &set : isa::sets()) {
        demand(trial.run(*set.dense, 1 + number % 4) == wanted, set.name, number);
        demand(trial.blocks(*set.dense, width) == wanted, "dense, other blocks", number);
        demand(trial.firsts(*set.dense, wanted) == wanted, "dense, one by one", number);
    }
}

}  // namespace

unsigned long long fuzz_dense(int trials) {
    Digest digest;
    for (int trial = 0; trial < trials; ++trial) dense_trial(trial, digest);
    return digest.value();
}

}  // namespace check
