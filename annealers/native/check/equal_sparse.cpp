// Sparse sweeps filtered and summed exactly: the same spins, after many random decisions.
#include <algorithm>
#include <cmath>
#include <vector>

#include "../run/isa.hpp"
#include "../sparse/run.hpp"
#include "checks.hpp"
#include "equal.hpp"
#include "graph.hpp"

namespace check {

namespace {

struct Case {
    bool near, own_J;
    Graph graph;
    int problems, replicas, sweeps;
    std::vector<float> h, J, beta;
    std::vector<std::uint64_t> seed;
    sparse::Job job{};

    explicit Case(std::uint32_t number) : near(number % 6 == 4), graph(make_graph(number)) {
        // One case in eight is of several problems, another one of problems with a J each, and one has betas by lane.
        own_J = number % 8 == 1;
        problems = own_J || number % 8 == 3 ? 8 : 1, replicas = problems > 1 ? 8 : 64, sweeps = 2 + below(15);
        const bool own_beta = number % 8 == 5;
        for (int p = 0; p < problems; ++p) seed.push_back(number * std::uint64_t{1000} + p);
        near ? near_edges() : anywhere(own_beta);
        graph.into(job);
        job.problems = problems, job.replicas = replicas, job.sweeps = sweeps;
        job.h = h.data(), job.J = J.data(), job.J_stride = own_J ? graph.k : 0;
        job.beta = beta.data(), job.beta_stride = own_beta ? problems * replicas : 0;
        job.seed = seed.data(), job.metropolis = below(2), job.palindromic = below(2), job.random_start = true;
    }
    static Graph make_graph(std::uint32_t number) {
        rng().seed(number);
        const int n = 100 + below(200), largest = 1 + below(n / 2);
        const double degree = 1 + 24 * uniform();
        return Graph(n, largest, degree / n);
    }
    // Couplings and fields of several kinds, from hot to as cold as a filter takes.
    void anywhere(bool own_beta) {
        const int kind = below(4);
        const double spread = kind == 2 ? 2 : 0, field = below(2) ? uniform() : 0;
        for (int k = 0; k < (own_J ? problems : 1) * graph.k; ++k) {
            const double size = std::exp(spread * (uniform() + uniform() + uniform() - 1.5));
            const double way = kind == 1 ? (below(2) ? 1.0 : -1.0) : 2 * uniform() - 1;
            J.push_back(static_cast<float>(size * way));
        }
        for (int i = 0; i < problems * graph.n; ++i) h.push_back(static_cast<float>(field * (2 * uniform() - 1)));
        const double coldest = coldest_beta() * (own_J ? 0.3 : 1) * std::exp(-4 * uniform() * uniform());
        for (int s = 0; s < sweeps; ++s)
            for (int l = 0; l < (own_beta ? problems * replicas : 1); ++l)
                beta.push_back(static_cast<float>(coldest * (own_beta ? uniform() : (s + 1.0) / sweeps)));
    }
    // J = 1 or -1 and 2 beta = 1: logits are whole numbers but for fields as small as a filter's steps.
    void near_edges() {
        int degree = 0;
        for (int i = 0; i < graph.n; ++i) degree = std::max(degree, graph.start[i + 1] - graph.start[i]);
        for (int k = 0; k < graph.k; ++k) J.push_back(below(2) ? 1.0f : -1.0f);
        const double field = 6.0 * (degree + 1) / 32767;
        for (int i = 0; i < graph.n; ++i) h.push_back(static_cast<float>((2 * uniform() - 1) * field));
        for (int s = 0; s < sweeps; ++s) beta.push_back(static_cast<float>(0.5 * (1 + 1e-4 * (2 * uniform() - 1))));
    }
    // At which a field's error reaches the widest that is filtered.
    double coldest_beta() const {
        double largest = 1e-6;
        int degree = 0;
        for (int i = 0; i < graph.n; ++i) {
            double size = 0;
            for (int p = 0; p < problems; ++p)
                size = std::max(size, std::fabs(static_cast<double>(h[p * graph.n + graph.order[i]])));
            for (std::int32_t e = graph.start[i]; e < graph.start[i + 1]; ++e)
                size += std::fabs(static_cast<double>(J[graph.edge[e]]));
            largest = std::max(largest, size);
            degree = std::max(degree, graph.start[i + 1] - graph.start[i]);
        }
        const int groups = (degree + 3) / 4;
        return 0.999 * law::widest / law::field_error(1, largest / (32766 - groups - 1), groups + 1);
    }

    double decisions() const {
        return static_cast<double>(graph.n) * problems * replicas * sweeps * (job.palindromic ? 2 : 1);
    }
    bool filters(const sparse::Kernel &kernel) const {
        sparse::Job whole = job;
        return sparse::Shared(whole, kernel), whole.tables.sums || whole.step;
    }
    Result run(const sparse::Kernel &kernel) const {
        Result result(std::int64_t{problems} * replicas, graph.n);
        sparse::Job whole = job;
        result.into(whole);
        sparse::run(whole, kernel, 1, [] { return true; });
        return result;
    }
};

}  // namespace

std::int64_t equal_sparse(double decisions, int threads) {
    std::int64_t bad = 0;
    for (const isa::Set &set : isa::sets()) {
        if (!set.sparse->fill) continue;
        sparse::Kernel exact = *set.sparse;
        exact.fill = nullptr, exact.apart = nullptr;
        bad += compare<Case>("sparse", set.name, *set.sparse, exact, decisions, threads);
    }
    return bad;
}

}  // namespace check
