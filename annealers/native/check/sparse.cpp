// The sparse kernels over fuzzed problems.
#include "../run/isa.hpp"
#include "../sparse/run.hpp"
#include "checks.hpp"
#include "graph.hpp"
#include "reference.hpp"
#include "result.hpp"

namespace check {

namespace {

bool alive() { return true; }

struct Trial {
    int number;
    Graph graph;
    int problems, replicas, sweeps;
    bool own_J, own_beta;
    std::vector<float> h, J, beta;
    std::vector<std::uint64_t> seed;
    sparse::Job job{};

    std::int64_t lanes() const { return std::int64_t{problems} * replicas; }

    static Graph random_graph(int n) {
        const int largest = 1 + below(2 * n);
        return Graph(n, largest, 1.0 / (1 + below(6)));
    }
    explicit Trial(int t) : number(t), graph(random_graph(1 + below(t % 5 ? 40 : 300))) {
        problems = t % 3 ? 1 : 1 + below(6);
        replicas = t % 2 ? 1 + below(9) : 1 + below(200);
        sweeps = below(7);
        own_J = problems > 1 && below(2), own_beta = below(2);
        h = reals(std::size_t(problems) * graph.n);
        J = reals(std::size_t(own_J ? problems : 1) * graph.k);
        seed.assign(problems, t);
        beta = reals(std::size_t(sweeps) * (own_beta ? lanes() : 1));
        if (below(3))  // a schedule: filters take no beta below 0
            for (float &one : beta) one = std::fabs(one);
        graph.into(job);
        job.problems = problems, job.replicas = replicas, job.sweeps = sweeps;
        job.h = h.data(), job.J = J.data(), job.J_stride = own_J ? graph.k : 0;
        job.beta = beta.data(), job.beta_stride = own_beta ? lanes() : 0, job.seed = seed.data();
        job.metropolis = below(2), job.palindromic = below(2), job.random_start = below(2);
        job.first_sweep = static_cast<std::uint32_t>(below(1000)), job.first_replica = static_cast<std::uint32_t>(below(5));
    }

    Result fresh() const {
        Result result(lanes(), graph.n);
        std::uint32_t state = static_cast<std::uint32_t>(number);
        for (std::int8_t &spin : result.spins) {
            state = state * 1664525u + 1013904223u;
            spin = state >> 31 ? 1 : -1;
        }
        return result;
    }
    Result run(const sparse::Kernel &kernel, int threads) const {
        Result result = fresh();
        sparse::Job whole = job;
        result.into(whole);
        demand(sparse::run(whole, kernel, threads, alive) == sweeps, "sweeps", number);
        return result;
    }
    // Each replica of each problem in a call of its own.
    Result one_by_one(const sparse::Kernel &kernel) const {
        Result result = fresh();
        for (int p = 0; p < problems; ++p)
            for (int r = 0; r < replicas; ++r) {
                const std::int64_t lane = std::int64_t{p} * replicas + r;
                std::vector<float> own(static_cast<std::size_t>(sweeps));
                for (int s = 0; s < sweeps; ++s) own[s] = own_beta ? beta[s * lanes() + lane] : beta[s];
                sparse::Job one = job;
                one.problems = one.replicas = 1;
                one.h += std::int64_t{p} * graph.n, one.J += p * job.J_stride, one.J_stride = 0, one.seed += p;
                one.beta = own.data(), one.beta_stride = 0, one.first_replica += static_cast<std::uint32_t>(r);
                one.spins = result.spins.data() + lane * graph.n;
                one.energy = &result.energy[lane], one.done = &result.done[lane];
                sparse::run(one, kernel, 1, alive);
            }
        return result;
    }
    // By one of the kernel's functions, in blocks of `width` lanes.
    Result blocks(const sparse::Kernel &kernel, sparse::Run run, int width) const {
        Result result = fresh();
        sparse::Job whole = job;
        result.into(whole);
        std::atomic<bool> stop{false};
        whole.stop = &stop;
        const sparse::Shared shared(whole, kernel);
        for (std::int64_t first = 0; first < lanes(); first += width)
            run(whole, first, static_cast<int>(std::min<std::int64_t>(width, lanes() - first)));
        return result;
    }
    bool filters(const sparse::Kernel &kernel) const {
        sparse::Job whole = job;
        const sparse::Shared shared(whole, kernel);
        return whole.tables.sums != nullptr;
    }
    // A lane as the law has it.
    void refer(const Result &result, std::int64_t lane) const {
        const std::int64_t p = lane / replicas, n = graph.n;
        Reference problem;
        problem.h.assign(h.begin() + p * n, h.begin() + (p + 1) * n);
        problem.order.assign(graph.order.begin(), graph.order.end());
        problem.near.resize(static_cast<std::size_t>(n));
        for (int i = 0; i < n; ++i)
            for (std::int32_t e = graph.start[i]; e < graph.start[i + 1]; ++e)
                problem.near[graph.order[i]].emplace_back(graph.order[graph.near[e]], J[p * job.J_stride + graph.edge[e]]);
        Reference::Lane own{seed[p], job.first_replica + static_cast<std::uint32_t>(lane % replicas), job.first_sweep, {},
                            job.metropolis, job.palindromic, job.random_start};
        for (int s = 0; s < sweeps; ++s) own.beta.push_back(own_beta ? beta[s * lanes() + lane] : beta[s]);
        const Result start = fresh();
        std::vector<std::int8_t> spins(start.spins.begin() + lane * n, start.spins.begin() + (lane + 1) * n);
        const double energy = problem.run(own, spins.data());
        demand(std::equal(spins.begin(), spins.end(), result.spins.begin() + lane * n), "spins are not the law's", number);
        demand(energy == result.energy[lane], "an energy is not the law's", number);
    }
};

int filtered = 0;  // trials

void sparse_trial(int number, Digest &digest) {
    const Trial trial(number);
    const Result wanted = trial.run(*isa::sets().back().sparse, 1);
    for (int k = 0; k < 4; ++k) trial.refer(wanted, below(static_cast<int>(trial.lanes())));
    digest.add(wanted);
    const int width = 1 + below(64);
    for (const isa::Set &set : isa::sets()) {
        const sparse::Kernel &kernel = *set.sparse;
        demand(trial.run(kernel, 1 + number % 4) == wanted, set.name, number);
        demand(trial.blocks(kernel, kernel.lanes64, width) == wanted, "exact, 64 lanes", number);
        demand(trial.blocks(kernel, kernel.lanes32, (width + 1) / 2) == wanted, "exact, 32 lanes", number);
        if (trial.problems == 1) demand(trial.blocks(kernel, kernel.few, width % 8 + 1) == wanted, "few", number);
        if (trial.lanes() < 300 && number % 4 < 2) demand(trial.one_by_one(kernel) == wanted, "one by one", number);
        if (!trial.filters(kernel)) continue;
        demand(trial.blocks(kernel, kernel.filter64, width) == wanted, "filtered, 64 lanes", number);
        demand(trial.blocks(kernel, kernel.filter32, (width + 1) / 2) == wanted, "filtered, 32 lanes", number);
        ++filtered;
    }
}

}  // namespace

unsigned long long fuzz_sparse(int trials) {
    Digest digest;
    for (int trial = 0; trial < trials; ++trial) sparse_trial(trial, digest);
    std::fprintf(stderr, "sparse: %d trials, filtered in %d of trials and instruction sets\n", trials, filtered);
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
