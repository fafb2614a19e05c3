// The sparse kernel for many replicas: in SIMD lanes, one bit a spin and replica.
#pragma once

#include "bits.hpp"
#include "simd.hpp"

#include <cstdlib>

namespace sparse {
namespace {

template <class Word, bool own_h, bool own_J>
struct Block {
    using Bits = Word;
    static constexpr int L = 8 * sizeof(Word), G = L / W;
    static constexpr int H = own_h ? L : 1, K = own_J ? L : 1;

    const Job &job;
    const std::int64_t first;
    const int count;
    Word *word;               // [n], a bit a lane
    float *h, *base, *J2;     // h and h - sum J: [n] or [n, L]; 2 J by neighbour: [2k] or [2k, L]
    alignas(64) std::uint32_t low[L], high[L];

    std::int64_t lane(int l) const { return first + (l < count ? l : 0); }  // idle lanes repeat the first

    Block(const Job &j, std::int64_t f, int c) : job(j), first(f), count(c) {
        const std::int64_t n = job.n, ends = job.start[n];
        word = static_cast<Word *>(std::malloc(sizeof(Word) * (n + 1)));
        h = static_cast<float *>(std::malloc(sizeof(float) * (n + 1) * H));
        base = static_cast<float *>(std::malloc(sizeof(float) * (n + 1) * H));
        J2 = static_cast<float *>(std::malloc(sizeof(float) * (ends + 1) * K));
        if (!ready()) return;
        const float *fields[L], *couplings[L];
        for (int l = 0; l < L; ++l) {
            const std::int64_t problem = lane(l) / job.replicas;
            const auto replica = static_cast<std::uint32_t>(lane(l) % job.replicas);
            const std::uint64_t key = counter::lane_key(job.seed[problem], job.first_replica + replica);
            low[l] = static_cast<std::uint32_t>(key), high[l] = static_cast<std::uint32_t>(key >> 32);
            fields[l] = job.h + problem * n, couplings[l] = job.J + problem * job.J_stride;
        }
        for (std::int64_t i = 0; i < n; ++i) {
            float sum[K] = {};
            for (std::int64_t e = job.start[i]; e < job.start[i + 1]; ++e)
                for (int l = 0; l < K; ++l) {
                    const float now = couplings[l][job.edge[e]];
                    sum[l] += now;
                    J2[e * K + l] = 2 * now;
                }
            for (int l = 0; l < H; ++l) {
                h[i * H + l] = fields[l][job.order[i]];
                base[i * H + l] = h[i * H + l] - sum[own_J ? l : 0];
            }
        }
    }
    ~Block() { std::free(word), std::free(h), std::free(base), std::free(J2); }
    bool ready() const { return word && h && base && J2; }

    static std::uint32_t part(Word bits, int g) { return static_cast<std::uint32_t>(bits >> (W * g)) & ((1u << W) - 1); }
    static F at(const float *p, std::int64_t i, int g) { return own_h ? load<F>(p + i * L + W * g) : splat(p[i]); }

    // f_i = h_i + sum_j J_ij s_j = (h_i - sum_j J_ij) + sum over the neighbours that are +1 of 2 J_ij.
    __attribute__((always_inline)) inline void field(int i, F *f) const {
#pragma GCC unroll 8
        for (int g = 0; g < G; ++g) f[g] = at(base, i, g);
        for (int e = job.start[i]; e < job.start[i + 1]; ++e) {
            const Word *bits = word + job.near[e];
#pragma GCC unroll 8
            for (int g = 0; g < G; ++g)
                f[g] = add_at(f[g], bits, g, own_J ? load<F>(J2 + std::int64_t{e} * L + W * g) : broadcast(J2 + e));
        }
    }

    // Uniform spins: the first bit of a visit in a pass that no sweep reaches.
    void scatter() {
        for (int i = 0; i < job.n; ++i) {
            const std::uint64_t key = counter::visit_key(0xFFFFFFFFu, static_cast<std::uint32_t>(job.order[i]));
            const U v0 = usplat(static_cast<std::uint32_t>(key)), v1 = usplat(static_cast<std::uint32_t>(key >> 32));
            Word out = 0;
            for (int g = 0; g < G; ++g) {
                const U bits = counter::bits(load<U>(low + W * g), load<U>(high + W * g), v0, v1);
                out |= static_cast<Word>(heads(bits)) << (W * g);
            }
            word[i] = out;
        }
    }
    void pack() {
        for (int a = 0; a < job.n; a += 64) {
            const int width = job.n - a < 64 ? job.n - a : 64;
            std::uint64_t row[64] = {};
            for (int l = 0; l < L; ++l) row[l] = gather(job.spins + lane(l) * job.n + a, width);
            transpose(row);
            for (int i = 0; i < width; ++i) word[job.place[a + i]] = static_cast<Word>(row[i]);
        }
    }
    void unpack() const {
        for (int a = 0; a < job.n; a += 64) {
            const int width = job.n - a < 64 ? job.n - a : 64;
            std::uint64_t row[64] = {};
            for (int i = 0; i < width; ++i) row[i] = word[job.place[a + i]];
            transpose(row);
            for (int l = 0; l < count; ++l) spread(row[l], job.spins + lane(l) * job.n + a, width);
        }
    }
    // E = sum_i s_i (h_i + f_i) / 2; single precision over 16 spins, double beyond.
    void energies() const {
        double total[L] = {};
        for (int a = 0; a < job.n; a += 16) {
            F sum[G] = {};
            for (int i = a; i < job.n && i < a + 16; ++i) {
                F f[G];
                field(i, f);
                for (int g = 0; g < G; ++g) {
                    const F x = f[g] + at(h, i, g);
                    sum[g] += add_if(-x, part(word[i], g), x + x);
                }
            }
            for (int l = 0; l < L; ++l) total[l] += static_cast<double>(sum[l / W][l % W]);
        }
        for (int l = 0; l < count; ++l) job.energy[first + l] = total[l] / 2;
    }

    // Sweeps by `draw`, which knows the arithmetic: its `heat` takes a beta a lane, its `visit` draws spin i anew.
    template <Rule rule, class Draw>
    void sweep(const Draw &draw, std::uint32_t number) {
        constexpr int some = 64;  // keys made together
        std::uint64_t key[some];
        const auto keys = [&](int from, int end, std::uint32_t pass) {
            for (int i = from; i < end; ++i)
                key[i - from] = counter::visit_key(pass, static_cast<std::uint32_t>(job.order[i]));
        };
        for (int from = 0; from < job.n; from += some) {
            const int end = from + some < job.n ? from + some : job.n;
            keys(from, end, 2 * number);
            for (int i = from; i < end; ++i) draw.template visit<rule>(i, key[i - from]);
        }
        for (int end = job.palindromic ? job.n : 0; end > 0; end -= some) {
            const int from = end > some ? end - some : 0;
            keys(from, end, 2 * number + 1);
            for (int i = end - 1; i >= from; --i) draw.template visit<rule>(i, key[i - from]);
        }
    }
    template <class Draw>
    int run(Draw &&draw) {
        if (!ready() || !draw.ready()) return -1;
        job.random_start ? scatter() : pack();
        int done = 0;
        for (; done < job.sweeps && !job.stop->load(std::memory_order_relaxed); ++done) {
            float beta[L];
            const float *now = job.beta + done * (job.beta_stride ? job.beta_stride : 1);
            for (int l = 0; l < L; ++l) beta[l] = now[job.beta_stride ? lane(l) : 0];
            draw.heat(beta);
            const std::uint32_t number = job.first_sweep + static_cast<std::uint32_t>(done);
            const bool metropolis = rule_of(job.metropolis, number) == Rule::metropolis;
            metropolis ? sweep<Rule::metropolis>(draw, number) : sweep<Rule::heat_bath>(draw, number);
        }
        unpack();
        energies();
        for (int l = 0; l < count; ++l) job.done[first + l] = done;
        return done;
    }
};

// Draws in single precision.
template <class Block>
struct Single {
    using Word = typename Block::Bits;
    static constexpr int L = Block::L, G = Block::G;
    const Block &block;
    alignas(64) float rate[L] = {};  // 2 beta / log 2

    explicit Single(const Block &b) : block(b) {}
    bool ready() const { return true; }
    void heat(const float *beta) {
        for (int l = 0; l < L; ++l) rate[l] = 2 * log2_e * beta[l];
    }
    template <Rule rule>
    __attribute__((always_inline)) inline void visit(int i, const std::uint64_t &key) const {
        constexpr int N = G < together ? G : together;
        const U v0 = low_half(key), v1 = high_half(key);
        const Word before = block.word[i];
        F f[G];
        block.field(i, f);
#pragma GCC unroll 8
        for (int first = 0; first < G; first += N) {
            F by[N];
            U low[N], high[N], random[N];
            std::uint32_t bits[N];
            each<N>([&](int g) { by[g] = load<F>(rate + W * (first + g)); });
            each<N>([&](int g) { low[g] = load<U>(block.low + W * (first + g)); });
            each<N>([&](int g) { high[g] = load<U>(block.high + W * (first + g)); });
            each<N>([&](int g) { bits[g] = rule == Rule::metropolis ? Block::part(before, first + g) : 0; });
            counter::bits<N>(low, high, v0, v1, random);
            redraw<rule, N>(f + first, by, random, bits);
            each<N>([&](int g) { put(block.word + i, first + g, bits[g]); });
        }
    }
};

}  // namespace
}  // namespace sparse
