// Bipartite sweeps filtered and summed exactly: the same spins, after many random decisions.
#include <algorithm>
#include <cmath>
#include <vector>

#include "../bipartite/run.hpp"
#include "../run/isa.hpp"
#include "chance.hpp"
#include "checks.hpp"
#include "equal.hpp"

namespace check {

namespace {

struct Case {
    bool near;
    int n, m, problems, replicas, sweeps;
    std::vector<float> h, J, beta;
    std::vector<std::uint64_t> seed;
    bipartite::Job job{};

    explicit Case(std::uint32_t number) : near(number % 3 == 2) {
        rng().seed(number);
        n = 1 + below(200), m = 1 + below(200);
        problems = number % 8 == 3 ? 3 : 1, replicas = 16 + below(150), sweeps = 1 + below(8);
        for (int p = 0; p < problems; ++p) seed.push_back(number * std::uint64_t{1000} + p);
        near ? near_edges() : anywhere();
        job.n = n, job.m = m, job.problems = problems, job.replicas = replicas, job.sweeps = sweeps;
        job.h = h.data(), job.J = J.data(), job.beta = beta.data(), job.seed = seed.data();
        job.palindromic = below(2), job.random_start = true;
    }
    // As machines that learn have them: logits of a few units, sums that cancel or that do not, at times strong fields.
    void anywhere() {
        const double size = 8 * uniform() / std::sqrt(static_cast<double>(std::max(n, m)));
        const double mean = below(3) ? 0 : uniform() - 0.5;
        const double field = (below(4) ? 2 : 20) * uniform();
        for (int k = 0; k < n * m; ++k) J.push_back(static_cast<float>(size * (2 * uniform() - 1 + mean)));
        for (int i = 0; i < problems * (n + m); ++i) h.push_back(static_cast<float>(field * (2 * uniform() - 1)));
        for (int s = 0; s < sweeps; ++s) beta.push_back(static_cast<float>(uniform()));
    }
    // J = 1 or -1 and 2 beta = 1: logits are whole numbers but for fields as small as a filter's steps.
    void near_edges() {
        n = 1 + n % 64, m = 1 + m % 64;
        for (int k = 0; k < n * m; ++k) J.push_back(below(2) ? 1.0f : -1.0f);
        for (int i = 0; i < problems * (n + m); ++i) h.push_back(static_cast<float>((2 * uniform() - 1) * 0.01));
        for (int s = 0; s < sweeps; ++s) beta.push_back(static_cast<float>(0.5 * (1 + 1e-4 * (2 * uniform() - 1))));
    }

    double decisions() const {
        return static_cast<double>(n + m + (job.palindromic ? m : 0)) * problems * replicas * sweeps;
    }
    bool filters(const bipartite::Kernel &kernel) const {
        bipartite::Job whole = job;
        const bipartite::Units units(whole, kernel);
        if (!units.same()) return false;
        return bipartite::Shared(whole, kernel).tabulate(1, false);
    }
    Result run(const bipartite::Kernel &kernel) const {
        Result result(std::int64_t{problems} * replicas, n + m);
        bipartite::Job whole = job;
        result.into(whole);
        bipartite::run(whole, kernel, 1, [] { return true; });
        return result;
    }
};

}  // namespace

std::int64_t equal_bipartite(double decisions, int threads) {
    std::int64_t bad = 0;
    for (const isa::Set &set : isa::sets()) {
        if (!set.bipartite->tabulate) continue;
        bipartite::Kernel exact = *set.bipartite;
        exact.tabulate = nullptr;
        bad += compare<Case>("bipartite", set.name, *set.bipartite, exact, decisions, threads);
    }
    return bad;
}

}  // namespace check
