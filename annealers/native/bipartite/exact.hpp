// Sweeps over a bipartite problem with every field summed exactly: the right side given the left, then the left given
// the right. Replicas are lanes, a side is kept as 32 spins a word. A field is a sum of couplings to spins that are +1:
// of every four the sum is looked up among the sixteen possible ones (Arlazarov, Dinic, Kronrod and Faradzhev 1970),
// which are made for all lanes of a block. It serves where filter.hpp cannot, and adds up energies. Compiled once for
// each instruction set.
#pragma once

#include "../law/random.hpp"
#include "../law/unit.hpp"
#include "../vec/array.hpp"
#include "../vec/bits.hpp"
#include "job.hpp"
#include "sums.hpp"

namespace bipartite {
namespace {

using counter::Halves;
typedef std::int64_t Q __attribute__((vector_size(8 * W)));

enum class Do { heat_bath, metropolis, measure };

struct Exact {
    const Job &job;
    const std::int64_t first;
    const int count, L;               // lanes, and those with the idle ones that fill a vector
    const bool own;                   // lanes of several problems
    const std::int64_t n[2];          // spins of each side
    Array<std::uint32_t> word[2];     // [ceil(n / 32), L]: bit k of word i is spin 32 i + k
    Array<std::int32_t> base;         // H - the sum of K: [n + m], or [n + m, L] by lane
    Array<std::int32_t> field;        // [4, L]
    Array<std::int64_t> total;        // [L]: the sum of s f over the side `last`
    std::uint32_t low[exact_lanes], high[exact_lanes], odd[exact_lanes];
    float rate[exact_lanes];
    const int last;                   // the side that a sweep visits last
    bool tally = false;               // whether passes over that side add up s f
    bool ready = false;

    std::int64_t lane(int l) const { return first + (l < count ? l : 0); }  // idle lanes repeat the first
    std::int64_t problem(int l) const { return lane(l) / job.replicas; }
    double unit(int l) const { return job.unit[problem(l)]; }

    Exact(const Job &j, std::int64_t f, int c)
        : job(j), first(f), count(c), L((c + W - 1) / W * W), own(problem(0) != problem(c - 1)), n{j.n, j.m},
          last(j.palindromic) {
        const std::int64_t spins = n[0] + n[1], columns = own ? L : 1;
        for (int side = 0; side < 2; ++side)
            if (!word[side].resize((n[side] + 31) / 32 * L)) return;
        if (!base.resize(spins * columns) || !field.resize(4 * L) || !total.resize(L)) return;
        for (int l = 0; l < L; ++l) {
            const auto replica = job.first_replica + static_cast<std::uint32_t>(lane(l) % job.replicas);
            const Halves key(counter::lane_key(job.seed[problem(l)], replica >> 1));
            low[l] = key.low, high[l] = key.high, odd[l] = replica & 1;
        }
        for (int l = 0; l < columns; ++l) {
            const float *h = job.h + problem(l) * spins;
            const double inverse = 1 / unit(l);
            for (std::int64_t i = 0; i < spins; ++i)
                base[i * columns + l] = law::units(h[i], inverse) - job.rounded.sum_K[i];
        }
        ready = true;
    }

    static U half(U hash, U odd) { return hash >> (odd << 4) & 0xFFFFu; }
    I base_of(std::int64_t place, int l) const {
        return own ? load<I>(&base[place * L + l]) : (I)usplat(static_cast<std::uint32_t>(base[place]));
    }

    // f_i = H_i - sum_j K_ij + the 2 K_ij whose s_j is +1, of C spins from i on of a side, into `field`.
    template <int C, int V>
    void sum(int side, std::int64_t i, int at, int to = 0) {
        const std::int32_t *row[C];
        I f[C][V];
        for (int k = 0; k < C; ++k) {  // past the end of a side its last spin is repeated
            const std::int64_t spin = i + to + k < n[side] ? i + to + k : n[side] - 1;
            row[k] = job.rounded.twice_K[side] + spin * job.rounded.row[side];
            for (int v = 0; v < V; ++v) f[k][v] = base_of(side * n[0] + spin, at + W * v);
        }
        const std::uint32_t *words = &word[1 - side][at];
        const std::int64_t inputs = n[1 - side];
        for (std::int64_t j = 0; j < inputs; j += 32, words += L) {
            U bits[V];
            for (int v = 0; v < V; ++v) bits[v] = load<U>(words + W * v);
            const std::int64_t end = inputs - j < 32 ? inputs : j + 32;
            for (std::int64_t four = j; four < end; four += 4) {
#pragma GCC unroll 4
                for (int k = 0; k < C; ++k) {
                    const Sums sums(row[k] + four);
                    for (int v = 0; v < V; ++v) f[k][v] = sums.add(f[k][v], bits[v]);
                }
                for (int v = 0; v < V; ++v) bits[v] >>= 4;
            }
        }
        for (int k = 0; k < C; ++k)
            for (int v = 0; v < V; ++v) store(&field[(to + k) * L + at + W * v], f[k][v]);
    }
    // Those of spins i .. i + 3 in all lanes.
    void sum(int side, std::int64_t i) {
        int at = 0;
        for (; at + widest * W <= L; at += widest * W)
            for (int to = 0; to < 4; to += outputs) sum<outputs, widest>(side, i, at, to);
        for (; at < L; at += W) sum<4, 1>(side, i, at);
    }

    // Spins i .. i + 3 of a side, in the fields that `sum` left.
    template <Do what>
    void decide(int side, std::int64_t i, std::uint32_t pass) {
        std::uint32_t *now = &word[side][i / 32 * L];
        const int some = n[side] - i < 4 ? static_cast<int>(n[side] - i) : 4;
        for (int k = 0; k < some; ++k) {
            const std::uint32_t one = 1u << (i + k) % 32;
            const Halves visit(counter::visit_key(pass, static_cast<std::uint32_t>(side * n[0] + i + k)));
            const U v0 = usplat(visit.low), v1 = usplat(visit.high);
            for (int l = 0; l < L; l += W) {
                const I f = load<I>(&field[k * L + l]);
                U spins = load<U>(now + l);
                std::uint32_t bits = nonzero(spins & one);
                if constexpr (what != Do::measure) {
                    constexpr Rule rule = what == Do::heat_bath ? Rule::heat_bath : Rule::metropolis;
                    const U k0 = load<U>(low + l), k1 = load<U>(high + l), o = load<U>(odd + l);
                    const U upper = half(counter::first_hash(k0, k1, v0, v1), o) ^ 0x8000u;
                    F x = load<F>(rate + l) * to_float(f);
                    const auto lower = [&](int) { return half(counter::second_hash(k0, k1, v0, v1), o); };
                    redraw<rule, 1>(&x, &upper, &bits, lower);
                    spins = (spins & ~one) | (spread_bits(bits) & one);
                    store(now + l, spins);
                }
                if (tally && side == last) add_up(l, minus_unless(bits, f));
            }
        }
    }
    void add_up(int l, I x) {
        store(&total[l], load<Q>(&total[l]) + __builtin_convertvector(x, Q));
    }
    template <Do what>
    void pass(int side, std::uint32_t number) {
        if (tally && side == last)
            for (int l = 0; l < L; ++l) total[l] = 0;
        for (std::int64_t i = 0; i < n[side]; i += 4) sum(side, i), decide<what>(side, i, number);
    }
    template <Do what>
    void sweep(std::uint32_t number) {
        pass<what>(1, 2 * number);
        pass<what>(0, 2 * number);
        if (job.palindromic) pass<what>(1, 2 * number + 1);
    }

    // Uniform spins.
    void scatter() {
        for (int side = 0; side < 2; ++side)
            for (std::int64_t i = 0; i < n[side]; ++i) {
                const auto spin = static_cast<std::uint32_t>(side * n[0] + i);
                const Halves visit(counter::visit_key(counter::start_pass, spin));
                for (int l = 0; l < L; l += W) {
                    const U hash = counter::first_hash(load<U>(low + l), load<U>(high + l), usplat(visit.low),
                                                       usplat(visit.high));
                    const std::uint32_t up = heads(half(hash, load<U>(odd + l)) ^ 0x8000u);
                    std::uint32_t *now = &word[side][i / 32 * L + l];
                    store(now, load<U>(now) | (spread_bits(up) & (1u << i % 32)));
                }
            }
    }
    void pack() {
        for (int side = 0; side < 2; ++side)
            for (std::int64_t i = 0; i < n[side]; i += 32)
                for (int l = 0; l < L; ++l) {
                    const std::int8_t *from = job.spins + lane(l) * (n[0] + n[1]) + side * n[0] + i;
                    const int width = n[side] - i < 32 ? static_cast<int>(n[side] - i) : 32;
                    word[side][i / 32 * L + l] = static_cast<std::uint32_t>(gather(from, width));
                }
    }
    void unpack() const {
        for (int side = 0; side < 2; ++side)
            for (std::int64_t i = 0; i < n[side]; i += 32)
                for (int l = 0; l < count; ++l) {
                    std::int8_t *to = job.spins + lane(l) * (n[0] + n[1]) + side * n[0] + i;
                    const int width = n[side] - i < 32 ? static_cast<int>(n[side] - i) : 32;
                    spread(word[side][i / 32 * L + l], to, width);
                }
    }

    // E = u (sum of s f over one side + sum of s H over the other).
    void energies() {
        if (!tally) tally = true, pass<Do::measure>(last, 0);
        const int other = 1 - last;
        for (std::int64_t i = 0; i < n[other]; ++i)
            for (int l = 0; l < L; l += W) {
                const std::int64_t place = other * n[0] + i;
                const I H = base_of(place, l) + static_cast<std::int32_t>(job.rounded.sum_K[place]);
                add_up(l, minus_unless(nonzero(load<U>(&word[other][i / 32 * L + l]) & (1u << i % 32)), H));
            }
        for (int l = 0; l < count; ++l) job.energy[first + l] = static_cast<double>(total[l]) * unit(l);
    }

    int run() {
        if (!ready) return -1;
        job.random_start ? scatter() : pack();
        int done = 0;
        for (; done < job.sweeps && !job.stop->load(std::memory_order_relaxed); ++done) {
            const float *now = job.beta + done * (job.beta_stride ? job.beta_stride : 1);
            for (int l = 0; l < L; ++l) rate[l] = law::rate(now[job.beta_stride ? lane(l) : 0], unit(l));
            const std::uint32_t number = job.first_sweep + static_cast<std::uint32_t>(done);
            tally = done + 1 == job.sweeps;
            const bool metropolis = law::rule_of(job.metropolis, number) == Rule::metropolis;
            metropolis ? sweep<Do::metropolis>(number) : sweep<Do::heat_bath>(number);
        }
        energies();
        unpack();
        for (int l = 0; l < count; ++l) job.done[first + l] = done;
        return done;
    }
};

int run_exact(const Job &job, std::int64_t first, int count) { return Exact(job, first, count).run(); }

}  // namespace
}  // namespace bipartite
