// The dense kernel: fields are kept, and a flip adds a row of J to them. Compiled once for each instruction set.
//
// A block holds up to W replicas, each with its n fields in one stretch of memory; the block goes from spin to spin,
// decides all its replicas in one vector, and updates the fields of those that flipped.
#include "dense_job.hpp"
#include "simd.hpp"

#include <cstdlib>

namespace dense {
namespace {

using namespace sparse;

constexpr int refresh = 32;  // sweeps after which fields are summed anew, so that rounding does not build up

struct Rows {
    const Job &job;
    const std::int64_t first;
    const int count;
    float *f;                        // [count, row]
    std::uint32_t low[W], high[W];
    std::uint32_t up[W];             // of the present spin

    std::int8_t *spin(int l) const { return job.spins + (first + l) * job.n; }
    std::int64_t problem(int l) const { return (first + l) / job.replicas; }
    const float *J(int l, std::int64_t i) const { return job.J + problem(l) * job.J_stride + i * job.row; }

    Rows(const Job &j, std::int64_t start, int c) : job(j), first(start), count(c) {
        f = static_cast<float *>(std::aligned_alloc(64, sizeof(float) * static_cast<std::size_t>(j.row) * c));
        for (int l = 0; l < W; ++l) {
            const int real = l < c ? l : 0;
            const auto replica = static_cast<std::uint32_t>((first + real) % j.replicas);
            const std::uint64_t key = counter::lane_key(j.seed[problem(real)], replica);
            low[l] = static_cast<std::uint32_t>(key), high[l] = static_cast<std::uint32_t>(key >> 32);
        }
    }
    ~Rows() { std::free(f); }

    // f += c J_i
    static void add(float *f, const float *J, float c, std::int64_t row) {
        const F by = splat(c);
        for (std::int64_t a = 0; a < row; a += W) {
            const F sum = load<F>(f + a) + by * load<F>(J + a);  // c is a power of two: the product is exact
            std::memcpy(f + a, &sum, sizeof sum);
        }
    }
    void sum() {
        for (int l = 0; l < count; ++l) {
            float *mine = f + l * job.row;
            const float *h = job.h + problem(l) * job.n;
            for (std::int64_t i = 0; i < job.row; ++i) mine[i] = i < job.n ? h[i] : 0.0f;
            for (std::int64_t i = 0; i < job.n; ++i) add(mine, J(l, i), spin(l)[i], job.row);
        }
    }
    void scatter() {
        for (std::int64_t i = 0; i < job.n; ++i) {
            const std::uint64_t key = counter::visit_key(0xFFFFFFFFu, static_cast<std::uint32_t>(i));
            const U bits = counter::bits(load<U>(low), load<U>(high), usplat(static_cast<std::uint32_t>(key)),
                                         usplat(static_cast<std::uint32_t>(key >> 32)));
            const std::uint32_t one = heads(bits);
            for (int l = 0; l < count; ++l) spin(l)[i] = static_cast<std::int8_t>(static_cast<int>(one >> l & 1) * 2 - 1);
        }
    }
    template <Rule rule>
    void visit(std::int64_t i, std::uint32_t pass, F rate) {
        float field[W] = {};
        std::uint32_t old = 0;
        for (int l = 0; l < count; ++l) {
            field[l] = f[l * job.row + i];
            old |= static_cast<std::uint32_t>(spin(l)[i] > 0) << l;
        }
        const std::uint64_t key = counter::visit_key(pass, static_cast<std::uint32_t>(i));
        const U bits = counter::bits(load<U>(low), load<U>(high), usplat(static_cast<std::uint32_t>(key)),
                                     usplat(static_cast<std::uint32_t>(key >> 32)));
        const std::uint32_t now = redraw<rule>(load<F>(field), rate, bits, old);
        for (std::uint32_t changed = (now ^ old) & ((1u << count) - 1); changed; changed &= changed - 1) {
            const int l = __builtin_ctz(changed);
            const int s = static_cast<int>(now >> l & 1) * 2 - 1;
            spin(l)[i] = static_cast<std::int8_t>(s);
            add(f + l * job.row, J(l, i), static_cast<float>(2 * s), job.row);
        }
    }
    template <Rule rule>
    int sweeps() {
        int done = 0;
        for (; done < job.sweeps && !job.stop->load(std::memory_order_relaxed); ++done) {
            if (done % refresh == 0) sum();
            float now[W];
            for (int l = 0; l < W; ++l)
                now[l] = job.beta_stride ? job.beta[done * job.beta_stride + first + (l < count ? l : 0)] : job.beta[done];
            const F rate = 2 * log2_e * load<F>(now);
            const auto pass = static_cast<std::uint32_t>(2 * done);
            for (std::int64_t i = 0; i < job.n; ++i) visit<rule>(i, pass, rate);
            if (job.palindromic)
                for (std::int64_t i = job.n - 1; i >= 0; --i) visit<rule>(i, pass + 1, rate);
        }
        return done;
    }
    int run() {
        if (!f) return -1;
        if (job.random_start) scatter();
        const int done = job.metropolis ? sweeps<Rule::metropolis>() : sweeps<Rule::heat_bath>();
        sum();
        for (int l = 0; l < count; ++l) {  // E = sum_i s_i (h_i + f_i) / 2
            const float *h = job.h + problem(l) * job.n;
            double energy = 0;
            for (std::int64_t i = 0; i < job.n; ++i)
                energy += spin(l)[i] * (static_cast<double>(h[i]) + f[l * job.row + i]);
            job.energy[first + l] = energy / 2;
            job.done[first + l] = done;
        }
        return done;
    }
};

int run(const Job &job, std::int64_t first, int count) {
    int fewest = job.sweeps;
    for (int l = 0; l < count; l += W) {
        const int done = Rows(job, first + l, count - l < W ? count - l : W).run();
        fewest = done < fewest ? done : fewest;
    }
    return fewest;
}

}  // namespace
}  // namespace dense
