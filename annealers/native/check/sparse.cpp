// The sparse kernels over fuzzed problems.
#include "../run/isa.hpp"
#include "../sparse/run.hpp"
#include "batch.hpp"
#include "checks.hpp"
#include "graph.hpp"

namespace check {

namespace {

struct Trial {
    Graph graph;
    Batch batch;
    sparse::Job job{};

    static Graph random_graph(int n) {
        const int largest = 1 + below(2 * n);
        return Graph(n, largest, 1.0 / (1 + below(6)));
    }
    explicit Trial(int number)
        : graph(random_graph(1 + below(number % 5 ? 40 : 300))), batch(number, graph.n, graph.k) {
        graph.into(job);
        batch.into(job);
        job.first_replica = static_cast<std::uint32_t>(below(5));
    }

    Result run(const sparse::Kernel &kernel, int threads) const {
        Result result = batch.fresh();
        sparse::Job whole = job;
        result.into(whole);
        demand(sparse::run(whole, kernel, threads, alive) == batch.sweeps, "sweeps", batch.number);
        return result;
    }
    // Each replica of each problem in a call of its own.
    Result one_by_one(const sparse::Kernel &kernel) const {
        Result result = batch.fresh();
        std::vector<float> betas;
        for (std::int64_t lane = 0; lane < batch.lanes(); ++lane) {
            sparse::Job one = batch.alone(job, lane, betas);
            one.first_replica += static_cast<std::uint32_t>(lane % batch.replicas);
            one.spins = result.spins.data() + lane * graph.n;
            one.energy = &result.energy[lane], one.done = &result.done[lane];
            sparse::run(one, kernel, 1, alive);
        }
        return result;
    }
    // By one of the kernel's functions, in blocks of `width` lanes.
    Result blocks(const sparse::Kernel &kernel, sparse::Run run, int width) const {
        Result result = batch.fresh();
        sparse::Job whole = job;
        result.into(whole);
        Halt halt;
        whole.halt = &halt;
        const sparse::Shared shared(whole, kernel);
        for (std::int64_t first = 0; first < batch.lanes(); first += width)
            run(whole, first, static_cast<int>(std::min<std::int64_t>(width, batch.lanes() - first)));
        return result;
    }
    // Whether in 16 bits, of couplings that lanes share or not.
    bool filters(const sparse::Kernel &kernel, bool shared_J) const {
        sparse::Job whole = job;
        const sparse::Shared shared(whole, kernel);
        return shared_J ? whole.tables.sums != nullptr : whole.step != nullptr;
    }
    void refer(const Result &result, std::int64_t lane) const {
        Reference problem;
        problem.order.assign(graph.order.begin(), graph.order.end());
        problem.back.assign(graph.order.rbegin(), graph.order.rend());
        problem.near.resize(static_cast<std::size_t>(graph.n));
        const float *J = job.J + lane / batch.replicas * job.J_stride;
        for (int i = 0; i < graph.n; ++i)
            for (std::int32_t e = graph.start[i]; e < graph.start[i + 1]; ++e)
                problem.near[graph.order[i]].emplace_back(graph.order[graph.near[e]], J[graph.edge[e]]);
        batch.refer(problem, result, lane, job.first_replica);
    }
};

int filtered = 0;  // trials, for each instruction set

void sparse_trial(int number, Digest &digest) {
    const Trial trial(number);
    const Result wanted = trial.run(*isa::sets().back().sparse, 1);
    for (int k = 0; k < 4; ++k) trial.refer(wanted, below(static_cast<int>(trial.batch.lanes())));
    digest.add(wanted);
    const int width = 1 + below(64);
    for (const isa::Set &set : isa::sets()) {
        const sparse::Kernel &kernel = *set.sparse;
        demand(trial.run(kernel, 1 + number % 4) == wanted, set.name, number);
        demand(trial.blocks(kernel, kernel.lanes64, width) == wanted, "exact, 64 lanes", number);
        demand(trial.blocks(kernel, kernel.lanes32, (width + 1) / 2) == wanted, "exact, 32 lanes", number);
        if (trial.batch.problems == 1) demand(trial.blocks(kernel, kernel.few, width % 8 + 1) == wanted, "few", number);
        if (number % 4 < 2) demand(trial.one_by_one(kernel) == wanted, "one by one", number);
        if (trial.filters(kernel, false)) {
            demand(trial.blocks(kernel, kernel.apart, (width + 1) / 2) == wanted, "filtered apart", number);
            ++filtered;
        }
        if (!trial.filters(kernel, true)) continue;
        demand(trial.blocks(kernel, kernel.filter64, width) == wanted, "filtered, 64 lanes", number);
        demand(trial.blocks(kernel, kernel.filter32, (width + 1) / 2) == wanted, "filtered, 32 lanes", number);
        ++filtered;
    }
}

}  // namespace

unsigned long long fuzz_sparse(int trials) {
    Digest digest;
    for (int trial = 0; trial < trials; ++trial) sparse_trial(trial, digest);
    std::fprintf(stderr, "sparse: %d trials; filtered %d times, over all instruction sets\n", trials, filtered);
    return digest.value();
}

void stops() {
    const Graph graph(400, 100, 0.1);
    const std::vector<float> h = reals(graph.n), J = reals(graph.k), beta(2000000, 0.01f);
    const std::uint64_t seed = 1;
    for (const int replicas : {1, 7, 40, 200}) {
        Result result(replicas, graph.n);
        sparse::Job job{};
        graph.into(job);
        job.problems = 1, job.replicas = replicas, job.sweeps = static_cast<int>(beta.size());
        job.h = h.data(), job.J = J.data(), job.beta = beta.data(), job.seed = &seed;
        result.into(job);
        const auto dead = [] { return false; };
        for (const isa::Set &set : isa::sets())
            demand(sparse::run(job, *set.sparse, 2, dead) < job.sweeps, "not stopped", replicas);
    }
}

}  // namespace check
