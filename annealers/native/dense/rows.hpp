// The dense kernel: fields are kept, in whole units, and a flip adds or subtracts a row of 2 K.
//
// Rows and fields are cut into stretches of as many numbers as a tile has spins, and the same stretch of all of them
// lies side by side. Spins are decided one by one for up to 64 replicas at once; a flip reaches its own tile's stretch
// there and then, and the others when the tile is through. Then a stretch of fields is loaded and stored once for all
// flips of its replica, and the tile's rows serve all replicas from the nearest cache. Sums of whole numbers are the
// same in any order.
#pragma once

#include "../law/unit.hpp"
#include "../vec/array.hpp"
#include "../vec/bits.hpp"
#include "../vec/words.hpp"
#include "job.hpp"

namespace dense {
namespace {

using namespace vec;
using counter::Halves;

constexpr int line = 16;           // numbers of 64 bytes

inline int aligned(const void *p) {  // numbers to the next line
    return (line - static_cast<int>(reinterpret_cast<std::uintptr_t>(p) % 64 / 4)) % line;
}

// rint(J / u), doubled, by stretches. A sum with 1.5 2^52 is rounded to a whole number, which its low bits hold.
inline void round_rows(const Job &job, const float *J, double unit, std::int32_t *twice_K) {
    typedef double D __attribute__((vector_size(8 * W)));
    typedef std::int64_t Long __attribute__((vector_size(8 * W)));
    const double inverse = 1 / unit;
    const std::int64_t given = job.row < job.stretches() * tile ? job.row : job.stretches() * tile;
    for (std::int64_t i = 0; i < job.n; ++i)
        for (std::int64_t a = 0; a < given; a += W) {
            const D shifted = __builtin_convertvector(load<F>(J + i * job.row + a), D) * inverse + 0x1.8p52;
            store(twice_K + (a / tile * job.n + i) * tile + a % tile, __builtin_convertvector((Long)shifted, I) * 2);
        }
    for (std::int64_t i = 0; i < job.n; ++i)  // past the end of a row
        for (std::int64_t a = given; a < job.stretches() * tile; a += W)
            store(twice_K + (a / tile * job.n + i) * tile + a % tile, I{});
}

struct Rows {
    const Job &job;
    const std::int64_t first;
    const int count, places;           // lanes, and what holds them: pairs of vectors, of even lanes and odd ones
    Array<std::int32_t> memory, own;   // fields; 2 K of the block's problems where they are not shared
    std::int32_t *f;                   // [stretches, places, tile]
    Array<std::uint64_t> up;           // [n], a bit a place
    const std::int32_t *twice_K[lanes];
    bool ready = false;
    bool paired = true;                // whether vectors 2 k and 2 k + 1 hold the replicas of the same pairs
    std::uint64_t taken = 0;           // places that hold a lane
    alignas(64) std::uint32_t low[lanes], high[lanes], odd[lanes];
    alignas(64) float rate[lanes];

    static int lane_at(int place) { return place / (2 * W) * 2 * W + 2 * (place % W) + place / W % 2; }
    std::int64_t lane(int place) const { return first + (lane_at(place) < count ? lane_at(place) : 0); }
    std::int64_t problem(int place) const { return lane(place) / job.replicas; }

    Rows(const Job &j, std::int64_t start, int c)
        : job(j), first(start), count(c), places((c + 2 * W - 1) / (2 * W) * 2 * W) {
        const std::int64_t size = job.rows_size(), from = first / job.replicas;
        const std::int64_t problems = (first + count - 1) / job.replicas - from + 1;
        ready = memory.resize(job.stretches() * places * tile + line) && up.resize(job.n) &&
                (job.twice_K || own.resize(problems * size + line));
        if (!ready) return;
        f = memory.data + aligned(memory.data);
        std::int32_t *mine = own.data ? own.data + aligned(own.data) : nullptr;
        for (std::int64_t p = 0; !job.twice_K && p < problems; ++p)
            round_rows(job, job.J + (from + p) * job.J_stride, job.unit[from + p], mine + p * size);
        for (int p = 0; p < places; ++p) {
            if (lane_at(p) < count) taken |= std::uint64_t{1} << p;
            twice_K[p] = job.twice_K ? job.twice_K : mine + (problem(p) - from) * size;
            const auto replica = static_cast<std::uint32_t>(lane(p) % job.replicas);
            const Halves key(counter::lane_key(job.seed[problem(p)], replica >> 1));
            low[p] = key.low, high[p] = key.high, odd[p] = replica & 1;
        }
        for (int p = 0; p < places; ++p) paired = paired && low[p] == low[p ^ W] && high[p] == high[p ^ W];
    }

    // Stretch b of the fields at a place, and of row i.
    std::int32_t *fields(std::int64_t b, int place) const { return f + (b * places + place) * tile; }
    const std::int32_t *row(int place, std::int64_t b, std::int64_t i) const {
        return twice_K[place] + (b * job.n + i) * tile;
    }

    // A lane's flips in a tile: the spins to add, and those to subtract.
    struct Flips {
        int added = 0, subtracted = 0;
        std::int32_t add[tile], subtract[tile];
    };
    Flips flips[lanes];

    // All flips at a place, in stretch b.
    void change(int place, std::int64_t b) {
        constexpr int V = tile / W < 8 ? tile / W : 8;
        const Flips &mine = flips[place];
        for (int a = 0; a < tile; a += V * W) {
            std::int32_t *field = fields(b, place) + a;
            const std::int32_t *rows = row(place, b, 0) + a;
            I x[V];
            each<V>([&](int v) { x[v] = load<I>(field + W * v); });
            for (int k = 0; k < mine.added; ++k) {
                const std::int32_t *one = rows + mine.add[k] * std::int64_t{tile};
                each<V>([&](int v) { x[v] += load<I>(one + W * v); });
            }
            for (int k = 0; k < mine.subtracted; ++k) {
                const std::int32_t *one = rows + mine.subtract[k] * std::int64_t{tile};
                each<V>([&](int v) { x[v] -= load<I>(one + W * v); });
            }
            each<V>([&](int v) { store(field + W * v, x[v]); });
        }
    }
    // Row i of a stretch, or where that is negative, all those by which the fields at a place change.
    void fetch(int place, std::int64_t b, std::int64_t i) const {
        const auto get = [&](std::int64_t one) {
            for (int a = 0; a < tile; a += line) __builtin_prefetch(row(place, b, one) + a);
        };
        if (i >= 0) return get(i);
        const Flips &mine = flips[place];
        for (int k = 0; k < mine.added; ++k) get(mine.add[k]);
        for (int k = 0; k < mine.subtracted; ++k) get(mine.subtract[k]);
    }
    // The flips of a tile reach all stretches but its own, number `but`, or all where that is -1. While they change one
    // stretch, rows of the next are fetched: one for each lane where there are many, or all that few lanes need. Lanes with as many rows follow each other, so that the
    // processor can foresee where its loops end.
    void spread_out(std::int64_t but) {
        int order[lanes] = {}, some = 0;
        std::uint32_t number[lanes];
        for (std::uint64_t rest = taken; rest; rest &= rest - 1) {
            const int p = __builtin_ctzll(rest);
            const auto mine = static_cast<std::uint32_t>(flips[p].added * (tile + 1) + flips[p].subtracted);
            if (!mine) continue;
            int at = some++;
            for (; at > 0 && number[at - 1] > mine; --at) number[at] = number[at - 1], order[at] = order[at - 1];
            number[at] = mine, order[at] = p;
        }
        for (std::int64_t b = 0; b < job.stretches(); ++b)
            for (int k = 0; k < some && b != but; ++k) {
                if (b + 1 < job.stretches()) fetch(order[k], b + 1, some < tile / 2 ? -1 : but * tile + k);
                change(order[k], b);
            }
        for (int k = 0; k < some; ++k) flips[order[k]].added = flips[order[k]].subtracted = 0;
    }

    // f = H - sum K + 2 K of the spins that are +1.
    void sum() {
        for (int p = 0; p < places; ++p) {
            if (!(taken >> p & 1)) continue;
            int same = 0;  // a place before, of the same problem
            while (!(taken >> same & 1) || problem(same) != problem(p)) ++same;
            if (same == p) base(p);
            for (std::int64_t b = 0; b < job.stretches() && same != p; ++b)
                std::memcpy(fields(b, p), fields(b, same), sizeof(std::int32_t) * tile);
        }
        for (std::int64_t from = 0; from < job.n; from += tile) {
            for (std::int64_t i = from; i < job.n && i < from + tile; ++i)
                note(up[i] & taken, i, &Flips::added, &Flips::add);
            spread_out(-1);
        }
    }
    void base(int p) {
        const float *h = job.h + problem(p) * job.n;
        const double inverse = 1 / job.unit[problem(p)];
        for (std::int64_t b = 0; b < job.stretches(); ++b)
            for (std::int64_t i = 0; i < job.n; ++i)
                for (int a = 0; a < tile; a += W)
                    store(fields(b, p) + a, load<I>(fields(b, p) + a) - (load<I>(row(p, b, i) + a) >> 1));
        for (std::int64_t i = 0; i < job.n; ++i) fields(i / tile, p)[i % tile] += law::units(h[i], inverse);
    }
    // Spin i of some places is to be added, or subtracted.
    void note(std::uint64_t some, std::int64_t i, int Flips::*number, std::int32_t (Flips::*list)[tile]) {
        for (; some; some &= some - 1) {
            Flips &mine = flips[__builtin_ctzll(some)];
            (mine.*list)[(mine.*number)++] = static_cast<std::int32_t>(i);
        }
    }

    U hash(int g, Halves visit) const {
        return counter::first_hash(load<U>(low + W * g), load<U>(high + W * g), usplat(visit.low), usplat(visit.high));
    }
    U half(U word, int g) const { return word >> (load<U>(odd + W * g) << 4) & 0xFFFFu; }

    void scatter() {
        for (std::int64_t i = 0; i < job.n; ++i) {
            const Halves visit(counter::visit_key(counter::start_pass, static_cast<std::uint32_t>(i)));
            up[i] = 0;
            for (int g = 0; g < places / W; ++g)
                up[i] |= std::uint64_t{heads(half(hash(g, visit), g) ^ 0x8000u)} << (W * g);
        }
    }
    void pack() {
        for (std::int64_t a = 0; a < job.n; a += 64) {
            const int width = job.n - a < 64 ? static_cast<int>(job.n - a) : 64;
            std::uint64_t row[64] = {};
            for (int p = 0; p < places; ++p) row[p] = gather(job.spins + lane(p) * job.n + a, width);
            transpose(row);
            for (int i = 0; i < width; ++i) up[a + i] = row[i];
        }
    }
    // Spins, and energies: E = u sum_i s_i (H_i + f_i) / 2, a whole number of units.
    void give(int sweeps) const {
        for (std::int64_t a = 0; a < job.n; a += 64) {
            const int width = job.n - a < 64 ? static_cast<int>(job.n - a) : 64;
            std::uint64_t row[64] = {};
            for (int i = 0; i < width; ++i) row[i] = up[a + i];
            transpose(row);
            for (std::uint64_t rest = taken; rest; rest &= rest - 1) {
                const int p = __builtin_ctzll(rest);
                spread(row[p], job.spins + lane(p) * job.n + a, width);
            }
        }
        for (std::uint64_t rest = taken; rest; rest &= rest - 1) {
            const int p = __builtin_ctzll(rest);
            const std::int8_t *spin = job.spins + lane(p) * job.n;
            const float *h = job.h + problem(p) * job.n;
            const double unit = job.unit[problem(p)], inverse = 1 / unit;
            std::int64_t total = 0;
            for (std::int64_t i = 0; i < job.n; ++i)
                total += spin[i] * (std::int64_t{law::units(h[i], inverse)} + fields(i / tile, p)[i % tile]);
            job.energy[lane(p)] = static_cast<double>(total) * unit / 2;
            job.done[lane(p)] = sweeps;
        }
    }

    // Two vectors of spin i: the new bits of their places.
    template <Rule rule>
    __attribute__((always_inline)) inline std::uint64_t draw(std::int64_t i, int g, Halves visit,
                                                             std::uint64_t before) const {
        F x[2];
        U word[2], upper[2];
        std::uint32_t bits[2];
        each<2>([&](int v) {
            const std::int32_t *field = fields(i / tile, W * (g + v)) + i % tile;
            I own;
#pragma GCC unroll 16
            for (int l = 0; l < W; ++l) own[l] = field[l * tile];
            x[v] = load<F>(rate + W * (g + v)) * to_float(own);
        });
        each<2>([&](int v) { word[v] = paired && v ? word[0] : hash(g + v, visit); });
        each<2>([&](int v) { upper[v] = half(word[v], g + v) ^ 0x8000u; });
        each<2>([&](int v) { bits[v] = static_cast<std::uint32_t>(before >> (W * (g + v))) & ((1u << W) - 1); });
        redraw<rule, 2>(x, upper, bits, [&](int v) {
            const U lane_low = load<U>(low + W * (g + v)), lane_high = load<U>(high + W * (g + v));
            return half(counter::second_hash(lane_low, lane_high, usplat(visit.low), usplat(visit.high)), g + v);
        });
        return (std::uint64_t{bits[0]} | std::uint64_t{bits[1]} << W) << (W * g);
    }
    // Spins from .. end - 1, a tile, forward (step 1) or back (-1).
    template <Rule rule>
    void visit(std::int64_t from, std::int64_t end, int step, std::uint32_t pass) {
        for (std::int64_t k = from; k < end; ++k) {
            const std::int64_t i = step > 0 ? k : end - 1 - (k - from);
            const Halves key(counter::visit_key(pass, static_cast<std::uint32_t>(i)));
            const std::uint64_t before = up[i];
            std::uint64_t after = 0;
            for (int g = 0; g < places / W; g += 2) after |= draw<rule>(i, g, key, before);
            up[i] = after;
            const std::uint64_t risen = after & ~before & taken, fallen = before & ~after & taken;
            note(risen, i, &Flips::added, &Flips::add);
            note(fallen, i, &Flips::subtracted, &Flips::subtract);
            for (std::uint64_t rest = risen; rest; rest &= rest - 1) {
                std::int32_t *field = fields(i / tile, __builtin_ctzll(rest));
                const std::int32_t *by = row(__builtin_ctzll(rest), i / tile, i);
                for (int a = 0; a < tile; a += W) store(field + a, load<I>(field + a) + load<I>(by + a));
            }
            for (std::uint64_t rest = fallen; rest; rest &= rest - 1) {
                std::int32_t *field = fields(i / tile, __builtin_ctzll(rest));
                const std::int32_t *by = row(__builtin_ctzll(rest), i / tile, i);
                for (int a = 0; a < tile; a += W) store(field + a, load<I>(field + a) - load<I>(by + a));
            }
        }
        spread_out(from / tile);
    }
    template <Rule rule>
    void sweep(std::uint32_t number) {
        const auto next = [&](std::int64_t from, int step, std::uint32_t pass) {
            visit<rule>(from, job.n - from < tile ? job.n : from + tile, step, pass);
        };
        for (std::int64_t from = 0; from < job.n; from += tile) next(from, 1, 2 * number);
        if (job.palindromic)
            for (std::int64_t from = (job.n - 1) / tile * tile; from >= 0; from -= tile) next(from, -1, 2 * number + 1);
    }
    int run() {
        if (!ready) return -1;
        job.random_start ? scatter() : pack();
        sum();
        int done = 0;
        for (; done < job.sweeps && !stopped(job.halt); ++done) {
            const float *beta = job.beta + done * (job.beta_stride ? job.beta_stride : 1);
            for (int p = 0; p < places; ++p)
                rate[p] = law::rate(beta[job.beta_stride ? lane(p) : 0], job.unit[problem(p)]);
            const std::uint32_t number = job.first_sweep + static_cast<std::uint32_t>(done);
            const bool metropolis = law::rule_of(job.metropolis, number) == Rule::metropolis;
            metropolis ? sweep<Rule::metropolis>(number) : sweep<Rule::heat_bath>(number);
        }
        give(done);
        return done;
    }
};

inline int run_rows(const Job &job, std::int64_t first, int count) { return Rows(job, first, count).run(); }

}  // namespace
}  // namespace dense
