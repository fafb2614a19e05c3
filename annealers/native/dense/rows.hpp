// The dense kernel: fields are kept, and a flip adds a row of J to them. Compiled once for each instruction set.
//
// A block holds up to 64 replicas, each with its n fields in one stretch of memory. A few spins are decided in a row, for
// all replicas at once, on a small tile of their own fields. Only then do their flips reach all the other fields: a stretch
// of fields is loaded and stored once for all flips, and a stretch of J serves all replicas from the nearest cache.
// Every field gets the same sums in the same order as if each flip had gone out at once.
#include "dense_job.hpp"
#include "simd.hpp"

#include <cstdlib>

namespace dense {
namespace {

using namespace sparse;

constexpr int refresh = 64;  // sweeps after which fields are summed anew, so that rounding does not build up
constexpr int few = 24;      // spins decided in a row

struct Rows {
    const Job &job;
    const std::int64_t first;
    const int count, groups;           // replicas, and their vectors
    float *f;                          // [count, row]
    std::uint64_t *up;                 // [n], a bit a lane
    const float *h[lanes], *J[lanes];  // fields and couplings of each lane's problem
    int some;                          // spins decided in a row: more than one only where many lanes share their J
    alignas(64) std::uint32_t low[lanes], high[lanes];
    alignas(64) float rate[lanes];     // 2 beta / log 2

    std::int8_t *spin(int l) const { return job.spins + (first + l) * job.n; }
    std::int64_t lane(int l) const { return first + (l < count ? l : 0); }  // idle lanes repeat the first

    Rows(const Job &j, std::int64_t start, int c) : job(j), first(start), count(c), groups((c + W - 1) / W) {
        f = static_cast<float *>(std::aligned_alloc(64, sizeof(float) * static_cast<std::size_t>(j.row) * c));
        bool shared = c > 8;  // fewer lanes do not pay for a tile
        up = static_cast<std::uint64_t *>(std::calloc(static_cast<std::size_t>(j.n), sizeof(std::uint64_t)));
        for (int l = 0; l < lanes; ++l) {
            const std::int64_t problem = lane(l) / j.replicas;
            h[l] = j.h + problem * j.n, J[l] = j.J + problem * j.J_stride;
            shared = shared && J[l] == J[0];
            const std::uint64_t key =
                counter::lane_key(j.seed[problem], static_cast<std::uint32_t>(lane(l) % j.replicas));
            low[l] = static_cast<std::uint32_t>(key), high[l] = static_cast<std::uint32_t>(key >> 32);
        }
        some = shared ? few : 1;
    }
    ~Rows() { std::free(f), std::free(up); }

    // The changes of a few spins, by spin and lane: +-2 of a flip, 0 of none.
    typedef float Changes[few][lanes];

    // Those of one lane that are not 0: by how much, and the row of J.
    struct Flips {
        int count = 0;
        float change[few];
        const float *row[few];
    };
    // V vectors of fields from place a on.
    template <int V>
    static void add(float *f, const Flips &flips, std::int64_t a) {
        F x[V];
        each<V>([&](int v) { x[v] = load<F>(f + a + W * v); });
        for (int k = 0; k < flips.count; ++k) {
            const F by = splat(flips.change[k]);
            const float *row = flips.row[k] + a;
            each<V>([&](int v) { x[v] = fma(by, load<F>(row + W * v), x[v]); });  // a power of two: the product is exact
        }
        each<V>([&](int v) { std::memcpy(f + a + W * v, &x[v], sizeof(F)); });
    }
    // f += c J_i of some lanes, for the flips of each; from place a on, and the place where fewer than V vectors are left.
    template <int V>
    std::int64_t add(const Flips *flips, int from, int end, std::int64_t a) {
        for (; a + V * W <= job.row; a += V * W)
            for (int l = from; l < end; ++l)
                if (flips[l - from].count) add<V>(f + l * job.row, flips[l - from], a);
        return a;
    }
    void spread_out(const Flips *flips, int from, int end) {
        add<1>(flips, from, end, add<2>(flips, from, end, add<4>(flips, from, end, add<8>(flips, from, end, 0))));
    }
    // Those of all lanes in the spins from, ..., from + width - 1, the other way round with step -1.
    void spread_out(const Changes &c, std::int64_t from, int width, int step) {
        Flips flips[lanes];
        for (int k = step > 0 ? 0 : width - 1; k >= 0 && k < width; k += step)
            for (int l = 0; l < count; ++l) {
                Flips &mine = flips[l];  // without a branch: which spins flip cannot be foreseen
                mine.change[mine.count] = c[k][l], mine.row[mine.count] = J[l] + (from + k) * job.row;
                mine.count += c[k][l] != 0;
            }
        spread_out(flips, 0, count);
    }
    void sum() {
        for (int l = 0; l < count; ++l)
            for (std::int64_t i = 0; i < job.row; ++i) f[l * job.row + i] = i < job.n ? h[l][i] : 0.0f;
        for (std::int64_t from = 0; from < job.n; from += few) {
            Changes c;
            const int width = job.n - from < few ? static_cast<int>(job.n - from) : few;
            for (int k = 0; k < width; ++k)
                for (int l = 0; l < count; ++l) c[k][l] = up[from + k] >> l & 1 ? 1.0f : -1.0f;
            spread_out(c, from, width, 1);
        }
    }
    U random(int g, const std::uint64_t &key) const {
        return counter::bits(load<U>(low + W * g), load<U>(high + W * g), low_half(key), high_half(key));
    }
    void begin() {
        for (std::int64_t i = 0; job.random_start && i < job.n; ++i) {
            const std::uint64_t key = counter::visit_key(0xFFFFFFFFu, static_cast<std::uint32_t>(i));
            for (int g = 0; g < groups; ++g) up[i] |= std::uint64_t{heads(random(g, key))} << (W * g);
        }
        for (int l = 0; !job.random_start && l < count; ++l)
            for (std::int64_t i = 0; i < job.n; ++i) up[i] |= std::uint64_t{spin(l)[i] > 0} << l;
    }
    // Spins from, ..., from + width - 1, forward (step 1) or back (-1).
    template <Rule rule>
    void visit(std::int64_t from, int width, int step, std::uint32_t pass) {
        alignas(64) float tile[few][lanes];  // fields by spin and lane
        alignas(64) Changes c;
        for (int k = 0; k < width; ++k) std::memset(tile[k] + W * (groups - 1), 0, sizeof(F));
        const float *field = f + from;
        for (int l = 0; l < count; ++l, field += job.row)
            for (int k = 0; k < width; ++k) tile[k][l] = field[k];
        std::uint64_t flips = 0;
        for (int k = step > 0 ? 0 : width - 1; k >= 0 && k < width; k += step) {
            const std::int64_t i = from + k;
            const std::uint64_t key = counter::visit_key(pass, static_cast<std::uint32_t>(i)), before = up[i];
            up[i] = 0;
            for (int g = 0; g < groups; ++g) {
                const auto old = static_cast<std::uint32_t>(before >> (W * g)) & ((1u << W) - 1);
                const std::uint32_t now = redraw<rule>(load<F>(tile[k] + W * g), load<F>(rate + W * g), random(g, key), old);
                up[i] |= std::uint64_t{now} << (W * g);
                const F change = minus_unless(now, add_if(F{}, now ^ old, splat(2.0f)));
                std::memcpy(c[k] + W * g, &change, sizeof change);
            }
            if (up[i] == before) continue;
            flips |= up[i] ^ before;
            for (int m = k + step; m >= 0 && m < width; m += step)
                for (int g = 0; g < groups; ++g) {
                    const F by = splat(J[0][i * job.row + from + m]);
                    const F field = fma(load<F>(c[k] + W * g), by, load<F>(tile[m] + W * g));
                    std::memcpy(tile[m] + W * g, &field, sizeof field);
                }
        }
        if (some > 1) return flips ? spread_out(c, from, width, step) : void();
        for (flips &= ~std::uint64_t{0} >> (lanes - count); flips; flips &= flips - 1) {
            const int l = __builtin_ctzll(flips);
            const Flips flip{1, {c[0][l]}, {J[l] + from * job.row}};
            spread_out(&flip, l, l + 1);
        }
    }
    template <Rule rule>
    void sweep(std::uint32_t number) {
        const auto next = [&](std::int64_t from, int step, std::uint32_t pass) {
            visit<rule>(from, job.n - from < some ? static_cast<int>(job.n - from) : some, step, pass);
        };
        for (std::int64_t from = 0; from < job.n; from += some) next(from, 1, 2 * number);
        if (job.palindromic)
            for (std::int64_t from = (job.n - 1) / some * some; from >= 0; from -= some) next(from, -1, 2 * number + 1);
    }
    int sweeps() {
        int done = 0;
        for (; done < job.sweeps && !job.stop->load(std::memory_order_relaxed); ++done) {
            if (done % refresh == 0) sum();
            const float *beta = job.beta + done * (job.beta_stride ? job.beta_stride : 1);
            for (int l = 0; l < lanes; ++l) rate[l] = 2 * log2_e * beta[job.beta_stride ? lane(l) : 0];
            const std::uint32_t number = job.first_sweep + static_cast<std::uint32_t>(done);
            const bool metropolis = rule_of(job.metropolis, number) == Rule::metropolis;
            metropolis ? sweep<Rule::metropolis>(number) : sweep<Rule::heat_bath>(number);
        }
        return done;
    }
    int run() {
        if (!f || !up) return -1;
        begin();
        const int done = sweeps();
        sum();
        for (int l = 0; l < count; ++l) {  // E = sum_i s_i (h_i + f_i) / 2
            double energy = 0;
            for (std::int64_t i = 0; i < job.n; ++i) {
                const int s = static_cast<int>(up[i] >> l & 1) * 2 - 1;
                spin(l)[i] = static_cast<std::int8_t>(s);
                energy += s * (static_cast<double>(h[l][i]) + f[l * job.row + i]);
            }
            job.energy[first + l] = energy / 2;
            job.done[first + l] = done;
        }
        return done;
    }
};

int run(const Job &job, std::int64_t first, int count) { return Rows(job, first, count).run(); }

}  // namespace
}  // namespace dense
