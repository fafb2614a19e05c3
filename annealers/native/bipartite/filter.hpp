// Sweeps over a bipartite problem by fields of 20 bits: sums of four couplings are looked up by bytes (tables.hpp),
// nearly every spin is decided by a curve of the upper 16 bits (vec/curve.hpp), and the few lanes that these leave open
// (law/filter.hpp) are decided again from the exact field.
//
// State: a byte a chain for each group of four spins of a side, 64 chains side by side: a byte is a look-up's index.
// Tiles of 16 spins are swept outside and blocks of chains inside, so that a tile's tables come from a near cache for
// all blocks but the first. Sums of a plane of 6 bits are added up in bytes for four groups, then in 16 bits; the top
// plane has 8 bits, and its sums need no more (mod 2^20).
//
// The bound. In units q = 2^drop u, the field less H is X = sum of S / q - sum_K / q, S as in tables.hpp. What is added
// up is Y = C + the sum of the entries, and the filter's field is F = floor(Y / 16) + H16, in units of 16 q, with C the
// whole number nearest to (rest - sum_K) / q + groups / 2 + 8, and H = 16 q H16 + rest. Then 16 F differs from the
// field by
//   - 1/2 a group: entries are too small by between 0 and 1, and the mean of these bounds is in C;
//   - 8: the floor of Y / 16 takes away between 0 and 15, of which C gives 8;
//   - 1/2: C is rounded.
// Y stands for itself mod 2^20 while |Y| < 2^19, and F does not saturate, or does so only where its logit is beyond the
// table's reach: `drop` is chosen for that (run.hpp). With the tables of woven.hpp T stands for S and sum_size for sum_K.
#pragma once

#include "../vec/curve.hpp"
#include "exact.hpp"
#include "energies.hpp"
#include "woven.hpp"

#include <new>

#if defined(HAS_BYTES)
namespace bipartite {
namespace {

constexpr int tile = 16;    // spins

// Constants of the decisions of spins of one drop: at one beta, or at those of all lanes of a block.
template <bool own_beta>
struct Threshold {
    static constexpr int L = own_beta ? filter_lanes : 1;
    alignas(64) std::uint16_t margin[Curve<Wide>::Table::segments];
    std::uint16_t most[L], factor[L], twice[L];
    int shift;
};

// What `Kernel` knows of them.
struct Chains {
    virtual ~Chains() = default;
    virtual int run(bool go_on) = 0;
    virtual void unpack() const = 0;
};

template <bool own_beta>
struct Filter final : Chains {
    typedef Wide::V V;
    static constexpr int numbers = Wide::size / 2;                   // 16-bit ones of a vector
    // Vectors are taken by twos, and look up in the same tables: of a block, or of two blocks of a vector each.
    static constexpr int vectors = filter_lanes / Wide::size;
#if defined(HAS_WOVEN)  // which takes blocks one by one
    static constexpr int together = 1, table_planes = woven_planes;
    template <int>
    using Sums = Woven;
#else
    static constexpr int together = vectors == 1 ? 2 : 1, table_planes = planes;
    template <int N>
    using Sums = PlaneSums<Wide, planes, N>;
#endif

    // Blocks of one problem share what its fields make.
    struct Spin {
        std::uint32_t start;  // C mod 2^20
        std::int32_t base;    // of the exact field: H - sum_K - C q
        std::int16_t H;       // H16
    };
    struct Late {  // a visit that left lanes open: bit b is the chain of byte b
        std::int32_t spin, block;
        std::uint64_t open;
    };

    const Job &job;
    const std::int64_t first, blocks, per_problem;   // of the call, here, of each problem
    const std::int64_t n[2];
    const std::int64_t groups[2];                    // of a side as inputs, filled up to whole fours
    Array<std::uint8_t> memory[2];
    std::uint8_t *state[2];                          // [blocks, groups, 64], in whole lines of a cache
#if defined(HAS_WOVEN)
    Array<std::uint8_t> woven;                       // [blocks, groups, 64]: the inputs of a pass
#endif
    Array<std::uint8_t> bits;                        // [blocks, row bytes, 64]: the inputs of a pass, a bit each
    Array<std::uint32_t> low, high;                  // [blocks, 32]: keys of pairs
    Array<Spin> spin;                                // [problems here, n + m]
    Array<Late> late;                                // [blocks] for each spin of a tile
    std::int64_t late_count[tile] = {};
    Array<Threshold<own_beta>> threshold;            // [1 or blocks, drops]
    Array<float> rate;                               // [1 or blocks, 1 or 64]
    bool used[drops] = {};                           // which drops spins have
    Energies<Filter> energies;
    bool ready = false;

    std::int64_t problem(std::int64_t block) const { return (first + block) / per_problem; }
    std::int64_t replica(std::int64_t block) const { return (first + block) % per_problem * filter_lanes; }
    int count(std::int64_t block) const {
        const std::int64_t left = job.replicas - replica(block);
        return static_cast<int>(left < filter_lanes ? left : filter_lanes);
    }
    std::int64_t lane(std::int64_t block) const { return problem(block) * job.replicas + replica(block); }
    // Number w of a block's vector v (even bytes or odd ones) is lane (2 v + odd) numbers + w: replicas in pairs.
    static constexpr int byte_of(int lane) {
        const int vector = lane / numbers, w = lane % numbers;
        return vector / 2 * Wide::size + 2 * w + vector % 2;
    }
    static constexpr int lane_of(int byte) {
        return (byte / Wide::size * 2 + byte % 2) * numbers + byte % Wide::size / 2;
    }
    std::uint8_t *at(int side, std::int64_t block, std::int64_t group) const {
        return state[side] + (block * groups[side] + group) * filter_lanes;
    }

    Filter(const Job &j, std::int64_t f, std::int64_t end)
        : job(j), first(f), blocks(end - f), per_problem((j.replicas + filter_lanes - 1) / filter_lanes), n{j.n, j.m},
          groups{(j.n + 15) / 16 * 4, (j.m + 15) / 16 * 4}, energies(*this) {
        if (!energies.ready) return;
        for (int side = 0; side < 2; ++side) {
            if (!memory[side].resize(blocks * groups[side] * filter_lanes + 64)) return;
            state[side] = memory[side].data + (64 - reinterpret_cast<std::uintptr_t>(memory[side].data) % 64) % 64;
        }
        const std::int64_t spins = n[0] + n[1], problems = problem(blocks - 1) - problem(0) + 1;
        const std::int64_t row = job.rounded.row[0] > job.rounded.row[1] ? job.rounded.row[0] : job.rounded.row[1];
        if (!bits.resize(blocks * filter_lanes * (row / 8)) || !low.resize(blocks * 32) || !high.resize(blocks * 32) ||
            !spin.resize(problems * spins) || !late.resize(blocks * tile))
            return;
#if defined(HAS_WOVEN)
        if (!woven.resize(blocks * (groups[0] > groups[1] ? groups[0] : groups[1]) * filter_lanes)) return;
#endif
        if (!threshold.resize((own_beta ? blocks : 1) * drops)) return;
        if (!rate.resize(own_beta ? blocks * filter_lanes : 1)) return;
        for (std::int64_t i = 0; i < spins; ++i) used[job.tables.drop[i]] = true;
        for (std::int64_t b = 0; b < blocks; ++b)
            for (int k = 0; k < filter_lanes / 2; ++k) {
                const auto pair = job.first_replica / 2 + static_cast<std::uint32_t>(replica(b) / 2 + k);
                const Halves key(counter::lane_key(job.seed[problem(b)], pair));
                low[b * 32 + k] = key.low, high[b * 32 + k] = key.high;
            }
        for (std::int64_t p = 0; p < problems; ++p) {
            const double inverse = 1 / job.unit[problem(0) + p];
            const float *h = job.h + (problem(0) + p) * spins;
            for (std::int64_t i = 0; i < spins; ++i) spin[p * spins + i] = constants(i, law::units(h[i], inverse));
        }
        ready = true;
    }
    Spin constants(std::int64_t place, std::int32_t H) const {
        const std::int64_t inputs = groups[place < n[0]];
        const double q = std::ldexp(1.0, job.tables.drop[place]), H16 = std::nearbyint(H / (16 * q));
        const double rest = H - 16 * q * H16, middle = static_cast<double>(inputs) / 2 + 8;
#if defined(HAS_WOVEN)
        const std::int32_t less = job.rounded.sum_size[place];
#else
        const std::int32_t less = job.rounded.sum_K[place];
#endif
        const auto C = static_cast<std::int64_t>(std::nearbyint((rest - less) / q + middle));
        const std::int64_t base = H - less - C * (std::int64_t{1} << job.tables.drop[place]);
        const std::uint32_t start = static_cast<std::uint32_t>(C) & 0xFFFFFu;
        return {start, static_cast<std::int32_t>(base), static_cast<std::int16_t>(H16)};
    }
    const Spin *spins_of(std::int64_t block) const { return &spin[(problem(block) - problem(0)) * (n[0] + n[1])]; }

    // Floor(Y / 16) mod 2^16 of vector v: of even bytes, or of odd ones. Plane 0 has the bits 4 and 5 of Y below plane
    // 1.
    template <int N>
    static V field16(const PlaneSums<Wide, planes, N> &sums, int v, int odd) {
        const V top = odd ? Wide::bit_and(sums.top[v], Wide::all16(0xFF00)) : Wide::left16<8>(sums.top[v]);
        const V low = Wide::right16<4>(sums.plane[0][v][odd]), middle = Wide::left16<2>(sums.plane[1][v][odd]);
        return Wide::add16(Wide::add16(low, middle), top);
    }
    template <int N>
    static V rest16(const PlaneSums<Wide, planes, N> &sums, int v, int odd) {  // of Y
        return Wide::bit_and(sums.plane[0][v][odd], Wide::all16(15));
    }
#if defined(HAS_WOVEN)
    static V field16(const Woven &sums, int, int odd) { return sums.upper(odd); }
    static V rest16(const Woven &sums, int, int odd) { return sums.rest(odd); }
#endif

    // The upper halves of the words of a block's vector, less 2^15.
    V halves(std::int64_t block, int vector, V v0, V v1) const {
        const std::int64_t at = block * 32 + vector * (numbers / 2);
        return hash<Wide>(Wide::load(&low[at]), Wide::load(&high[at]), v0, v1);
    }
    // Bits that are 1 where 16-bit numbers are negative, in bytes again.
    static V bytes_of(V even, V odd) {
        return Wide::bit_or(Wide::right16<15>(even), Wide::left16<8>(Wide::right16<15>(odd)));
    }

    // Of a vector of lanes with fields F: where `below` is negative the spin becomes +1, where `open` is, the lane is
    // left open.
    struct Outcome {
        V below, open;
    };
    struct Constants {
        Curve<Wide> curve;
        const Threshold<own_beta> &threshold;
        Wide::Count shift;
    };
    // Lane `first` of the block comes first.
    __attribute__((always_inline)) static Outcome decide(V F, V random, int first, const Constants &c) {
        const Threshold<own_beta> &mine = c.threshold;
        const int at = own_beta ? first : 0;
        const V most = own_beta ? Wide::load(mine.most + at) : Wide::all16(mine.most[0]);
        const V factor = own_beta ? Wide::load(mine.factor + at) : Wide::all16(mine.factor[0]);
        V y = Wide::least16(Wide::size16(F), most);
        y = own_beta ? Wide::multiply16(y, Wide::load(mine.twice + at)) : Wide::left16(y, c.shift);
        const auto point = c.curve.template at<law::Rule::heat_bath>(Wide::upper16(y, factor));
        const V below = Wide::sub16_saturated(random, Wide::signed16(point.threshold, F));
        return {below, Wide::sub16(Wide::size16(below), point.margin)};
    }

    // What vectors of some blocks look up, from number `part` of them on, with the inputs on a side.
    template <int N>
    __attribute__((always_inline)) Sums<N> look_up(const std::uint8_t *table, [[maybe_unused]] int side,
                                                   std::int64_t block, int part, std::int64_t inputs,
                                                   const std::uint32_t *start) const {
#if defined(HAS_WOVEN)
        const std::int32_t C = static_cast<std::int32_t>(start[0] << 12) >> 12;
        return Woven(table, &woven[(block + part) * inputs * filter_lanes], inputs, C);
#else
        const std::int64_t apart = vectors == 1 ? inputs * filter_lanes : Wide::size;
        Sums<N> sums;
        add_up(table, at(side, block, 0) + part * apart, apart, inputs, start, sums);
        return sums;
#endif
    }

    // What a pass does with fields: it decides spins, adds up energies as well, or of the present spins alone.
    enum class Do { decide, decide_and_add, add };

    // Up to four spins from `from` on of a side (one group), in some blocks from `block` on.
    template <Do what, int some_blocks>
    void visit(int side, std::int64_t from, std::int64_t block, int tile_at, const std::uint64_t *key) {
        constexpr int N = vectors == 1 ? some_blocks : 2;  // vectors together
        const std::int64_t inputs = groups[1 - side], bytes = table_bytes(table_planes, job.rounded.row[side]);
        const int some = static_cast<int>(n[side] - from < 4 ? n[side] - from : 4);
        const std::uint8_t *drop = job.tables.drop + side * n[0] + from;
        std::uint8_t *group[some_blocks];
        const Spin *spins[some_blocks];
        V out[some_blocks][vectors];
        for (int b = 0; b < some_blocks; ++b) {
            group[b] = at(side, block + b, from / 4), spins[b] = spins_of(block + b) + side * n[0] + from;
            for (V &spin_bits : out[b]) spin_bits = Wide::zero();
        }
        for (int k = 0; k < some; ++k) {  // forwards, as tables lie, which the processor foresees
            const V v0 = Wide::all32(Halves(key[k]).low), v1 = Wide::all32(Halves(key[k]).high);
            const std::uint8_t *sums_of = job.tables.sums[side] + (from + k) * bytes;
            std::uint64_t open[some_blocks] = {};
            typename Energies<Filter>::Seen seen[what == Do::decide ? 1 : some_blocks];
            for (int part = 0; part < some_blocks * vectors; part += N) {
                std::uint32_t start[N];
                for (int v = 0; v < N; ++v) start[v] = spins[(part + v) / vectors][k].start;
                const Sums<N> sums = look_up<N>(sums_of, 1 - side, block, part, inputs, start);
#pragma GCC unroll 2
                for (int v = 0; v < N; ++v) {
                    const int b = (part + v) / vectors, vector = (part + v) % vectors;
                    const Spin &spin = spins[b][k];
                    if constexpr (what != Do::decide) {
                        for (int odd = 0; odd < 2; ++odd) {
                            const int lane = (2 * vector + odd) * numbers;
                            Wide::store(seen[b].field + lane, field16(sums, v, odd));
                            Wide::store(seen[b].rest + lane, rest16(sums, v, odd));
                            if constexpr (what == Do::add) {
                                const V now = Wide::left16(Wide::load(group[b] + vector * Wide::size),
                                                           Wide::count((odd ? 7 : 15) - k));
                                Wide::store(seen[b].up + lane, Wide::signs16(now));
                            }
                        }
                    }
                    if constexpr (what == Do::add) continue;
                    const Threshold<own_beta> &mine = threshold[(own_beta ? (block + b) * drops : 0) + drop[k]];
                    const Constants constants{Curve<Wide>(law::Rule::heat_bath, mine.margin), mine,
                                              Wide::count(mine.shift)};
                    Outcome outcome[2];
#pragma GCC unroll 2
                    for (int odd = 0; odd < 2; ++odd) {
                        const V F = Wide::add16_saturated(field16(sums, v, odd), Wide::all16(spin.H));
                        const V random = halves(block + b, 2 * vector + odd, v0, v1);
                        outcome[odd] = decide(F, random, (2 * vector + odd) * numbers, constants);
                        if constexpr (what == Do::decide_and_add)
                            Wide::store(seen[b].up + (2 * vector + odd) * numbers, Wide::signs16(outcome[odd].below));
                    }
                    const V up = bytes_of(outcome[0].below, outcome[1].below);
                    out[b][vector] = Wide::bit_or(out[b][vector], Wide::left16(up, Wide::count(k)));
                    const V left = Wide::uppers(outcome[0].open, outcome[1].open);
                    open[b] |= std::uint64_t{Wide::tops(left)} << vector * Wide::size;
                }
            }
            for (int b = 0; b < some_blocks; ++b) {
                if constexpr (what == Do::decide) {
                    std::int64_t &number = late_count[tile_at + k];
                    Late &next = late[(tile_at + k) * blocks + number];
                    next = {static_cast<std::int32_t>(from + k), static_cast<std::int32_t>(block + b), open[b]};
                    number += open[b] != 0;  // no branch: it could not be foreseen
                    continue;
                }
                const typename Energies<Filter>::Fields fields(energies, from + k, block + b, seen[b], spins[b][k].base,
                                                               drop[k]);
                for (std::uint64_t lanes = open[b]; lanes; lanes &= lanes - 1) {
                    const int byte = __builtin_ctzll(lanes), l = lane_of(byte);
                    if (l >= count(block + b)) continue;
                    const bool up = decided(block + b, l, fields.of(l), Halves(key[k]));
                    auto &spin_bits = reinterpret_cast<std::uint8_t *>(out[b])[byte];
                    spin_bits = static_cast<std::uint8_t>((spin_bits & ~(1 << k)) | up << k);
                    seen[b].up[l] = up ? -1 : 0;
                }
                energies.add(block + b, fields, seen[b]);
            }
        }
        if constexpr (what != Do::add)
            for (int b = 0; b < some_blocks; ++b)
                for (int v = 0; v < vectors; ++v) Wide::store(group[b] + v * Wide::size, out[b][v]);
    }

    // The inputs of a pass as bits, eight to a byte.
    void line_up(int side) {
        const std::int64_t bytes = job.rounded.row[1 - side] / 8;
        for (std::int64_t b = 0; b < blocks; ++b)
            for (std::int64_t g = 0; g < groups[side]; g += 2)
                for (int v = 0; v < filter_lanes; v += Wide::size) {
                    const V even = Wide::load(at(side, b, g) + v), odd = Wide::load(at(side, b, g + 1) + v);
                    Wide::store(&bits[(b * bytes + g / 2) * filter_lanes + v],
                                Wide::bit_or(even, Wide::template left16<4>(odd)));
                }
    }
    // The sum of 2 K over the inputs of a chain that are +1, by their bits, of which bytes lie apart.
    std::int32_t sum_exactly(int side, std::int64_t i, const std::uint8_t *inputs) const {
        constexpr int vectors = 32 / W;
        const std::int64_t row = job.rounded.row[side];
        const std::int32_t *twice_K = job.rounded.twice_K[side] + i * row;
        I sum[vectors] = {};
        for (std::int64_t j = 0; j < row; j += 32) {
            std::uint32_t word = 0;
            for (int byte = 0; byte < 4; ++byte, inputs += filter_lanes) word |= std::uint32_t{*inputs} << 8 * byte;
            for (int v = 0; v < vectors; ++v) sum[v] = add_at(sum[v], word, v, load<I>(twice_K + j + W * v));
        }
        std::int32_t total = 0;
        for (int v = 1; v < vectors; ++v) sum[0] += sum[v];
        for (int l = 0; l < W; ++l) total += sum[0][l];
        return total;
    }
    // Whether spin `key` of a lane that is left open becomes +1 in its exact field.
    bool decided(std::int64_t block, int l, std::int32_t f, Halves key) const {
        law::count_open();
        const Halves pair(std::uint64_t{high[block * 32 + l / 2]} << 32 | low[block * 32 + l / 2]);
        const std::uint32_t word = counter::word(pair, key, l % 2 ? 16 : 0);
        const float by = rate[own_beta ? block * filter_lanes + l : 0];
        return law::decide(law::Rule::heat_bath, by * static_cast<float>(f), word, false);
    }
    void decide_again(int side, const Late &visit, Halves key) {
        const std::int64_t i = visit.spin, place = side * n[0] + i, block = visit.block;
        const std::int32_t H = field_of(block, place);
        const std::int64_t bytes = job.rounded.row[side] / 8;
        for (std::uint64_t open = visit.open; open; open &= open - 1) {
            const int byte = __builtin_ctzll(open), l = lane_of(byte);
            if (l >= count(block)) continue;
            const std::uint8_t *inputs = &bits[block * bytes * filter_lanes + byte];
            const bool up = decided(block, l, H - job.rounded.sum_K[place] + sum_exactly(side, i, inputs), key);
            std::uint8_t &group = at(side, block, i / 4)[byte];
            group = static_cast<std::uint8_t>((group & ~(1 << i % 4)) | up << i % 4);
        }
    }
    template <Do what>
    void pass(int side, std::uint32_t number) {
        if constexpr (what == Do::decide) line_up(1 - side);
        else energies.clear();
#if defined(HAS_WOVEN)
        const std::int64_t inputs = groups[1 - side];
        for (std::int64_t b = 0; b < blocks; ++b)
            weave(at(1 - side, b, 0), inputs, &woven[b * inputs * filter_lanes]);
#endif
        for (std::int64_t from = 0; from < n[side]; from += tile) {
            const int width = static_cast<int>(n[side] - from < tile ? n[side] - from : tile);
            std::uint64_t key[tile];
            for (int k = 0; k < width; ++k)
                key[k] = counter::visit_key(number, static_cast<std::uint32_t>(side * n[0] + from + k));
            std::int64_t block = 0;
            for (; block + together <= blocks; block += together)
                for (int k = 0; k < width; k += 4) visit<what, together>(side, from + k, block, k, key + k);
            if (block < blocks)
                for (int k = 0; k < width; k += 4) visit<what, 1>(side, from + k, block, k, key + k);
            for (int k = 0; k < width; ++k) {
                for (std::int64_t r = 0; r < late_count[k]; ++r)
                    decide_again(side, late[k * blocks + r], Halves(key[k]));
                late_count[k] = 0;
            }
        }
    }

    // Uniform spins.
    void scatter() {
        for (int side = 0; side < 2; ++side)
            for (std::int64_t i = 0; i < n[side]; ++i) {
                const Halves key(counter::visit_key(counter::start_pass, static_cast<std::uint32_t>(side * n[0] + i)));
                const V v0 = Wide::all32(key.low), v1 = Wide::all32(key.high);
                const auto bit = Wide::count(static_cast<int>(i % 4));
                for (std::int64_t b = 0; b < blocks; ++b)
                    for (int v = 0; v < vectors; ++v) {
                        const V up = bytes_of(halves(b, 2 * v, v0, v1), halves(b, 2 * v + 1, v0, v1));
                        std::uint8_t *group = at(side, b, i / 4) + v * Wide::size;
                        Wide::store(group, Wide::bit_or(Wide::load(group), Wide::left16(up, bit)));
                    }
            }
    }
    // Between rows of bytes and the state.
    void pack() {
        for (std::int64_t b = 0; b < blocks; ++b)
            for (int l = 0; l < count(b); ++l)
                for (int side = 0; side < 2; ++side)
                    for (std::int64_t i = 0; i < n[side]; i += 64) {
                        const std::int64_t left = n[side] - i;
                        const std::int8_t *from = job.spins + (lane(b) + l) * (n[0] + n[1]) + side * n[0] + i;
                        std::uint64_t row = gather(from, static_cast<int>(left < 64 ? left : 64));
                        std::uint8_t *to = at(side, b, i / 4) + byte_of(l);
                        for (int k = 0; k < left && k < 64; k += 4, row >>= 4, to += filter_lanes) *to = row & 15;
                    }
    }
    void unpack() const override {
        for (std::int64_t b = 0; b < blocks; ++b)
            for (int l = 0; l < count(b); ++l)
                for (int side = 0; side < 2; ++side)
                    for (std::int64_t i = 0; i < n[side]; i += 64) {
                        const std::int64_t left = n[side] - i;
                        const std::uint8_t *from = at(side, b, i / 4) + byte_of(l);
                        std::uint64_t row = 0;
                        for (int k = 0; k < left && k < 64; k += 4, from += filter_lanes)
                            row |= std::uint64_t{*from} << k;
                        spread(row, job.spins + (lane(b) + l) * (n[0] + n[1]) + side * n[0] + i,
                               static_cast<int>(left < 64 ? left : 64));
                    }
    }

    std::int32_t field_of(std::int64_t block, std::int64_t place) const {  // H
        return law::units(job.h[problem(block) * (n[0] + n[1]) + place], 1 / job.unit[problem(block)]);
    }
    // The constants of a sweep, at the betas of all lanes of a block, or of any block.
    void heat(std::int64_t block, const float *now) {
        constexpr int lanes = Threshold<own_beta>::L;
        float beta[lanes];
        double coldest = 0;
        for (int l = 0; l < lanes; ++l) {
            beta[l] = now[own_beta ? lane(block) + (l < count(block) ? l : 0) : 0];
            rate[block * lanes + l] = law::rate(beta[l], job.unit[0]);
            if (static_cast<double>(beta[l]) > coldest) coldest = static_cast<double>(beta[l]);
        }
        const double inputs = static_cast<double>(groups[0] > groups[1] ? groups[0] : groups[1]);
        for (int drop = 0; drop < drops; ++drop) {
            if (!used[drop]) continue;
            Threshold<own_beta> &mine = threshold[block * drops + drop];
            const double q = std::ldexp(job.unit[0], drop);
            for (int l = 0; l < lanes; ++l) {
                const law::Scale scale = law::scale_of(static_cast<double>(beta[l]), 16 * q);
                mine.most[l] = scale.most, mine.factor[l] = scale.factor, mine.shift = scale.shift;
                mine.twice[l] = static_cast<std::uint16_t>(1 << scale.shift);
            }
            const double error = 2 * coldest * q * (17.0 / 32 * inputs + 8.5);
            law::margins<Curve<Wide>::Table>(law::Rule::heat_bath, error, mine.margin);
        }
    }
    const float *betas(int sweep) const { return job.beta + sweep * (own_beta ? job.beta_stride : 1); }
    // Unless they are those of the sweep before.
    void heat(int sweep) {
        const std::int64_t width = own_beta ? job.beta_stride : 1, from = own_beta ? lane(0) : 0;
        const std::int64_t lanes = own_beta ? lane(blocks - 1) + count(blocks - 1) - from : 1;
        const float *now = betas(sweep);
        const auto bytes = static_cast<std::size_t>(lanes) * sizeof(float);
        if (sweep && !std::memcmp(now + from, now + from - width, bytes)) return;
        for (std::int64_t block = 0; block < (own_beta ? blocks : 1); ++block) heat(block, now);
    }
    int run(bool go_on) override {
        if (!go_on) job.random_start ? scatter() : pack();
        const int last = job.last();
        int done = 0;
        bool measured = false;
        for (; done < job.sweeps && !stopped(job.halt); ++done) {
            const std::uint32_t number = job.first_sweep + static_cast<std::uint32_t>(done);
            measured = done + 1 == job.sweeps;
            heat(done);
            pass<Do::decide>(1, 2 * number);
            if (job.palindromic) pass<Do::decide>(0, 2 * number);
            const std::uint32_t back = 2 * number + job.palindromic;
            measured ? pass<Do::decide_and_add>(last, back) : pass<Do::decide>(last, back);
        }
        if (!measured) pass<Do::add>(last, 0);
        energies.write();
        for (std::int64_t b = 0; b < blocks; ++b)
            for (int l = 0; l < count(b); ++l) job.done[lane(b) + l] = done;
        return done;
    }
};

template <bool own_beta>
Chains *opened(const Job &job, std::int64_t first, std::int64_t end) {
    auto *chains = new (std::nothrow) Filter<own_beta>(job, first, end);
    if (chains && chains->ready) return chains;
    delete chains;
    return nullptr;
}
void *open(const Job &job, std::int64_t first, std::int64_t end) {
    return job.beta_stride ? opened<true>(job, first, end) : opened<false>(job, first, end);
}
int run(void *chains, bool go_on) { return static_cast<Chains *>(chains)->run(go_on); }
void write(void *chains) { static_cast<Chains *>(chains)->unpack(); }
void close(void *chains) { delete static_cast<Chains *>(chains); }

}  // namespace
}  // namespace bipartite
#endif
