// Sweeps over a bipartite problem: the right side given the left, then the left given the right. Replicas are lanes, a
// side is kept as 32 spins a word. A field is a sum of couplings to spins that are +1: of every four the sum is
// looked up among the sixteen possible ones (Arlazarov, Dinic, Kronrod and Faradzhev 1970), which are made once for
// all lanes. Sums go from the first coupling to the last whatever the lanes, so that draws depend on nothing but
// (seed, replica, sweep, spin). Compiled once for each instruction set.
#include "bipartite_fixed.hpp"
#include "bits.hpp"
#include "lookup.hpp"

#include <cmath>
#include <cstdlib>

namespace bipartite {
namespace {

typedef float E __attribute__((vector_size(2 * W)));
typedef double D __attribute__((vector_size(4 * W)));

enum class Do { heat_bath, metropolis, measure };

struct Block {
    const Job &job;
    const std::int64_t first;
    const int count, L;               // lanes, and those with the idle ones that fill a vector
    const bool own;                   // lanes of several problems
    const std::int64_t n[2];          // spins of each side
    std::uint32_t *word[2];           // [ceil(n / 32), L]: bit k of word i is spin 32 i + k
    float *base;                      // (h - the sum of J) / 2: [n + m], or [n + m, L] by lane
    float *field;                     // [4, L]: f / 2
    std::uint32_t low[lanes], high[lanes];
    float rate[lanes];                // 2 beta / log 2
    const int last;                   // the side that a sweep visits last
    bool tally = false;               // whether passes over that side add up s f
    double total[lanes];              // the sum, of the last pass

    std::int64_t lane(int l) const { return first + (l < count ? l : 0); }  // idle lanes repeat the first
    std::int64_t problem(int l) const { return lane(l) / job.replicas; }
    const float *h(int l) const { return job.h + problem(l) * (n[0] + n[1]); }

    template <class T>
    static T *room(std::int64_t size) {
        return static_cast<T *>(std::aligned_alloc(64, (size * sizeof(T) + 127) / 64 * 64));
    }
    Block(const Job &j, std::int64_t f, int c)
        : job(j), first(f), count(c), L(j.tables ? (c + W16 - 1) / W16 * W16 : (c + W - 1) / W * W),
          own(problem(0) != problem(c - 1)), n{j.n, j.m}, last(j.palindromic) {
        for (int side = 0; side < 2; ++side) word[side] = room<std::uint32_t>((n[side] + 31) / 32 * L);
        base = room<float>((n[0] + n[1]) * (own ? L : 1));
        field = room<float>(4 * L);
        if (!ready()) return;
        for (int l = 0; l < L; ++l) {
            const auto replica = static_cast<std::uint32_t>(lane(l) % job.replicas);
            const std::uint64_t key = counter::lane_key(job.seed[problem(l)], replica);
            low[l] = static_cast<std::uint32_t>(key), high[l] = static_cast<std::uint32_t>(key >> 32);
        }
        const float *sum = job.sum + problem(0) * job.sum_stride;
        for (std::int64_t i = 0; i < n[0] + n[1]; ++i)
            for (int l = 0; l < (own ? L : 1); ++l) base[i * (own ? L : 1) + l] = (h(l)[i] - sum[i]) / 2;
    }
    ~Block() { std::free(word[0]), std::free(word[1]), std::free(base), std::free(field); }
    bool ready() const { return word[0] && word[1] && base && field; }

    // f / 2 = (h_i - sum_j J_ij) / 2 + the J_ij whose s_j is +1, of up to four spins i of a side, into `field`.
    template <int C, int V>
    void sum(int side, std::int64_t i, int at, int to = 0) {
        const std::int64_t inputs = n[1 - side], stride = side ? n[1] : 1;
        const float *J = job.J + problem(0) * job.J_stride, *row[C];
        F f[C][V];
        i += to;
        for (int k = 0; k < C; ++k) {  // past the end of a side its last spin is repeated
            const std::int64_t spin = i + k < n[side] ? i + k : n[side] - 1, place = side * n[0] + spin;
            row[k] = J + spin * (side ? 1 : n[1]);
            for (int v = 0; v < V; ++v) f[k][v] = own ? load<F>(base + place * L + at + W * v) : splat(base[place]);
        }
        const std::uint32_t *words = word[1 - side] + at;
        for (std::int64_t j = 0; j < inputs; j += 32, words += L) {
            U bits[V];
            for (int v = 0; v < V; ++v) bits[v] = load<U>(words + W * v);
            const std::int64_t end = inputs - j < 32 ? inputs : j + 32;
            for (std::int64_t at4 = j; at4 < end; at4 += 4) {
                float last[4] = {};
                const bool ragged = inputs - at4 < 4;
#pragma GCC unroll 4
                for (int k = 0; k < C; ++k) {
                    if (ragged)
                        for (std::int64_t x = at4; x < inputs; ++x) last[x - at4] = row[k][x * stride];
                    const Sums sums(ragged ? last : row[k] + at4 * stride, ragged ? 1 : stride);
                    for (int v = 0; v < V; ++v) f[k][v] = sums.add(f[k][v], bits[v]);
                }
                for (int v = 0; v < V; ++v) bits[v] >>= 4;
            }
        }
        for (int k = 0; k < C; ++k)
            for (int v = 0; v < V; ++v) std::memcpy(field + (to + k) * L + at + W * v, &f[k][v], sizeof(F));
    }
    void sum(int side, std::int64_t i) {
        int at = 0;
        for (; W == 16 && at + 8 * W <= L; at += 8 * W) sum<2, 8>(side, i, at), sum<2, 8>(side, i, at, 2);
        for (; at + widest * W <= L; at += widest * W) sum<4, widest>(side, i, at);
        if (widest == 4 && L - at == 3 * W) return sum<4, 3>(side, i, at);
        if (widest == 4 && L - at == 2 * W) return sum<4, 2>(side, i, at);
        if (at < L) sum<4, 1>(side, i, at);
    }

    // Spins i .. i + 3 of a side, in the fields that `sum` left.
    template <Do what>
    void decide(int side, std::int64_t i, std::uint32_t pass) {
        std::uint32_t *now = word[side] + i / 32 * L;
        const int some = n[side] - i < 4 ? static_cast<int>(n[side] - i) : 4;
        for (int k = 0; k < some; ++k) {
            const std::uint32_t one = 1u << (i + k) % 32;
            const std::uint64_t key = counter::visit_key(pass, static_cast<std::uint32_t>(side * n[0] + i + k));
            const U v0 = usplat(static_cast<std::uint32_t>(key)), v1 = usplat(static_cast<std::uint32_t>(key >> 32));
            for (int l = 0; l < L; l += W) {
                const F half = load<F>(field + k * L + l), f = half + half;
                U spins = load<U>(now + l);
                std::uint32_t bit = nonzero(spins & one);
                if constexpr (what != Do::measure) {
                    constexpr Rule rule = what == Do::heat_bath ? Rule::heat_bath : Rule::metropolis;
                    const U random = counter::bits(load<U>(low + l), load<U>(high + l), v0, v1);
                    bit = redraw<rule>(f, load<F>(rate + l), random, bit);
                    spins = (spins & ~one) | (spread_bits(bit) & one);
                    std::memcpy(now + l, &spins, sizeof spins);
                }
                if (tally && side == last) accumulate(l, add_if(-f, bit, f + f));
            }
        }
    }
    void accumulate(int l, F x) {
        float part[2][W / 2];
        std::memcpy(part, &x, sizeof x);
        for (int k = 0; k < 2; ++k, l += W / 2) {
            const D sum = load<D>(total + l) + __builtin_convertvector(load<E>(part[k]), D);
            std::memcpy(total + l, &sum, sizeof sum);
        }
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

    // Uniform spins: the first bit of a visit in a pass that no sweep reaches.
    void scatter() {
        for (int side = 0; side < 2; ++side)
            for (std::int64_t i = 0; i < n[side]; ++i) {
                const std::uint64_t key = counter::visit_key(0xFFFFFFFFu, static_cast<std::uint32_t>(side * n[0] + i));
                const U v0 = usplat(static_cast<std::uint32_t>(key));
                const U v1 = usplat(static_cast<std::uint32_t>(key >> 32));
                for (int l = 0; l < L; l += W) {
                    const U up = (counter::bits(load<U>(low + l), load<U>(high + l), v0, v1) >> 31) - 1;
                    std::uint32_t *now = word[side] + i / 32 * L + l;
                    const U spins = (i % 32 ? load<U>(now) : U{}) | (up & (1u << i % 32));
                    std::memcpy(now, &spins, sizeof spins);
                }
            }
    }
    void pack() {
        for (int side = 0; side < 2; ++side)
            for (std::int64_t i = 0; i < n[side]; i += 32)
                for (int l = 0; l < L; ++l) {
                    const std::int8_t *spin = job.spins + lane(l) * (n[0] + n[1]) + side * n[0] + i;
                    word[side][i / 32 * L + l] = static_cast<std::uint32_t>(gather(spin, width(side, i)));
                }
    }
    void unpack() const {
        for (int side = 0; side < 2; ++side)
            for (std::int64_t i = 0; i < n[side]; i += 32)
                for (int l = 0; l < count; ++l) {
                    std::int8_t *spin = job.spins + lane(l) * (n[0] + n[1]) + side * n[0] + i;
                    spread(word[side][i / 32 * L + l], spin, width(side, i));
                }
    }
    int width(int side, std::int64_t i) const { return n[side] - i < 32 ? static_cast<int>(n[side] - i) : 32; }
    // E = sum over the last side of s f + sum over the other of h s.
    void energies() {
        const int side = 1 - last;
        for (std::int64_t i = 0; i < n[side]; ++i)
            for (int l = 0; l < L; l += W) {
                F x = splat(h(0)[side * n[0] + i]);
                if (own)
                    for (int k = 0; k < W; ++k) x[k] = h(l + k)[side * n[0] + i];
                const std::uint32_t bit = nonzero(load<U>(word[side] + i / 32 * L + l) & (1u << i % 32));
                accumulate(l, add_if(-x, bit, x + x));
            }
        for (int l = 0; l < count; ++l) job.energy[first + l] = total[l];
    }

    int sweeps() {
        int done = 0;
        for (; done < job.sweeps && !job.stop->load(std::memory_order_relaxed); ++done) {
            const float *now = job.beta + done * (job.beta_stride ? job.beta_stride : 1);
            for (int l = 0; l < L; ++l) rate[l] = 2 * log2_e * now[job.beta_stride ? lane(l) : 0];
            const std::uint32_t number = job.first_sweep + static_cast<std::uint32_t>(done);
            tally = done + 1 == job.sweeps;
            const bool metropolis = rule_of(job.metropolis, number) == Rule::metropolis;
            metropolis ? sweep<Do::metropolis>(number) : sweep<Do::heat_bath>(number);
        }
        return done;
    }
    int run() {
        job.random_start ? scatter() : pack();
        const int done = job.tables ? Fixed<Block>(*this).run() : sweeps();
        if (done < 0) return done;
        if (!tally) tally = true, pass<Do::measure>(last, 0);
        energies();
        unpack();
        for (int l = 0; l < count; ++l) job.done[first + l] = done;
        return done;
    }
};

int run(const Job &job, std::int64_t first, int count) {
    Block block(job, first, count);
    return block.ready() ? block.run() : -1;
}

template <bool sizes, class To>
void add_up(const float *J, std::int64_t n, std::int64_t m, double *column, To *sum) {
    const auto at = [&](std::int64_t j) { return static_cast<double>(sizes ? std::fabs(J[j]) : J[j]); };
    for (std::int64_t j = 0; j < m; ++j) column[j] = 0;
    for (std::int64_t i = 0; i < n; ++i, J += m) {
        double part[16] = {}, row = 0;  // the same order for any instruction set
        std::int64_t j = 0;
        for (; j + 16 <= m; j += 16)
            for (int k = 0; k < 16; ++k) {
                const double one = at(j + k);
                part[k] += one, column[j + k] += one;
            }
        for (; j < m; ++j) row += at(j), column[j] += at(j);
        for (const double one : part) row += one;
        sum[i] = static_cast<To>(row);
    }
    for (std::int64_t j = 0; j < m; ++j) sum[n + j] = static_cast<To>(column[j]);
}

}  // namespace
}  // namespace bipartite
