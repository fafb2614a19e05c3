// The pass from products to spins, and the uniform numbers of Philox, over fuzzed shapes.
#include <algorithm>

#include "../run/isa.hpp"
#include "../run/philox.hpp"
#include "chance.hpp"
#include "checks.hpp"
#include "result.hpp"

namespace check {

namespace {

template <class T>
void logits_trial(int trial, Digest &digest) {
    const int n = below(70), problems = 1 + below(3), replicas = 1 + below(20), rows = problems * replicas;
    const bool own_bias = below(2), own_beta = below(2), metropolis = below(2);
    std::vector<T> product(std::size_t(rows) * n), start(product.size());
    for (T &one : product) one = static_cast<T>(sizeof(T) == 2 ? 0x3F80 + below(64) : below(64));  // bfloat16: 1 to 1.5
    const std::vector<float> bias = reals(std::size_t(own_bias ? problems : 1) * n);
    const std::vector<float> beta = reals(own_beta ? rows : 1);
    const std::vector<std::uint64_t> seed(problems, trial);
    const std::vector<std::uint32_t> low(n + 16, 5), high(n + 16, 7);
    std::vector<T> wanted;
    for (const isa::Set &set : isa::sets()) {
        if (!set.logits->run) continue;
        std::vector<T> bits = start, parts = start;
        logits::Job job{n, replicas, sizeof(T) == 2, metropolis, own_beta, product.data(), bits.data(),
                        bias.data(), own_bias ? n : 0, beta.data(), seed.data(), low.data(), high.data()};
        set.logits->run(job, 0, rows);
        job.bits = parts.data();
        for (int r = 0; r < rows; ++r) set.logits->run(job, r, r + 1);
        demand(bits == parts, "rows asked for one by one are others", trial);
        if (&set == &isa::sets().front()) wanted = bits, digest.add(bits);
        demand(bits == wanted, set.name, trial);
    }
}

}  // namespace

unsigned long long fuzz_logits(int trials) {
    Digest digest;
    for (int trial = 0; trial < trials; ++trial)
        logits_trial<float>(trial, digest), logits_trial<logits::Half>(trial, digest);
    return digest.value();
}

unsigned long long fuzz_philox(int trials) {
    Digest digest;
    for (int trial = 0; trial < trials; ++trial) {
        std::vector<float> out(below(700));
        const std::uint64_t seed = rng()(), start = (std::uint64_t{1} << 34) - static_cast<std::uint64_t>(below(800));
        philox::fill(out.data(), out.size(), seed, start);
        digest.add(out);
    }
    return digest.value();
}

}  // namespace check
