// A block of lanes: one replica each, of one problem or of several, a bit a spin and lane. Where the bits come from and go
// to, the keys of their random numbers, their fields and their energies, whatever kernel sweeps them.
#pragma once

#include "../law/unit.hpp"
#include "../vec/array.hpp"
#include "../vec/bits.hpp"
#include "../vec/words.hpp"
#include "job.hpp"

namespace sparse {
namespace {

using namespace vec;
using counter::Halves;

// `own_h` and `own_J`: whether fields and couplings differ by lane, since lanes belong to several problems.
template <class Word, bool own_h, bool own_J>
struct Lanes {
    static constexpr int L = 8 * sizeof(Word), G = L / W;
    static constexpr int H = own_h ? L : 1, beside = own_h ? 16 : 1;

    const Job &job;
    const std::int64_t first;
    const int count;
    Array<Word> word;                 // [n], a bit a place
    Array<std::int32_t> h, twice_own;  // H: [n] or [n, L]; 2 K by neighbour and place, where couplings differ
    int lane_of[L];                   // the lane of the block at each place
    double inverse[L];                // 1 / unit
    std::uint32_t low[L], high[L], odd[L];
    bool ready = false;

    // The call's number of the lane at a place; idle places repeat the first lane.
    std::int64_t lane(int place) const { return first + (lane_of[place] < count ? lane_of[place] : 0); }
    std::int64_t problem(int place) const { return lane(place) / job.replicas; }
    double unit(int place) const { return job.unit[problem(place)]; }
    float beta(const float *now, int place) const { return now[job.beta_stride ? lane(place) : 0]; }
    const float *J(int place) const { return job.J + problem(place) * job.J_stride; }
    Halves key(int place) const { return Halves(std::uint64_t{high[place]} << 32 | low[place]); }

    // `order(place)` is the lane of the block at a place.
    template <class Order>
    Lanes(const Job &j, std::int64_t f, int c, Order order) : job(j), first(f), count(c) {
        for (int l = 0; l < L; ++l) {
            lane_of[l] = order(l);
            inverse[l] = 1 / unit(l);
            const auto replica = job.first_replica + static_cast<std::uint32_t>(lane(l) % job.replicas);
            const Halves lane_key(counter::lane_key(job.seed[problem(l)], replica >> 1));
            low[l] = lane_key.low, high[l] = lane_key.high, odd[l] = replica & 1;
        }
        const std::int64_t n = job.n;
        Array<std::int32_t> some;  // rows of H, as the caller orders spins
        ready = word.resize(n) && h.resize(n * H) && (!own_J || twice_own.resize(job.start[n] * std::int64_t{L})) &&
                some.resize(beside * n);
        if (!ready) return;
        for (int l = 0; l < H; l += beside) {
            for (int k = 0; k < beside; ++k) {
                const float *fields = job.h + problem(l + k) * n;
                std::int32_t *row = &some[k * n];
                const double by = inverse[l + k];
                for (std::int64_t i = 0; i < n; ++i) row[i] = law::units(fields[i], by);
            }
            for (std::int64_t i = 0; i < n; ++i) {
                const std::int32_t *from = &some[job.order[i]];
                for (int k = 0; k < beside; ++k) h[i * H + l + k] = from[k * n];
            }
        }
        for (int l = 0; own_J && l < L; ++l)
            for (std::int64_t e = 0; e < job.start[n]; ++e)
                twice_own[e * L + l] = 2 * law::units(J(l)[job.edge[e]], inverse[l]);
    }

    static std::uint32_t part(Word bits, int g) { return static_cast<std::uint32_t>(bits >> (W * g)) & ((1u << W) - 1); }
    __attribute__((always_inline)) inline I field_h(std::int64_t i, int g) const {
        return own_h ? load<I>(&h[i * L + W * g]) : (I)usplat(static_cast<std::uint32_t>(h[i]));
    }
    __attribute__((always_inline)) inline I coupling(std::int64_t e, int g) const {  // twice
        return own_J ? load<I>(&twice_own[e * L + W * g]) : (I)usplat(static_cast<std::uint32_t>(job.twice_K[e]));
    }
    // H_i + sum_j K_ij s_j, over all neighbours or over the neighbours j < i: H_i - sum_j K_ij, and 2 K_ij of those that
    // are +1.
    __attribute__((always_inline)) inline void field(int i, I *f) const {
        std::uint32_t sum = 0;
#pragma GCC unroll 8
        for (int g = 0; g < G; ++g) f[g] = field_h(i, g);
        for (std::int64_t e = job.start[i]; e < job.start[i + 1]; ++e) add(e, f, sum);
#pragma GCC unroll 8
        for (int g = 0; g < G; ++g) f[g] -= (I)usplat(sum);
    }
    __attribute__((always_inline)) inline void field_before(int i, I *f) const {
        std::uint32_t sum = 0;
#pragma GCC unroll 8
        for (int g = 0; g < G; ++g) f[g] = field_h(i, g);
        for (std::int64_t from = job.start[i]; from < job.start[i + 1]; from += 64) {
            const std::int64_t end = job.start[i + 1] - from < 64 ? job.start[i + 1] : from + 64;
            std::int64_t before[64];
            int count = 0;  // listed without a branch, which could not be foreseen
            for (std::int64_t e = from; e < end; ++e) before[count] = e, count += job.near[e] < i;
            for (int k = 0; k < count; ++k) add(before[k], f, sum);
        }
#pragma GCC unroll 8
        for (int g = 0; g < G; ++g) f[g] -= (I)usplat(sum);
    }
    // One neighbour; `sum` is that of K, of a shared J.
    __attribute__((always_inline)) inline void add(std::int64_t e, I *f, std::uint32_t &sum) const {
        const Word bits = word[job.near[e]];
        if (!own_J) sum += static_cast<std::uint32_t>(job.twice_K[e] >> 1);
#pragma GCC unroll 8
        for (int g = 0; g < G; ++g) {
            const I twice = coupling(e, g);
            f[g] = add_at(own_J ? f[g] - (twice >> 1) : f[g], bits, g, twice);
        }
    }

    __attribute__((noinline)) void pack() {
        for (int a = 0; a < job.n; a += 64) {
            const int width = job.n - a < 64 ? job.n - a : 64;
            std::uint64_t row[64] = {};
            for (int l = 0; l < L; ++l) row[l] = gather(job.spins + lane(l) * job.n + a, width);
            transpose(row);
            for (int i = 0; i < width; ++i) word[job.place[a + i]] = static_cast<Word>(row[i]);
        }
    }
    // Uniform spins, by the first bit of a visit.
    __attribute__((noinline)) void scatter() {
        for (int i = 0; i < job.n; ++i) {
            const Halves visit(counter::visit_key(counter::start_pass, static_cast<std::uint32_t>(job.order[i])));
            Word out = 0;
            for (int g = 0; g < G; ++g) {
                const U hash = counter::first_hash(load<U>(low + W * g), load<U>(high + W * g), usplat(visit.low),
                                                   usplat(visit.high));
                out |= static_cast<Word>(heads(hash >> (load<U>(odd + W * g) << 4) ^ 0x8000u)) << (W * g);
            }
            word[i] = out;
        }
    }
    __attribute__((noinline)) void give_spins() const {
        for (int a = 0; a < job.n; a += 64) {
            const int width = job.n - a < 64 ? job.n - a : 64;
            std::uint64_t row[64] = {};
            for (int i = 0; i < width; ++i) row[i] = word[job.place[a + i]];
            transpose(row);
            for (int l = 0; l < L; ++l)
                if (lane_of[l] < count) spread(row[l], job.spins + lane(l) * job.n + a, width);
        }
    }
    // Spins and energies, E = u sum_i s_i (H_i + sum over the neighbours j < i of K_ij s_j): a whole number of units.
    __attribute__((noinline)) void give(int sweeps) const {
        give_spins();
        std::int64_t total[L] = {};
        for (int from = 0; from < job.n; from += at_once) add_energies(from, job.n - from < at_once ? job.n : from + at_once, total);
        for (int l = 0; l < L; ++l)
            if (lane_of[l] < count) {
                job.energy[lane(l)] = static_cast<double>(total[l]) * unit(l);
                job.done[lane(l)] = sweeps;
            }
    }
    // The terms of spins from .. end - 1, added up by halves of 16 bits, so that sums of 2^15 of them fit 32.
    static constexpr int at_once = 1 << 15;
    void add_energies(int from, int end, std::int64_t *total) const {
        I low[G] = {}, high[G] = {};
        for (int i = from; i < end; ++i) {
            I f[G];
            field_before(i, f);
#pragma GCC unroll 8
            for (int g = 0; g < G; ++g) {
                const I term = minus_unless(part(word[i], g), f[g]);
                low[g] += term & 0xFFFF, high[g] += term >> 16;
            }
        }
        for (int l = 0; l < L; ++l) total[l] += low[l / W][l % W] + std::int64_t{high[l / W][l % W]} * 65536;
    }
};

}  // namespace
}  // namespace sparse
