// The sparse kernel for a few replicas: SIMD lanes are spins of one colour, W of them at a time. The order of visits, the
// order of neighbours, the arithmetic and the random numbers are those of the lanes of replicas, and so are the bits.
#pragma once

#include "array.hpp"
#include "simd.hpp"

namespace sparse {
namespace {

template <int R>
struct Colours {
    struct Group {
        int at, spins, depth;  // spins at .. at + spins - 1, of at most `depth` neighbours
        std::int64_t ends;     // their first row of W neighbours
    };

    const Job &job;
    const std::int64_t first;
    const int count;
    std::int64_t size = 0;           // groups
    Array<Group> groups;
    Array<std::int32_t> near, name;  // [rows, W], padded with spin 0; the caller's numbers, [groups, W]
    Array<float> J2, h, base;        // 2 J, padded with 0; h and h - sum J, [groups, W]
    Array<std::uint32_t> word;       // [n], a bit a replica
    Array<float> term;               // [R, n], for the energies
    bool ready = false;
    std::uint32_t low[R], high[R];

    std::int64_t lane(int r) const { return first + (r < count ? r : 0); }  // idle ones repeat the first

    Colours(const Job &j, std::int64_t f, int c) : job(j), first(f), count(c) {
        for (int r = 0; r < R; ++r) {
            const std::uint64_t key =
                counter::lane_key(job.seed[0], job.first_replica + static_cast<std::uint32_t>(lane(r)));
            low[r] = static_cast<std::uint32_t>(key), high[r] = static_cast<std::uint32_t>(key >> 32);
        }
        for (int colour = 0; colour < job.colours; ++colour)
            size += (job.colour[colour + 1] - job.colour[colour] + W - 1) / W;
        if (!groups.resize(size)) return;
        std::int64_t rows = 0, made = 0;
        for (int colour = 0; colour < job.colours; ++colour)
            for (int at = job.colour[colour]; at < job.colour[colour + 1]; at += W) {
                const int end = job.colour[colour + 1], spins = end - at < W ? end - at : W;
                int depth = 0;
                for (int i = at; i < at + spins; ++i)
                    depth = job.start[i + 1] - job.start[i] > depth ? job.start[i + 1] - job.start[i] : depth;
                groups[made++] = {at, spins, depth, rows};
                rows += depth;
            }
        ready = near.resize(rows * W) && J2.resize(rows * W) && name.resize(size * W) && h.resize(size * W) &&
                base.resize(size * W) && word.resize(job.n + W) && term.resize(std::int64_t{R} * job.n);
        if (!ready) return;
        for (std::int64_t g = 0; g < size; ++g)
            for (int l = 0; l < groups[g].spins; ++l) {
                const int i = groups[g].at + l;
                std::int64_t to = groups[g].ends * W + l;
                float sum = 0;
                for (int e = job.start[i]; e < job.start[i + 1]; ++e, to += W) {
                    near[to] = job.near[e];
                    J2[to] = 2 * job.J[job.edge[e]];
                    sum += job.J[job.edge[e]];
                }
                name[g * W + l] = job.order[i];
                h[g * W + l] = job.h[job.order[i]];
                base[g * W + l] = h[g * W + l] - sum;
            }
    }

    inline void field(std::int64_t g, F *f) const {
        for (int r = 0; r < R; ++r) f[r] = load<F>(&base[g * W]);
        const std::int32_t *from = near.data + groups[g].ends * W;
        const float *by = J2.data + groups[g].ends * W;
        for (int k = 0; k < groups[g].depth; ++k, from += W, by += W) {
            const U bits = gather_words(word.data, from);
            const U j = load<U>(by);
            for (int r = 0; r < R; ++r) f[r] += (F)(j & (U)((bits & (1u << r)) != 0));
        }
    }

    template <Rule rule>
    inline void visit(std::int64_t g, std::uint32_t pass, const float *rate) {
        F f[R];
        field(g, f);
        std::uint32_t v0[W], v1[W];
        for (int l = 0; l < W; ++l) {
            const std::uint64_t key = counter::visit_key(pass, static_cast<std::uint32_t>(name[g * W + l]));
            v0[l] = static_cast<std::uint32_t>(key), v1[l] = static_cast<std::uint32_t>(key >> 32);
        }
        std::uint32_t *to = &word[groups[g].at];
        const U before = load<U>(to);
        U after = before - before;
        for (int r = 0; r < R; ++r) {
            const U bits = counter::bits(usplat(low[r]), usplat(high[r]), load<U>(v0), load<U>(v1));
            const std::uint32_t old = rule == Rule::metropolis ? nonzero(before & (1u << r)) : 0;
            after |= spread_bits(redraw<rule>(f[r], splat(rate[r]), bits, old)) & (1u << r);
        }
        if (groups[g].spins == W) {
            std::memcpy(to, &after, sizeof after);
        } else {
            for (int l = 0; l < groups[g].spins; ++l) to[l] = after[l];
        }
    }

    template <Rule rule>
    void sweep(std::uint32_t number, const float *rate) {
        for (std::int64_t g = 0; g < size; ++g) visit<rule>(g, 2 * number, rate);
        if (job.palindromic)
            for (std::int64_t g = size; g-- > 0;) visit<rule>(g, 2 * number + 1, rate);
    }

    void scatter() {
        for (int i = 0; i < job.n; ++i) {
            const std::uint64_t key = counter::visit_key(0xFFFFFFFFu, static_cast<std::uint32_t>(job.order[i]));
            for (int r = 0; r < R; ++r) {  // u < 1/2: the top bit is 0
                const std::uint32_t bits = counter::bits(low[r], high[r], static_cast<std::uint32_t>(key),
                                                         static_cast<std::uint32_t>(key >> 32));
                word[i] |= (~bits >> 31) << r;
            }
        }
    }
    void pack() {
        for (int r = 0; r < R; ++r)
            for (int i = 0; i < job.n; ++i)
                word[job.place[i]] |= std::uint32_t{job.spins[lane(r) * job.n + i] > 0} << r;
    }
    void unpack() const {
        for (int r = 0; r < count; ++r)
            for (int i = 0; i < job.n; ++i)
                job.spins[(first + r) * job.n + i] = static_cast<std::int8_t>((word[job.place[i]] >> r & 1) * 2) - 1;
    }
    // E = sum_i s_i (h_i + f_i) / 2. As in the lanes, sums over 16 spins by their numbers.
    void energies() const {
        for (std::int64_t g = 0; g < size; ++g) {
            F f[R];
            field(g, f);
            for (int r = 0; r < R; ++r) {
                const F x = f[r] + load<F>(&h[g * W]);
                for (int l = 0; l < groups[g].spins; ++l) {
                    const int i = groups[g].at + l;
                    term[std::int64_t{r} * job.n + i] = word[i] >> r & 1 ? x[l] : -x[l];
                }
            }
        }
        for (int r = 0; r < count; ++r) {
            double total = 0;
            for (int a = 0; a < job.n; a += 16) {
                float sum = 0;
                for (int i = a; i < job.n && i < a + 16; ++i) sum += term[std::int64_t{r} * job.n + i];
                total += static_cast<double>(sum);
            }
            job.energy[first + r] = total / 2;
        }
    }

    int run() {
        if (!ready) return -1;
        job.random_start ? scatter() : pack();
        float rate[R];
        int done = 0;
        for (; done < job.sweeps && !job.stop->load(std::memory_order_relaxed); ++done) {
            const float *now = job.beta + done * (job.beta_stride ? job.beta_stride : 1);
            for (int r = 0; r < R; ++r) rate[r] = 2 * log2_e * now[job.beta_stride ? lane(r) : 0];
            const std::uint32_t number = job.first_sweep + static_cast<std::uint32_t>(done);
            const bool metropolis = rule_of(job.metropolis, number) == Rule::metropolis;
            metropolis ? sweep<Rule::metropolis>(number, rate) : sweep<Rule::heat_bath>(number, rate);
        }
        unpack();
        energies();
        for (int r = 0; r < count; ++r) job.done[first + r] = done;
        return done;
    }
};

// Up to 8 replicas of one problem.
int run_few(const Job &job, std::int64_t first, int count) {
    if (count == 1) return Colours<1>(job, first, count).run();
    if (count == 2) return Colours<2>(job, first, count).run();
    if (count <= 4) return Colours<4>(job, first, count).run();
    return Colours<8>(job, first, count).run();
}

}  // namespace
}  // namespace sparse
