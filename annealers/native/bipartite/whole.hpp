// A pass of the filter's blocks in which every spin is decided from its exact field, looked up in exact tables
// (tables.hpp) of four spins at a time. It adds up energies on its way: the last pass of a call is such a one, since
// from fields that are summed once more energies would cost as much as a sweep.
//
//     E = u (sum of s f over the side of the last pass + sum of s H over the other side)
//
// Sums are of integers: a number of 32 bits is added up as 2^16 upper + lower, which 32 bits hold for 2^12 spins.
#pragma once

#include "../vec/array.hpp"
#include "exact.hpp"
#include "tables.hpp"

#if defined(HAS_BYTES)
namespace bipartite {
namespace {

// Of the blocks of `Filter` (filter.hpp), over `side`.
template <class Filter>
struct Whole {
    typedef Bytes::V V;
    static constexpr int pairs = filter_lanes / 2, numbers = Bytes::size / 2, some = 4;
    static constexpr int vectors = filter_lanes / Bytes::size, at_once = 2;  // of bytes

    // What chains look up, plane by plane: 16-bit numbers in the order of lanes, so that a pair makes a word.
    struct Planes {
        alignas(64) std::uint16_t plane[exact_planes][filter_lanes];
        // The numbers of even lanes and of odd ones, of the pairs from `pair` on.
        void numbers_of(int pair, I *f) const {
            U even{}, odd{};
            for (int p = exact_planes; p-- > 0;) {
                const U both = load<U>(&plane[p][2 * pair]);
                even = (even << 6) + (both & 0xFFFFu), odd = (odd << 6) + (both >> 16);
            }
            f[0] = (I)even, f[1] = (I)odd;
        }
        std::int64_t number(int lane) const {
            std::uint32_t x = 0;
            for (int p = exact_planes; p-- > 0;) x = (x << 6) + plane[p][lane];
            return static_cast<std::int32_t>(x);
        }
    };

    Filter &filter;
    const Job &job;
    const int side;
    const std::int64_t n, row, inputs, bytes;  // spins of the side, their couplings, groups of inputs, of a table
    Array<std::uint8_t> memory;
    std::uint8_t *tables = nullptr;            // of `some` spins
    Array<std::int32_t> fields;                // [2, row]: of the other side, see `make_fields`
    Array<std::int32_t> upper, lower;          // [blocks, 2, pairs]: of the sums of s f, in even lanes and in odd ones
    Array<float> rate;                         // [blocks, 2, pairs]
    bool ready = false;

    Whole(Filter &of, int which)
        : filter(of), job(of.job), side(which), n(of.n[which]), row(job.rounded.row[which]),
          inputs(of.groups[1 - which]), bytes(table_bytes(exact_planes, row)) {
        const std::int64_t lanes = of.blocks * filter_lanes;
        if (!memory.resize(some * bytes + 64)) return;
        if (!fields.resize(2 * row) || !upper.resize(lanes) || !lower.resize(lanes) || !rate.resize(lanes)) return;
        tables = memory.data + (64 - reinterpret_cast<std::uintptr_t>(memory.data) % 64) % 64;
        ready = true;
    }

    void look_up(const std::uint8_t *table, int from, std::int64_t block, std::int64_t groups, std::uint32_t start,
                 Planes &out) const {
        for (int v = 0; v < vectors; v += at_once) {
            PlaneSums<exact_planes, at_once> sums;
            add_up(table, filter.at(from, block, 0) + v * Bytes::size, groups, start, sums);
            for (int k = 0; k < at_once; ++k) {
                const int even = 2 * (v + k) * numbers, odd = even + numbers;
                for (int p = 0; p + 1 < exact_planes; ++p) {
                    Bytes::store(&out.plane[p][even], sums.plane[p][k][0]);
                    Bytes::store(&out.plane[p][odd], sums.plane[p][k][1]);
                }
                Bytes::store(&out.plane[exact_planes - 1][even], Bytes::bit_and(sums.top[k], Bytes::all16(0xFF)));
                Bytes::store(&out.plane[exact_planes - 1][odd], Bytes::right16<8>(sums.top[k]));
            }
        }
    }
    void tally(std::int64_t at, I x) {
        store(&upper[at], load<I>(&upper[at]) + (x >> 16));
        store(&lower[at], load<I>(&lower[at]) + (x & 0xFFFF));
    }

    // New spins (or, measured, the present ones), a 16-bit number each: 0 where -1.
    template <Do what>
    void decide(const Planes &sums, std::int64_t block, Halves key, std::uint16_t *up) {
        const U v0 = usplat(key.low), v1 = usplat(key.high);
        for (int pair = 0; pair < pairs; pair += W) {
            const std::int64_t at = block * filter_lanes + pair;
            I f[2];
            sums.numbers_of(pair, f);
            std::uint32_t bits[2];
            if constexpr (what == Do::measure) {
                const U both = load<U>(&up[2 * pair]);
                bits[0] = nonzero(both & 0xFFFFu), bits[1] = nonzero(both >> 16);
            } else {
                const std::int64_t keys = block * pairs + pair;
                const U k0 = load<U>(&filter.low[keys]), k1 = load<U>(&filter.high[keys]);
                const U hash = counter::first_hash(k0, k1, v0, v1);
                const U words[2] = {(hash & 0xFFFFu) ^ 0x8000u, (hash >> 16) ^ 0x8000u};
                F x[2] = {load<F>(&rate[at]) * to_float(f[0]), load<F>(&rate[at + pairs]) * to_float(f[1])};
                redraw<Rule::heat_bath, 2>(x, words, bits, [&](int odd) {
                    const U second = counter::second_hash(k0, k1, v0, v1);
                    return odd ? second >> 16 : second & 0xFFFFu;
                });
                store(&up[2 * pair], (spread_bits(bits[0]) & 1u) | (spread_bits(bits[1]) & 0x10000u));
            }
            for (int odd = 0; odd < 2; ++odd) tally(at + odd * pairs, minus_unless(bits[odd], f[odd]));
        }
    }
    // Up to four spins from `from` on (one group), in one block.
    template <Do what>
    void visit(std::int64_t from, std::int64_t block, const std::uint64_t *key) {
        std::uint8_t *group = filter.at(side, block, from / some);
        V out[vectors];
        for (int v = 0; v < vectors; ++v) out[v] = Bytes::zero();
        const int these = static_cast<int>(n - from < some ? n - from : some);
        for (int k = 0; k < these; ++k) {
            const std::int64_t place = (side ? job.n : 0) + from + k;
            Planes sums;
            look_up(tables + k * bytes, 1 - side, block, inputs,
                    static_cast<std::uint32_t>(filter.field_of(block, place) - job.rounded.sum_K[place]), sums);
            alignas(64) std::uint16_t up[filter_lanes];
            if constexpr (what == Do::measure)
                for (int v = 0; v < vectors; ++v) {
                    const V spins = Bytes::bit_and(Bytes::load(group + v * Bytes::size), Bytes::all8(1 << k));
                    Bytes::store(&up[2 * v * numbers], Bytes::bit_and(spins, Bytes::all16(0xFF)));
                    Bytes::store(&up[(2 * v + 1) * numbers], Bytes::right16<8>(spins));
                }
            decide<what>(sums, block, Halves(key[k]), up);
            for (int v = 0; v < vectors; ++v) {
                const V even = Bytes::load(&up[2 * v * numbers]), odd = Bytes::load(&up[(2 * v + 1) * numbers]);
                const V one = Bytes::bit_or(even, Bytes::left16<8>(odd));
                out[v] = Bytes::bit_or(out[v], Bytes::left16(one, Bytes::count(k)));
            }
        }
        if constexpr (what != Do::measure)
            for (int v = 0; v < vectors; ++v) Bytes::store(group + v * Bytes::size, out[v]);
    }
    template <Do what>
    void pass(std::uint32_t number) {
        for (std::int64_t from = 0; from < n; from += some) {
            std::uint64_t key[some];
            for (int k = 0; k < some && from + k < n; ++k) {
                key[k] = counter::visit_key(number, static_cast<std::uint32_t>((side ? job.n : 0) + from + k));
                make_exact_table(job.rounded.twice_K[side] + (from + k) * row, row, tables + k * bytes);
            }
            for (std::int64_t block = 0; block < filter.blocks; ++block) visit<what>(from, block, key);
        }
    }

    // The fields H of the other side are two rows of couplings more, of their lower halves and of their upper ones: the
    // sum of s H is 2 (sum of H where s is +1) - sum of H.
    std::int64_t make_fields(std::int64_t block) {
        std::int64_t sum = 0;
        for (std::int64_t j = 0; j < filter.n[1 - side]; ++j) {
            const std::int32_t H = filter.field_of(block, (side ? 0 : job.n) + j);
            fields[j] = H & 0xFFFF, fields[row + j] = H >> 16, sum += H;
        }
        for (int half = 0; half < 2; ++half) make_exact_table(&fields[half * row], row, tables + half * bytes);
        return sum;
    }
    void energies() {
        std::int64_t sum = 0;
        for (std::int64_t block = 0; block < filter.blocks; ++block) {
            if (!block || filter.problem(block) != filter.problem(block - 1)) sum = make_fields(block);
            Planes half[2];
            for (int k = 0; k < 2; ++k) look_up(tables + k * bytes, 1 - side, block, inputs, 0, half[k]);
            for (int l = 0; l < filter.count(block); ++l) {
                const std::int64_t at = block * filter_lanes + l % 2 * pairs + l / 2;
                const std::int64_t f = upper[at] * std::int64_t{65536} + lower[at];
                const std::int64_t H = half[1].number(l) * 65536 + half[0].number(l);
                job.energy[filter.lane(block) + l] = static_cast<double>(f + 2 * H - sum) * job.unit[0];
            }
        }
    }

    // The last pass, at betas `now`; or energies of the spins as they are.
    void sweep(const float *now, std::uint32_t number) {
        for (std::int64_t block = 0; block < filter.blocks; ++block)
            for (int l = 0; l < filter_lanes; ++l) {
                const std::int64_t lane = filter.lane(block) + (l < filter.count(block) ? l : 0);
                const float beta = now[job.beta_stride ? lane : 0];
                rate[block * filter_lanes + l % 2 * pairs + l / 2] = law::rate(beta, job.unit[0]);
            }
        pass<Do::heat_bath>(number);
    }
    void measure() { pass<Do::measure>(0); }
};

}  // namespace
}  // namespace bipartite
#endif
