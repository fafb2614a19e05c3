// Matrix products to spins, in one pass: what a sweep of a bipartite problem does after each product. Compiled once
// for each instruction set.
#pragma once

#include "../vec/words.hpp"
#include "job.hpp"

namespace logits {
namespace {

using namespace vec;

inline F widen(const float *p) { return load<F>(p); }
inline F widen(const Half *p) { return (F)(widened(load<H>(p)) << 16); }  // bfloat16: the upper half
inline void put(float *p, U one) { std::memcpy(p, &one, sizeof one); }
inline void put(Half *p, U one) {
    const H half = __builtin_convertvector(one >> 16, H);
    std::memcpy(p, &half, sizeof half);
}

// Bits of one row: 1.0 with probability sigmoid(beta (product + bias)), or flipped by Metropolis' rule.
template <Rule rule, class T>
inline void part(const T *product, const float *bias, F beta, U low, U high, const std::uint32_t *v0,
                 const std::uint32_t *v1, T *bit) {
    const F x = beta * (widen(product) + load<F>(bias));
    const F u = to_float(counter::bits(low, high, load<U>(v0), load<U>(v1)));
    const U one = (U)splat(1.0f);
    if (rule == Rule::heat_bath) {
        put(bit, (U)~(u * power(static_cast<float>(law::log2_e) * -x) + u > splat(0x1p32f)) & one);
    } else {
        const U old = (U)(widen(bit) > splat(0.5f));
        const F towards = (F)((U)x ^ (old & 0x80000000u));  // -dE: x where the bit is 0, -x where it is 1
        put(bit, (old ^ (U)~(u > power(static_cast<float>(law::log2_e) * towards) * 0x1p32f)) & one);
    }
}

template <Rule rule, class T>
void rows(const Job &job, std::int64_t first, std::int64_t last) {
    const std::int64_t n = job.n, whole = n - n % W;
    for (std::int64_t r = first; r < last; ++r) {
        const std::int64_t problem = r / job.replicas;
        const auto replica = job.first_replica + static_cast<std::uint32_t>(r % job.replicas);
        const std::uint64_t key = counter::lane_key(job.seed[problem], replica);
        const U low = usplat(static_cast<std::uint32_t>(key)), high = usplat(static_cast<std::uint32_t>(key >> 32));
        const F beta = splat(job.beta[job.beta_by_row ? r : 0]);
        const T *product = static_cast<const T *>(job.product) + r * n;
        const float *bias = job.bias + problem * job.bias_stride;
        T *bit = static_cast<T *>(job.bits) + r * n;
        std::int64_t j = 0;
        for (; j < whole; j += W)
            part<rule>(product + j, bias + j, beta, low, high, job.visit_low + j, job.visit_high + j, bit + j);
        if (j < n) {  // the ragged end, through buffers
            T p[W] = {}, b[W] = {};
            float c[W] = {};
            const auto rest = static_cast<std::size_t>(n - j);
            std::memcpy(p, product + j, rest * sizeof(T)), std::memcpy(b, bit + j, rest * sizeof(T));
            std::memcpy(c, bias + j, rest * sizeof(float));
            part<rule>(p, c, beta, low, high, job.visit_low + j, job.visit_high + j, b);  // visits are padded
            std::memcpy(bit + j, b, rest * sizeof(T));
        }
    }
}

template <Rule rule>
void run(const Job &job, std::int64_t first, std::int64_t last) {
    job.half ? rows<rule, Half>(job, first, last) : rows<rule, float>(job, first, last);
}

void run(const Job &job, std::int64_t first, std::int64_t last) {
    job.metropolis ? run<Rule::metropolis>(job, first, last) : run<Rule::heat_bath>(job, first, last);
}

}  // namespace
}  // namespace logits
