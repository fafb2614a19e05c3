// Sweeps of a block of lanes with every field summed exactly. They serve where fields of 16 bits are too coarse to filter
// (filter.hpp).
#pragma once

#include "lanes.hpp"

namespace sparse {
namespace {

template <class Word, bool own_h, bool own_J>
struct Exact {
    using Block = Lanes<Word, own_h, own_J>;
    static constexpr int L = Block::L, G = Block::G;

    Block block;
    const Job &job;
    alignas(64) float rate[L];
    bool paired = true;  // whether vectors 2 k and 2 k + 1 hold the replicas of the same pairs, which share hashes

    // Of two vectors the first holds even lanes, the other the odd ones.
    static int lane_at(int place) { return place / (2 * W) * 2 * W + 2 * (place % W) + place / W % 2; }

    Exact(const Job &j, std::int64_t first, int count) : block(j, first, count, lane_at), job(block.job) {
        for (int l = 0; l < L; ++l) paired = paired && block.low[l] == block.low[l ^ W] && block.high[l] == block.high[l ^ W];
    }

    static U half(U hash, U odd) { return hash >> (odd << 4) & 0xFFFFu; }
    U low(int g) const { return load<U>(block.low + W * g); }
    U high(int g) const { return load<U>(block.high + W * g); }
    U odd(int g) const { return load<U>(block.odd + W * g); }

    template <Rule rule>
    __attribute__((always_inline)) inline void visit(int i, std::uint32_t pass) {
        constexpr int N = G < together ? G : together;
        const Halves key(counter::visit_key(pass, static_cast<std::uint32_t>(job.order[i])));
        const U v0 = usplat(key.low), v1 = usplat(key.high);
        const Word before = block.word[i];
        Word after = 0;
        I f[G];
        block.field(i, f);
#pragma GCC unroll 8
        for (int a = 0; a < G; a += N) {
            F x[N];
            U hash[N], upper[N];
            std::uint32_t bits[N];
            each<N>([&](int g) { x[g] = load<F>(rate + W * (a + g)) * to_float(f[a + g]); });
            each<N>([&](int g) {
                hash[g] = paired && g % 2 ? hash[g - 1] : counter::first_hash(low(a + g), high(a + g), v0, v1);
            });
            each<N>([&](int g) { upper[g] = half(hash[g], odd(a + g)) ^ 0x8000u; });
            each<N>([&](int g) { bits[g] = Block::part(before, a + g); });
            redraw<rule, N>(x, upper, bits, [&](int g) {
                return half(counter::second_hash(low(a + g), high(a + g), v0, v1), odd(a + g));
            });
            each<N>([&](int g) { after |= static_cast<Word>(bits[g]) << (W * (a + g)); });
        }
        block.word[i] = after;
    }
    template <Rule rule>
    void sweep(std::uint32_t number) {
        for (int i = 0; i < job.n; ++i) visit<rule>(i, 2 * number);
        if (job.palindromic)
            for (int i = job.n - 1; i >= 0; --i) visit<rule>(i, 2 * number + 1);
    }
    int run() {
        if (!block.ready) return -1;
        job.random_start ? block.scatter() : block.pack();
        int done = 0;
        for (; done < job.sweeps && !stopped(job.halt); ++done) {
            const float *now = job.beta + done * (job.beta_stride ? job.beta_stride : 1);
            for (int l = 0; l < L; ++l) rate[l] = law::rate(block.beta(now, l), block.unit(l));
            const std::uint32_t number = job.first_sweep + static_cast<std::uint32_t>(done);
            const bool metropolis = law::rule_of(job.metropolis, number) == Rule::metropolis;
            metropolis ? sweep<Rule::metropolis>(number) : sweep<Rule::heat_bath>(number);
        }
        block.give(done);
        return done;
    }
};

template <class Word>
int run_exact(const Job &job, std::int64_t first, int count) {
    if (job.J_stride || !job.one_unit) return Exact<Word, true, true>(job, first, count).run();
    if (job.problems > 1) return Exact<Word, true, false>(job, first, count).run();
    return Exact<Word, false, false>(job, first, count).run();
}

}  // namespace
}  // namespace sparse
