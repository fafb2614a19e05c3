// The kernels over fuzzed problems, for the sanitizers: `make sanitize`. Every array has just the size that a kernel may
// touch. Reads asked for one by one must be those of one call. Not installed.
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "bipartite_run.hpp"
#include "dense_job.hpp"
#include "dispatch.hpp"
#include "fixed_refusal.hpp"
#include "logits_job.hpp"
#include "philox.hpp"

namespace {

std::mt19937 rng(1);

int below(int n) { return static_cast<int>(rng() % static_cast<unsigned>(n)); }
float real() { return static_cast<float>(static_cast<int>(rng() % 2001) - 1000) / 1000; }
std::vector<float> reals(std::size_t n) {
    std::vector<float> x(n);
    for (float &one : x) one = real();
    return x;
}

void demand(bool good, const char *what, int trial) {
    if (good) return;
    std::fprintf(stderr, "trial %d: %s\n", trial, what);
    std::exit(1);
}

// A random graph whose colours are given: neighbours lie in other colours.
struct Graph {
    std::vector<std::int32_t> order, place, start, near, edge, colour{0};
    int n, k = 0;

    explicit Graph(int spins) : n(spins) {
        std::vector<int> paint(n);
        const int sparsity = 1 + below(6);
        for (int at = 0; at < n;) {
            const int end = std::min(n, at + 1 + below(1 + below(2 * n)));
            for (; at < end; ++at) paint[at] = static_cast<int>(colour.size());
            colour.push_back(end);
        }
        for (int i = 0; i < n; ++i) order.push_back(i);
        for (int i = n - 1; i > 0; --i) std::swap(order[i], order[below(i + 1)]);
        place.resize(n);
        for (int i = 0; i < n; ++i) place[order[i]] = i;
        std::vector<std::vector<std::pair<int, int>>> to(n);
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < i; ++j)
                if (paint[i] != paint[j] && below(sparsity) == 0) {
                    to[i].emplace_back(j, k), to[j].emplace_back(i, k);
                    ++k;
                }
        start.push_back(0);
        for (const auto &ends : to) {
            for (const auto &[j, e] : ends) near.push_back(j), edge.push_back(e);
            start.push_back(static_cast<std::int32_t>(near.size()));
        }
    }
};

struct Result {
    std::vector<std::int8_t> spins;
    std::vector<double> energy;
    std::vector<std::int32_t> done;
    explicit Result(std::int64_t lanes, std::int64_t n) : spins(lanes * n, 1), energy(lanes), done(lanes) {}
    bool operator==(const Result &o) const { return spins == o.spins && energy == o.energy && done == o.done; }
    template <class Job>
    void into(Job &job) {
        job.spins = spins.data(), job.energy = energy.data(), job.done = done.data();
    }
};

void sparse_trial(int trial) {
    const Graph graph(1 + below(trial % 5 ? 40 : 300));
    const int problems = trial % 3 ? 1 : 1 + below(6), replicas = trial % 2 ? 1 + below(9) : 1 + below(200);
    const std::int64_t lanes = std::int64_t{problems} * replicas;
    const bool own_J = problems > 1 && below(2), own_beta = below(2);
    const int sweeps = below(4);
    const std::vector<float> h = reals(std::size_t(problems) * graph.n), J = reals((own_J ? problems : 1) * graph.k);
    std::vector<float> beta = reals(sweeps * (own_beta ? lanes : 1)), unit;
    const std::vector<std::uint64_t> seed(problems, trial);
    sparse::Job job{};
    job.n = graph.n, job.problems = problems, job.replicas = replicas, job.sweeps = sweeps;
    job.order = graph.order.data(), job.place = graph.place.data(), job.start = graph.start.data();
    job.near = graph.near.data(), job.edge = graph.edge.data();
    job.colour = graph.colour.data(), job.colours = static_cast<int>(graph.colour.size()) - 1;
    job.h = h.data(), job.J = J.data(), job.J_stride = own_J ? graph.k : 0;
    job.beta = beta.data(), job.beta_stride = own_beta ? lanes : 0, job.seed = seed.data();
    job.metropolis = below(2), job.palindromic = below(2), job.random_start = below(2);
    if (below(2)) {  // 16 bits
        for (float &one : beta) one = 100 * std::fabs(one);
        for (int p = 0; p < problems; ++p)
            unit.push_back(sparse::scale_of(job, p, sparse::reaches(job, job.J + p * job.J_stride)).unit);
        job.tables = sparse::tables(), job.unit = unit.data();
    }
    for (const sparse::Kernel *kernel : sparse::kernels()) {
        Result whole(lanes, graph.n), again(lanes, graph.n);
        whole.into(job);
        demand(sparse::run(job, *kernel, 1 + below(3), [] { return true; }) == sweeps, "sweeps", trial);
        again.into(job);
        if (problems == 1 && !own_beta) {  // one by one
            sparse::Job one = job;
            one.replicas = 1;
            for (int r = 0; r < replicas; ++r) {
                one.first_replica = r;
                one.spins = job.spins + std::int64_t{r} * graph.n, one.energy = job.energy + r, one.done = job.done + r;
                sparse::run(one, *kernel, 1, [] { return true; });
            }
        } else {
            sparse::run(job, *kernel, 3, [] { return true; });
        }
        demand(whole == again, "the same reads in other parts are others", trial);
    }
}

void stopped_trial(int trial, int replicas) {
    const Graph graph(400);
    const std::vector<float> h = reals(graph.n), J = reals(graph.k), beta(200000, 0.5f);
    const std::uint64_t seed = 1;
    Result result(replicas, graph.n);
    sparse::Job job{};
    job.n = graph.n, job.problems = 1, job.replicas = replicas, job.sweeps = static_cast<int>(beta.size());
    job.order = graph.order.data(), job.place = graph.place.data(), job.start = graph.start.data();
    job.near = graph.near.data(), job.edge = graph.edge.data();
    job.colour = graph.colour.data(), job.colours = static_cast<int>(graph.colour.size()) - 1;
    job.h = h.data(), job.J = J.data(), job.beta = beta.data(), job.seed = &seed;
    result.into(job);
    demand(sparse::run(job, *sparse::kernels()[0], 2, [] { return false; }) < job.sweeps, "not stopped", trial);
}

void dense_trial(int trial) {
    const int n = 1 + below(70), problems = 1 + below(3), replicas = 1 + below(20), sweeps = below(40);
    const std::int64_t row = (n + 15) / 16 * 16, lanes = std::int64_t{problems} * replicas;
    const bool own_J = below(2), own_beta = below(2);
    const std::vector<float> h = reals(problems * n), beta = reals(sweeps * (own_beta ? lanes : 1));
    std::vector<float> J((own_J ? problems : 1) * n * row);
    for (std::size_t p = 0; p < J.size(); p += n * row)
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < i; ++j) J[p + i * row + j] = J[p + j * row + i] = real();
    const std::vector<std::uint64_t> seed(problems, trial);
    const std::atomic<bool> stop{false};
    Result result(lanes, n);
    dense::Job job{};
    job.n = n, job.row = row, job.problems = problems, job.replicas = replicas, job.sweeps = sweeps;
    job.h = h.data(), job.J = J.data(), job.J_stride = own_J ? n * row : 0;
    job.beta = beta.data(), job.beta_stride = own_beta ? lanes : 0;
    job.metropolis = below(2), job.palindromic = below(2), job.random_start = below(2);
    job.seed = seed.data(), job.stop = &stop;
    result.into(job);
    std::vector<dense::Run> runs{dense::plain};
#if defined(__x86_64__)
    if (cpu::has_avx2()) runs.push_back(dense::avx2);
    if (cpu::has_avx512()) runs.push_back(dense::avx512);
#endif
    for (const dense::Run run : runs)
        for (std::int64_t first = 0; first < lanes; first += dense::lanes) {
            const int count = static_cast<int>(std::min<std::int64_t>(dense::lanes, lanes - first));
            demand(run(job, first, count) == sweeps, "dense sweeps", trial);
        }
}

void bipartite_trial(int trial) {
    const int n = below(trial % 9 ? 70 : 2), m = below(trial % 7 ? 70 : 2), problems = trial % 3 ? 1 : 1 + below(6);
    const int replicas = 1 + below(trial % 2 ? 9 : 300), sweeps = below(4);
    const std::int64_t lanes = std::int64_t{problems} * replicas;
    const bool own_J = problems > 1 && below(2), own_beta = below(2);
    const std::vector<float> h = reals(std::size_t(problems) * (n + m)), J = reals((own_J ? problems : 1) * n * m);
    std::vector<float> beta = reals(sweeps * (own_beta ? lanes : 1));
    const std::vector<std::uint64_t> seed(problems, trial);
    bipartite::Job job{};
    job.n = n, job.m = m, job.problems = problems, job.replicas = replicas, job.sweeps = sweeps;
    job.h = h.data(), job.J = J.data(), job.J_stride = own_J ? n * m : 0;
    job.beta = beta.data(), job.beta_stride = own_beta ? lanes : 0, job.seed = seed.data();
    job.metropolis = below(2), job.palindromic = below(2), job.random_start = below(2);
    std::vector<float> unit;
    if (trial % 4 < 2) {  // 16 bits
        for (float &one : beta) one = 2 * std::fabs(one);  // colder ones are refused
        unit = bipartite::units(job, bipartite::plain), job.unit = unit.data();
        job.tables = sparse::tables();
    }
    for (const bipartite::Kernel *kernel : bipartite::kernels()) {
        Result whole(lanes, n + m), again(lanes, n + m);
        whole.into(job);
        demand(bipartite::run(job, *kernel, 1, [] { return true; }) == sweeps, "bipartite sweeps", trial);
        again.into(job);
        bipartite::run(job, *kernel, 2 + below(9), [] { return true; });  // in narrower blocks
        demand(whole == again, "the same reads in other blocks are others", trial);
    }
}

template <class T>
void logits_trial(int trial) {
    const int n = below(70), problems = 1 + below(3), replicas = 1 + below(20), rows = problems * replicas;
    const bool own_bias = below(2), own_beta = below(2);
    std::vector<T> product(std::size_t(rows) * n), bits(product.size());
    for (T &one : product) one = static_cast<T>(0x3F80 + below(64));  // as bfloat16, 1 to 1.5
    const std::vector<float> bias = reals((own_bias ? problems : 1) * n), beta = reals(own_beta ? rows : 1);
    const std::vector<std::uint64_t> seed(problems, trial);
    const std::vector<std::uint32_t> low(n + 16, 5), high(n + 16, 7);
    std::vector<logits::Run> runs{logits::plain};
#if defined(__x86_64__)
    if (cpu::has_avx2()) runs.push_back(logits::avx2);
    if (cpu::has_avx512()) runs.push_back(logits::avx512);
#endif
    const logits::Job job{n, replicas, sizeof(T) == 2, below(2) == 1, own_beta, product.data(), bits.data(),
                          bias.data(), own_bias ? n : 0, beta.data(), seed.data(), low.data(), high.data()};
    for (const logits::Run run : runs) {
        run(job, 0, rows);
        const std::vector<T> whole = bits;
        if (job.metropolis) continue;  // which goes on from the bits
        for (int r = 0; r < rows; ++r) run(job, r, r + 1);
        demand(whole == bits, "rows asked for one by one are others", trial);
    }
}

void philox_trial() {
    std::vector<float> out(below(700));
    philox::fill(out.data(), out.size(), rng(), (std::uint64_t{1} << 34) - below(800));
}

}  // namespace

int main() {
    for (int trial = 0; trial < 400; ++trial) sparse_trial(trial);
    for (const int replicas : {1, 7, 40, 200}) stopped_trial(-1, replicas);
    for (int trial = 0; trial < 400; ++trial) bipartite_trial(trial);
    for (int trial = 0; trial < 100; ++trial) dense_trial(trial), philox_trial();
    for (int trial = 0; trial < 100; ++trial) logits_trial<float>(trial), logits_trial<logits::Half>(trial);
    std::puts("clean");
}
