// Draws with fields in 16 bits: twice the lanes a vector, and the sigmoid from a table.
//
// Fields are whole multiples of a problem's unit u, F / u < 2^15 for its largest possible field F (`scale_of`):
// couplings are rounded to multiples of u/2, then h_i - sum_j J_ij to one of u. So it is exactly an Ising problem, whose
// fields differ from the given ones by at most (1/2 + d/4) u at d neighbours, 0.3 sqrt(1 + d/4) u in the mean square,
// that is drawn from.
#pragma once

#include "array.hpp"
#include "fixed_table.hpp"
#include "lanes.hpp"
#include "simd16.hpp"

namespace sparse {
namespace {

template <class Block>
struct Fixed {
    using Word = typename Block::Bits;
    static constexpr int L = Block::L, G = L / W16, H = Block::H;

    const Block &block;
    Array<std::uint16_t> base, J;                   // in units: [n] or [n, L]; 2 J [2 k] or [2 k, L]
    bool good, shared = true, paired = true;        // whether lanes share J and the unit; see `low`
    alignas(64) std::uint16_t most[L], twice[L], whole[L], part[L];
    // Two replicas share a word of random bits, the even one has the lower half: keys of the words of even and odd lanes,
    // and how far their halves are from where they belong.
    alignas(64) std::uint32_t low[2][L / 2], high[2][L / 2], shift[2][L / 2];

    explicit Fixed(const Block &b) : block(b) {
        const Job &job = b.job;
        const std::int64_t n = job.n;
        const float *couplings[L], *fields[L];
        float unit[L], inverse[L];
        for (int l = 0; l < L; ++l) {
            const std::int64_t problem = b.lane(l) / job.replicas;
            couplings[l] = job.J + problem * job.J_stride, fields[l] = job.h + problem * n;
            unit[l] = job.unit[problem], inverse[l] = 1 / unit[l];
            shared = shared && unit[l] == unit[0] && couplings[l] == couplings[0];
        }
        const int K = shared ? 1 : L;
        good = base.resize(n * H) && J.resize(job.start[n] * K);
        if (!good) return;
        for (std::int64_t i = 0; i < n; ++i) {
            float sum[L] = {}, h[L];
            for (std::int64_t e = job.start[i]; e < job.start[i + 1]; ++e)
                for (int l = 0; l < K; ++l) {
                    const float twice_J = rounded(2 * couplings[l][job.edge[e]] * inverse[l]);
                    sum[l] += twice_J;
                    J[e * K + l] = static_cast<std::uint16_t>(static_cast<int>(twice_J));
                }
            for (int l = K; l < L; ++l) sum[l] = sum[0];
            for (int l = 0; l < H; ++l) h[l] = fields[l][job.order[i]];
            for (int l = 0; l < H; ++l)
                base[i * H + l] =
                    static_cast<std::uint16_t>(static_cast<int>(rounded((h[l] - unit[l] * sum[l] / 2) * inverse[l])));
        }
        for (int l = 0; l < L; ++l) {
            const std::int64_t lane = b.lane(l);
            const auto replica = job.first_replica + static_cast<std::uint32_t>(lane % job.replicas);
            const std::uint64_t key = counter::lane_key(job.seed[lane / job.replicas], replica >> 1);
            low[l & 1][l / 2] = static_cast<std::uint32_t>(key), high[l & 1][l / 2] = static_cast<std::uint32_t>(key >> 32);
            shift[l & 1][l / 2] = (l & 1) == (replica & 1) ? 0 : 16;
            const bool same = (l & 1) == (replica & 1) && low[0][l / 2] == low[l & 1][l / 2];
            paired = paired && (same || l >= b.count);
        }
    }
    bool ready() const { return good; }

    void heat(const float *beta) {
        for (int l = 0; l < L; ++l) {
            const Heat now = heat16(beta[l], block.job.unit[block.lane(l) / block.job.replicas]);
            most[l] = now.most, twice[l] = now.twice, whole[l] = now.whole, part[l] = now.part;
        }
    }

    // The words of N groups from the first on.
    template <int N>
    __attribute__((always_inline)) inline void random(int first, U v0, U v1, V *u) const {
        U even[N], odd[N], a[N], b[N];
        each<N>([&](int g) { a[g] = load<U>(low[0] + W * (first + g)), b[g] = load<U>(high[0] + W * (first + g)); });
        counter::bits<N>(a, b, v0, v1, even);
        each<N>([&](int g) { u[g] = (V)even[g]; });
        if (paired) return;
        each<N>([&](int g) { a[g] = load<U>(low[1] + W * (first + g)), b[g] = load<U>(high[1] + W * (first + g)); });
        counter::bits<N>(a, b, v0, v1, odd);
        each<N>([&](int g) {
            const int at = W * (first + g);
            u[g] = (V)((even[g] >> load<U>(shift[0] + at) & 0xFFFFu) | (odd[g] << load<U>(shift[1] + at) & 0xFFFF0000u));
        });
    }
    // The fields of spin i.
    __attribute__((always_inline)) inline void field(int i, V *f) const {
        const Job &job = block.job;
        each<G>([&](int g) { f[g] = H > 1 ? load<V>(&base[std::int64_t{i} * L + W16 * g]) : vsplat(base[i]); });
        if (H == 1 || shared) {
            for (int e = job.start[i]; e < job.start[i + 1]; ++e)
                each<G>([&](int g) { f[g] = add_at(f[g], block.word + job.near[e], g, vsplat(J[e])); });
        } else {
            for (int e = job.start[i]; e < job.start[i + 1]; ++e)
                each<G>([&](int g) {
                    f[g] = add_at(f[g], block.word + job.near[e], g, load<V>(&J[std::int64_t{e} * L + W16 * g]));
                });
        }
    }
    template <Rule rule>
    __attribute__((always_inline)) inline void visit(int i, const std::uint64_t &key) const {
        constexpr int N = G < together ? G : together;
        const U v0 = low_half(key), v1 = high_half(key);
        const Word before = block.word[i];
        Word out = 0;
        V f[G];
        field(i, f);
#pragma GCC unroll 8
        for (int first = 0; first < G; first += N) {
            V u[N], by[4][N];
            std::uint32_t bits[N];
            const auto fill = [&](V *to, const std::uint16_t *from) {
                each<N>([&](int g) { to[g] = load<V>(from + W16 * (first + g)); });
            };
            fill(by[0], most), fill(by[1], twice), fill(by[2], whole), fill(by[3], part);
            each<N>([&](int g) {
                bits[g] = static_cast<std::uint32_t>(before >> (W16 * (first + g)) & ((std::uint64_t{1} << W16) - 1));
            });
            random<N>(first, v0, v1, u);
            redraw16<rule, N>(f + first, by[0], by[1], by[2], by[3], u, block.job.tables[static_cast<int>(rule)], bits);
            each<N>([&](int g) { out |= static_cast<Word>(bits[g]) << (W16 * (first + g)); });
        }
        block.word[i] = out;
    }
};

}  // namespace
}  // namespace sparse
