// Sweeps over a bipartite problem with every field summed exactly: the right side given the left, then the left given
// the right. Outputs, 32 spins of a side, lie side by side in vectors, chains one after the other; the sums of a chain's
// fields are looked up (sums.hpp). It serves where filter.hpp cannot. Compiled once for each instruction set.
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
    const std::int64_t first, count;  // chains
    const std::int64_t n[2], tiles[2];  // spins of each side, and words of them
    const std::int64_t problems;      // of these chains
    Array<std::uint32_t> word[2];     // [tiles, chains]: bit k of a word of tile t is spin 32 t + k
    Array<std::int32_t> H[2];         // [problems, 32 tiles]
    Array<std::int32_t> start[2];     // the same: H - the sum of K
    Array<std::uint32_t> visit[2];    // [32 longest tiles]: keys of a pass over a side, lower and upper halves
    Array<std::int32_t> field;        // [chains, 32]: of a tile
    Array<std::int64_t> total;        // [chains, W]: the sum of s f over the side `last`
    std::uint32_t low[exact_lanes], high[exact_lanes];  // keys of chains
    bool odd[exact_lanes];
    float rate[exact_lanes];
    const int last;                   // the side that a sweep visits last
    Sums sums;                        // of 32 inputs, for a tile
    bool tally = false;               // whether passes over that side add up s f
    bool ready = false;

    std::int64_t lane(std::int64_t r) const { return first + r; }
    std::int64_t problem(std::int64_t r) const { return lane(r) / job.replicas; }
    std::int64_t problem_here(std::int64_t r) const { return problem(r) - problem(0); }

    Exact(const Job &j, std::int64_t f, int c)
        : job(j), first(f), count(c), n{j.n, j.m}, tiles{(j.n + width - 1) / width, (j.m + width - 1) / width},
          problems(problem(c - 1) - problem(0) + 1), last(j.last()) {
        const std::int64_t longest = width * (tiles[0] > tiles[1] ? tiles[0] : tiles[1]);
        for (int side = 0; side < 2; ++side) {
            const std::int64_t fields = problems * width * tiles[side];
            if (!word[side].resize(tiles[side] * count) || !visit[side].resize(longest)) return;
            if (!H[side].resize(fields) || !start[side].resize(fields)) return;
        }
        if (!field.resize(count * width) || !total.resize(count * W)) return;
        for (std::int64_t r = 0; r < count; ++r) {
            const auto replica = job.first_replica + static_cast<std::uint32_t>(lane(r) % job.replicas);
            const Halves key(counter::lane_key(job.seed[problem(r)], replica >> 1));
            low[r] = key.low, high[r] = key.high, odd[r] = replica & 1;
        }
        for (std::int64_t p = 0; p < problems; ++p)
            for (int side = 0; side < 2; ++side) {
                const std::int64_t from = side ? n[0] : 0, to = p * width * tiles[side];
                const float *h = job.h + (problem(0) + p) * (n[0] + n[1]) + from;
                for (std::int64_t i = 0; i < n[side]; ++i) {
                    H[side][to + i] = law::units(h[i], 1 / job.unit[0]);
                    start[side][to + i] = H[side][to + i] - job.rounded.sum_K[from + i];
                }
            }
        ready = true;
    }

    // Of the spins of a side, in a pass.
    void make_keys(int side, std::uint32_t pass) {
        for (std::int64_t i = 0; i < n[side]; ++i) {
            const Halves key(counter::visit_key(pass, static_cast<std::uint32_t>(side * n[0] + i)));
            visit[0][i] = key.low, visit[1][i] = key.high;
        }
    }
    // Whether the next chain is the odd one of a pair, whose hash is that of this one.
    bool paired(std::int64_t r) const {
        return r + 1 < count && !odd[r] && odd[r + 1] && low[r] == low[r + 1] && high[r] == high[r + 1];
    }

    // f_i = H_i - sum_j K_ij + the 2 K_ij whose s_j is +1, of the spins of a tile, into `field`.
    void sum(int side, std::int64_t tile) {
        for (std::int64_t r = 0; r < count; ++r)
            std::memcpy(&field[r * width], &start[side][(problem_here(r) * tiles[side] + tile) * width],
                        width * sizeof(std::int32_t));
        const std::int64_t inputs = n[1 - side], row = job.rounded.row[1 - side];
        const std::int32_t *rows = job.rounded.twice_K[1 - side] + tile * width;
        for (std::int64_t t = 0; t < tiles[1 - side]; ++t, rows += width * row) {
            const int some = static_cast<int>(inputs - t * width < width ? inputs - t * width : width);
            const std::uint32_t *words = &word[1 - side][t * count];
            tabulate(rows, row, some, sums);
            some == width ? look_up<true>(sums, fours, words, count, &field[0])
                          : look_up<false>(sums, (some + 3) / 4, words, count, &field[0]);
        }
    }

    // The spins of a tile, of `chains` chains that share a hash, in the fields that `sum` left.
    template <Do what, int chains>
    void decide(int side, std::int64_t tile, std::int64_t r) {
        constexpr int some = together / 2 < vectors ? together / 2 : vectors, N = some * chains;
        constexpr Rule rule = what == Do::metropolis ? Rule::metropolis : Rule::heat_bath;
        const U k0 = usplat(low[r]), k1 = usplat(high[r]);
        const std::uint32_t *v0 = &visit[0][tile * width], *v1 = &visit[1][tile * width];
        std::uint32_t *now = &word[side][tile * count + r], next[chains] = {};
        for (int v = 0; v < vectors; v += some) {
            const auto shift = [&](int g) { return chains == 2 ? g % 2 * 16 : odd[r] * 16; };
            const auto at = [&](int g) { return (v + g / chains) * W; };
            U upper[N];
            F x[N];
            std::uint32_t bits[N];
#pragma GCC unroll 4
            for (int g = 0; g < N; g += chains) {
                const U hash = counter::first_hash(k0, k1, load<U>(v0 + at(g)), load<U>(v1 + at(g)));
#pragma GCC unroll 2
                for (int c = g; c < g + chains; ++c) upper[c] = (hash >> shift(c) & 0xFFFFu) ^ 0x8000u;
            }
#pragma GCC unroll 8
            for (int g = 0; g < N; ++g) {
                x[g] = splat(rate[r + g % chains]) * to_float(load<I>(&field[(r + g % chains) * width + at(g)]));
                bits[g] = now[g % chains] >> at(g) & ((1u << W) - 1);
            }
            const auto lower = [&](int g) {
                return counter::second_hash(k0, k1, load<U>(v0 + at(g)), load<U>(v1 + at(g))) >> shift(g) & 0xFFFFu;
            };
            redraw<rule, N>(x, upper, bits, lower);
            for (int g = 0; g < N; ++g) next[g % chains] |= bits[g] << at(g);
        }
        for (int c = 0; c < chains; ++c) now[c] = next[c] & present(side, tile);
    }
    std::uint32_t present(int side, std::int64_t tile) const {  // bits of spins that there are
        return n[side] - tile * width < width ? (1u << (n[side] - tile * width)) - 1 : ~0u;
    }
    template <Do what>
    void decide(int side, std::int64_t tile) {
        for (std::int64_t r = 0; r < count; ++r)
            if (paired(r)) decide<what, 2>(side, tile, r++);
            else decide<what, 1>(side, tile, r);
    }

    // total += the sum of s x over a tile of a side; x is 0 past the side's end.
    void add_up(int side, std::int64_t tile, std::int64_t r, const std::int32_t *x) {
        const std::uint32_t bits = word[side][tile * count + r];
        Q sum = load<Q>(&total[r * W]);
        for (int v = 0; v < width; v += W)
            sum += __builtin_convertvector(minus_unless(bits >> v & ((1u << W) - 1), load<I>(x + v)), Q);
        store(&total[r * W], sum);
    }
    template <Do what>
    void pass(int side, std::uint32_t number) {
        const bool adds = tally && side == last;
        if (adds) std::memset(&total[0], 0, static_cast<std::size_t>(count * W) * sizeof total[0]);
        if (what != Do::measure) make_keys(side, number);
        for (std::int64_t tile = 0; tile < tiles[side]; ++tile) {
            sum(side, tile);
            if constexpr (what != Do::measure) decide<what>(side, tile);
            if (adds)
                for (std::int64_t r = 0; r < count; ++r) add_up(side, tile, r, &field[r * width]);
        }
    }
    template <Do what>
    void sweep(std::uint32_t number) {
        pass<what>(1, 2 * number);
        pass<what>(0, 2 * number);
        if (job.palindromic) pass<what>(1, 2 * number + 1);
    }

    // Uniform spins.
    void scatter() {
        for (int side = 0; side < 2; ++side) {
            make_keys(side, counter::start_pass);
            for (std::int64_t tile = 0; tile < tiles[side]; ++tile)
                for (std::int64_t r = 0; r < count; ++r) {
                    std::uint32_t up = 0;
                    for (int v = 0; v < width; v += W) {
                        const U v0 = load<U>(&visit[0][tile * width + v]), v1 = load<U>(&visit[1][tile * width + v]);
                        const U hash = counter::first_hash(usplat(low[r]), usplat(high[r]), v0, v1);
                        up |= heads((hash >> odd[r] * 16 & 0xFFFFu) ^ 0x8000u) << v;
                    }
                    word[side][tile * count + r] = up & present(side, tile);
                }
        }
    }
    // Between rows of bytes and words, `work(bytes, word, spins)`.
    template <class Work>
    void each_word(Work work) const {
        for (std::int64_t r = 0; r < count; ++r)
            for (int side = 0; side < 2; ++side)
                for (std::int64_t tile = 0; tile < tiles[side]; ++tile) {
                    const std::int64_t left = n[side] - tile * width;
                    work(job.spins + lane(r) * (n[0] + n[1]) + side * n[0] + tile * width, word[side][tile * count + r],
                         static_cast<int>(left < width ? left : width));
                }
    }
    void pack() {
        each_word([](const std::int8_t *from, std::uint32_t &to, int spins) {
            to = static_cast<std::uint32_t>(gather(from, spins));
        });
    }
    void unpack() const {
        each_word([](std::int8_t *to, std::uint32_t from, int spins) { spread(from, to, spins); });
    }

    // E = u (sum of s f over one side + sum of s H over the other).
    void energies() {
        if (!tally) tally = true, pass<Do::measure>(last, 0);
        const int other = 1 - last;
        for (std::int64_t r = 0; r < count; ++r) {
            for (std::int64_t tile = 0; tile < tiles[other]; ++tile)
                add_up(other, tile, r, &H[other][(problem_here(r) * tiles[other] + tile) * width]);
            std::int64_t sum = 0;
            for (int l = 0; l < W; ++l) sum += total[r * W + l];
            job.energy[lane(r)] = static_cast<double>(sum) * job.unit[0];
        }
    }

    int run() {
        if (!ready) return -1;
        job.random_start ? scatter() : pack();
        int done = 0;
        for (; done < job.sweeps && !stopped(job.halt); ++done) {
            const float *now = job.beta + done * (job.beta_stride ? job.beta_stride : 1);
            for (std::int64_t r = 0; r < count; ++r)
                rate[r] = law::rate(now[job.beta_stride ? lane(r) : 0], job.unit[0]);
            const std::uint32_t number = job.first_sweep + static_cast<std::uint32_t>(done);
            tally = done + 1 == job.sweeps;
            const bool metropolis = law::rule_of(job.metropolis, number) == Rule::metropolis;
            metropolis ? sweep<Do::metropolis>(number) : sweep<Do::heat_bath>(number);
        }
        energies();
        unpack();
        for (std::int64_t r = 0; r < count; ++r) job.done[lane(r)] = done;
        return done;
    }
};

int run_exact(const Job &job, std::int64_t first, int count) { return Exact(job, first, count).run(); }

}  // namespace
}  // namespace bipartite
