// Sweeps of a block of lanes by fields of 16 bits: the sums of four couplings are looked up at once, nearly every spin is
// decided by a quadratic, and the few lanes that 16 bits leave open (law/filter.hpp) are decided again from the exact field.
//
// State: 32 bytes a spin. The lanes 0 to 31 of the block have bit 0 of a byte, the lanes 32 to 63 bit 4. So four neighbours,
// added up by Horner's rule, make two indices of four bits a byte. The spins of a colour do not see each other: a chunk of
// them is swept in three steps (fields, decisions, open lanes), each of which keeps its constants in registers.
#pragma once

#include "../law/filter.hpp"
#include "../vec/bytes.hpp"
#include "lanes.hpp"

#include <type_traits>

#if defined(HAS_BYTES)
namespace sparse {
namespace {

constexpr int state_bytes = 32;
constexpr int chunk = 32;  // spins
constexpr int numbers = Bytes::size / 2;  // 16-bit ones of a vector

// The tables of both rules; made at the first call.
inline const law::Quadratics &quadratics(Rule rule) {
    static const law::Quadratics both[] = {law::make_quadratics(Rule::heat_bath), law::make_quadratics(Rule::metropolis)};
    return both[static_cast<int>(rule)];
}

// Random words and decisions of L lanes, as vectors q of 16-bit numbers w: number w of vector q is lane q * numbers + w.
template <int L, bool own_beta>
struct Decisions {
    typedef Bytes::V V;
    static constexpr int Q = L / numbers;

    alignas(64) std::uint32_t low[2][L / 2], high[2][L / 2], odd[2][L / 2];  // keys of even and of odd numbers
    bool paired = true;                                                      // which share hashes
    alignas(64) std::uint16_t most[L], factor[L], twice[L];
    int shift = 0;
    alignas(16) std::uint16_t margin[2][law::segments];

    template <class Block>
    void keys(const Block &block, const int *place_of) {
        for (int l = 0; l < L; ++l) {
            const int from = place_of[l], to = l / 2;
            low[l & 1][to] = block.low[from], high[l & 1][to] = block.high[from];
            odd[l & 1][to] = block.odd[from] ? ~0u : 0;
        }
        for (int k = 0; k < L / 2; ++k)
            paired = paired && low[0][k] == low[1][k] && high[0][k] == high[1][k] && !odd[0][k] && odd[1][k];
    }
    // At the betas of all lanes, for fields of `rounded` numbers in steps of `unit(l)`.
    template <class Unit>
    void heat(const float *beta, Unit unit, int rounded) {
        for (int l = 0; l < (own_beta ? L : 1); ++l) {
            const law::Scale scale = law::scale_of(static_cast<double>(beta[l]), unit(l));
            most[l] = scale.most, factor[l] = scale.factor, shift = scale.shift;
            twice[l] = static_cast<std::uint16_t>(1 << scale.shift);
        }
        bound(beta, unit, rounded);
    }
    template <class Unit>
    void bound(const float *beta, Unit unit, int rounded) {
        double field = 0;
        for (int l = 0; l < (own_beta ? L : 1); ++l) {
            const double error = law::field_error(static_cast<double>(beta[l]), unit(l), rounded);
            if (error > field) field = error;  // as std::fmax, over which GCC 12 breaks down on aarch64
        }
        law::margins(quadratics(Rule::heat_bath), Rule::heat_bath, field, margin[0]);
        law::margins(quadratics(Rule::metropolis), Rule::metropolis, field, margin[1]);
    }

    // The upper halves of words of vector q, less 2^15.
    template <bool paired>
    __attribute__((always_inline)) inline V halves(int q, V v0, V v1) const {
        const int at = q * numbers / 2;
        const V even = hash(Bytes::load(low[0] + at), Bytes::load(high[0] + at), v0, v1);
        if (paired) return even;
        const V other = hash(Bytes::load(low[1] + at), Bytes::load(high[1] + at), v0, v1);
        const V first = Bytes::either(Bytes::load(odd[0] + at), Bytes::right32<16>(even), even);
        const V second = Bytes::either(Bytes::load(odd[1] + at), other, Bytes::left32<16>(other));
        return Bytes::either(Bytes::all32(0xFFFFu), first, second);
    }

    // Of vector q: where a lane is negative the spin becomes +1 (heat bath) or is flipped (Metropolis), and whether the lane
    // is left open (negative). `down` is all ones where a spin is -1.
    struct Outcome {
        V below, open;
    };
    struct Constants {  // in registers, as far as they go
        V c0, c1, c2, margin, most, factor, twin;
        Bytes::Count shift;
    };
    template <Rule rule>
    Constants constants() const {
        const law::Quadratics &table = quadratics(rule);
        return {Bytes::table(table.c0), Bytes::table(table.c1), Bytes::table(table.c2),
                Bytes::table(margin[static_cast<int>(rule)]), Bytes::all16(most[0]), Bytes::all16(factor[0]),
                Bytes::unknown(Bytes::all16(0x0202)), Bytes::count(shift)};
    }
    template <Rule rule>
    __attribute__((always_inline)) inline Outcome decide(int q, V f, V halves, V down, const Constants &c) const {
        const int at = q * numbers;
        const V bound = own_beta ? Bytes::load(most + at) : c.most;
        const V by = own_beta ? Bytes::load(factor + at) : c.factor;
        V a = Bytes::least16(Bytes::size16(f), bound);
        a = own_beta ? Bytes::multiply16(a, Bytes::load(twice + at)) : Bytes::left16(a, c.shift);
        const V y = Bytes::upper16(a, by);
        // The two bytes of entry k of a table of 16-bit numbers.
        const V k = Bytes::add16(Bytes::multiply16(Bytes::right16<12>(y), c.twin), Bytes::all16(0x0100));
        const V t = Bytes::left16<4>(y);
        const V inner = Bytes::sub16(Bytes::look(c.c1, k), Bytes::share16(t, Bytes::look(c.c2, k)));
        // Metropolis' first segment is so steep that `inner` needs 16 bits.
        const V fall = rule == Rule::heat_bath ? Bytes::share16(t, inner) : Bytes::upper16(t, inner);
        V threshold = Bytes::sub16(Bytes::look(c.c0, k), fall);
        if (rule == Rule::heat_bath) {
            threshold = Bytes::signed16(threshold, f);
        } else {  // uphill where s f < 0: the flip of a spin +1 in a field f < 0, of one -1 in f > 0
            const V uphill = Bytes::above16(Bytes::sub16(Bytes::bit_xor(f, Bytes::bit_not(down)), Bytes::bit_not(down)),
                                            Bytes::zero());
            threshold = Bytes::either(uphill, threshold, Bytes::all16(0x7FFF));
        }
        const V below = Bytes::sub16_saturated(halves, threshold);
        return {below, Bytes::sub16(Bytes::size16(below), Bytes::look(c.margin, k))};
    }
};

template <int L, bool own_h, bool own_beta>
struct Filter {
    typedef Bytes::V V;
    using Word = std::conditional_t<L == 64, std::uint64_t, std::uint32_t>;
    using Block = Lanes<Word, own_h, false>;
    using Outcome = typename Decisions<L, own_beta>::Outcome;
    static constexpr int planes = L / 32, parts = state_bytes / Bytes::size, per_part = 2 * planes;
    static constexpr int H = own_h ? L : 1;

    Block block;
    const Job &job;
    Array<std::uint8_t> memory;
    std::uint8_t *state;          // [n + 1, 32], 64-byte aligned; the last is for groups of fewer than four
    Array<std::uint16_t> base;    // (H - sum K) in 16 bits: [n] or [n, L] by vector
    int place_of[L];              // of each lane
    Decisions<L, own_beta> decisions;
    struct Open {  // a spin with lanes left open: the tops of bytes, as in the state
        V tops[planes], before;
        std::uint64_t key;
        int spin, part;
    };
    Open queue[2][chunk * parts + 1];  // of the present chunk and of the one before
    int queued[2] = {}, filling = 0;
    bool ready = false;

    // Lane q * numbers + w, vector q = part * per_part + 2 * plane + half, has bit 4 * plane of a byte of the state, and the
    // place that is the number of the bit.
    static int lane_at(int place) {
        const int plane = place / 32, part = place % 32 / Bytes::size, byte = place % Bytes::size;
        for (int half = 0; half < 2; ++half)
            for (int w = 0; w < numbers; ++w)
                if (Bytes::byte_of(half, w) == byte) return (part * per_part + 2 * plane + half) * numbers + w;
        return 0;
    }

    Filter(const Job &j, std::int64_t first, int count) : block(j, first, count, lane_at), job(block.job) {
        const std::int64_t n = job.n;
        if (!block.ready || !memory.resize((n + 1) * state_bytes + 64) || !base.resize(n * H)) return;
        state = memory.data + (64 - reinterpret_cast<std::uintptr_t>(memory.data) % 64) % 64;
        for (int place = 0; place < L; ++place) place_of[block.lane_of[place]] = place;
        decisions.keys(block, place_of);
        const double steps = job.unit[0] / static_cast<double>(job.tables.unit);  // one unit serves all
        for (std::int64_t i = 0; i < n; ++i) {
            std::int32_t field[H];
            for (int l = 0; l < H; ++l) field[l] = block.h[i * H + (own_h ? place_of[l] : 0)] - job.sum_K[i];
            for (int l = 0; l < H; ++l) base[i * H + l] = static_cast<std::uint16_t>(law::whole(field[l] * steps));
        }
        ready = true;
    }

    // The block's bits to the state, and back. A word's four bytes are spread over eight bytes each, of which each keeps one
    // bit.
    __attribute__((noinline)) void take() {
        alignas(32) std::uint8_t byte[32], bit[32];
        for (int b = 0; b < 32; ++b) byte[b] = static_cast<std::uint8_t>(b / 8), bit[b] = static_cast<std::uint8_t>(1 << b % 8);
        const auto bits = [&](std::uint32_t word, int part) {
            const V bytes = Bytes::look(Bytes::all32(word), Bytes::load(byte + part * Bytes::size));
            const V mask = Bytes::load(bit + part * Bytes::size);
            return Bytes::same8(Bytes::bit_and(bytes, mask), mask);
        };
        for (int i = 0; i < job.n; ++i)
            for (int part = 0; part < parts; ++part) {
                const Word word = block.word[i];
                V to = Bytes::bit_and(bits(static_cast<std::uint32_t>(word), part), Bytes::all8(1));
                if (planes > 1) {
                    const V high = bits(static_cast<std::uint32_t>(std::uint64_t{word} >> 32), part);
                    to = Bytes::bit_or(to, Bytes::bit_and(high, Bytes::all8(0x10)));
                }
                Bytes::store(state + i * state_bytes + part * Bytes::size, to);
            }
    }
    __attribute__((noinline)) void give() {
        for (int i = 0; i < job.n; ++i) {
            Word bits = 0;
            for (int part = 0; part < parts; ++part) {
                const V bytes = Bytes::load(state + i * state_bytes + part * Bytes::size);
                bits |= static_cast<Word>(Bytes::tops(Bytes::left16<7>(bytes))) << part * Bytes::size;
                if (planes > 1)
                    bits |= static_cast<Word>(std::uint64_t{Bytes::tops(Bytes::left16<3>(bytes))} << (32 + part * Bytes::size));
            }
            block.word[i] = bits;
        }
    }

    // The field of spin i in a part's vectors, in 16 bits.
    __attribute__((always_inline)) inline void field(int i, int part, V *f) const {
        const Tables &tables = job.tables;
        const std::uint8_t *mine = state + part * Bytes::size;
        V sum[per_part];
        for (int q = 0; q < per_part; ++q)
            sum[q] = own_h ? Bytes::load(&base[std::int64_t{i} * L + (part * per_part + q) * numbers]) : Bytes::all16(base[i]);
        for (std::int32_t g = tables.group[i]; g < tables.group[i + 1]; ++g) {
            const std::uint32_t *at = tables.state + 4 * std::int64_t{g};
            V x = Bytes::load(mine + at[3]);
            x = Bytes::twice8(x, Bytes::load(mine + at[2]));
            x = Bytes::twice8(x, Bytes::load(mine + at[1]));
            x = Bytes::twice8(x, Bytes::load(mine + at[0]));
            const V lows = Bytes::table(tables.sums + 32 * std::int64_t{g});
            const V highs = Bytes::table(tables.sums + 32 * std::int64_t{g} + 16);
#pragma GCC unroll 2
            for (int plane = 0; plane < planes; ++plane) {
                const V index = planes == 1 ? x : plane ? Bytes::upper4(x) : Bytes::lower4(x);
                const V l = Bytes::look(lows, index), h = Bytes::look(highs, index);
                sum[2 * plane] = Bytes::add16(sum[2 * plane], Bytes::low8(l, h));
                sum[2 * plane + 1] = Bytes::add16(sum[2 * plane + 1], Bytes::high8(l, h));
            }
        }
        for (int q = 0; q < per_part; ++q) f[q] = sum[q];
    }
    // All ones where the spins of vector q of a part are -1.
    __attribute__((always_inline)) inline V down(V bytes, int q) const {
        const V bits = Bytes::bit_and(q / 2 ? Bytes::right16<4>(bytes) : bytes, Bytes::all8(1));
        const V numbers = q % 2 ? Bytes::high8(bits, bits) : Bytes::low8(bits, bits);  // 0 or 0x0101
        return Bytes::sub16(Bytes::bit_and(numbers, Bytes::all16(1)), Bytes::all16(1));
    }

    // The lane at a place of a spin that 16 bits left open, by the law; `up` is its spin before. Couplings are read from the
    // tables' own lists, which the spin's field has just brought near.
    __attribute__((always_inline)) inline void decide_again(int i, int place, Halves visit, Rule rule, bool up, const float *rate) {
        law::count_open();
        const Tables &tables = job.tables;
        const int bit = place / 32 * 4;
        std::uint8_t *mine = state + place % 32;
        std::int32_t f = block.h[own_h ? std::int64_t{i} * L + place : i] - job.sum_K[i];
        for (std::int64_t k = 4 * std::int64_t{tables.group[i]}; k < 4 * std::int64_t{tables.group[i + 1]}; k += 4)
            for (int m = 0; m < 4; ++m)  // no branch: spins cannot be foreseen
                f += tables.twice_K[k + m] & -static_cast<std::int32_t>(mine[tables.state[k + m]] >> bit & 1);
        const std::uint32_t word = counter::word(block.key(place), visit, block.odd[place] ? 16 : 0);
        const bool now = law::decide(rule, rate[own_beta || own_h ? place : 0] * static_cast<float>(f), word, up);
        std::uint8_t &bits = mine[std::int64_t{i} * state_bytes];
        bits = static_cast<std::uint8_t>((bits & ~(1 << bit)) | now << bit);
    }

    // One part of the spins from .. end - 1, which are of one colour.
    template <Rule rule, bool paired>
    void sweep_part(int part, int from, int end, const std::uint64_t *key) {
        constexpr bool metropolis = rule == Rule::metropolis;
        const auto constants = decisions.template constants<rule>();
        V fields[chunk][per_part], before[metropolis ? chunk : 1];
        for (int i = from; i < end; ++i) field(i, part, fields[i - from]);

        const auto decide = [&](int i, int q, V v0, V v1) __attribute__((always_inline)) {
            const int number = part * per_part + q;
            const V dark = metropolis ? down(before[i - from], q) : Bytes::zero();
            const V halves = decisions.template halves<paired>(number, v0, v1);
            return decisions.template decide<rule>(number, fields[i - from][q], halves, dark, constants);
        };
        Open *open = queue[filling] + queued[filling];
        for (int i = from; i < end; ++i) {
            std::uint8_t *to = state + i * state_bytes + part * Bytes::size;
            const Halves visit(key[i - from]);
            const V v0 = Bytes::all32(visit.low), v1 = Bytes::all32(visit.high);
            if (metropolis) before[i - from] = Bytes::load(to);
            Outcome outcome[per_part];
#pragma GCC unroll 4
            for (int q = 0; q < per_part; ++q) outcome[q] = decide(i, q, v0, v1);
            V bits = Bytes::bit_and(Bytes::right16<7>(Bytes::pack(outcome[0].below, outcome[1].below)), Bytes::all8(1));
            V any = open->tops[0] = Bytes::pack(outcome[0].open, outcome[1].open);
            if (planes > 1) {
                constexpr int a = per_part - 2, b = per_part - 1;
                const V more = Bytes::right16<3>(Bytes::pack(outcome[a].below, outcome[b].below));
                bits = Bytes::bit_or(bits, Bytes::bit_and(more, Bytes::all8(0x10)));
                open->tops[planes - 1] = Bytes::pack(outcome[a].open, outcome[b].open);
                any = Bytes::bit_or(any, open->tops[planes - 1]);
            }
            Bytes::store(to, metropolis ? Bytes::bit_xor(before[i - from], bits) : bits);
            open->spin = i;
            open += Bytes::any_top(any);  // no branch: it could not be foreseen
        }
        for (Open *late = queue[filling] + queued[filling]; late != open; ++late) {
            late->part = part, late->key = key[late->spin - from];
            if (metropolis) late->before = before[late->spin - from];
            fetch(late->spin);
        }
        queued[filling] = static_cast<int>(open - queue[filling]);
    }
    // What `decide_again` needs, and the fields did not.
    void fetch(int i) const {
        const std::int32_t *begin = job.tables.twice_K + 4 * std::int64_t{job.tables.group[i]};
        const std::int32_t *end = job.tables.twice_K + 4 * std::int64_t{job.tables.group[i + 1]};
        for (; begin < end; begin += 16) __builtin_prefetch(begin);
        if (end > job.tables.twice_K) __builtin_prefetch(end - 1);
        __builtin_prefetch(&block.h[own_h ? std::int64_t{i} * L : i]);
        __builtin_prefetch(job.sum_K + i);
    }
    // The lanes left open by the chunk before (the same colour's: no neighbour of theirs has been visited since).
    void settle(Rule rule, const float *rate) {
        filling ^= 1;
        for (const Open *late = queue[filling]; late != queue[filling] + queued[filling]; ++late) {
            alignas(32) std::uint8_t old[Bytes::size] = {};
            if (rule == Rule::metropolis) Bytes::store(old, late->before);
            std::uint64_t left = Bytes::tops(late->tops[0]);
            if (planes > 1) left |= std::uint64_t{Bytes::tops(late->tops[planes - 1])} << 32;
            for (; left; left &= left - 1) {
                const int bit = __builtin_ctzll(left), place = bit + late->part * Bytes::size;
                decide_again(late->spin, place, Halves(late->key), rule, old[bit % 32] >> (bit / 32 * 4) & 1, rate);
            }
        }
        queued[filling] = 0;
    }
    template <Rule rule>
    void sweep_colour(int colour, std::uint32_t pass, const float *rate) {
        for (int from = job.colour[colour]; from < job.colour[colour + 1]; from += chunk) {
            const int end = job.colour[colour + 1] - from < chunk ? job.colour[colour + 1] : from + chunk;
            std::uint64_t key[chunk];
            for (int i = from; i < end; ++i)
                key[i - from] = counter::visit_key(pass, static_cast<std::uint32_t>(job.order[i]));
            for (int part = 0; part < parts; ++part)
                decisions.paired ? sweep_part<rule, true>(part, from, end, key)
                                 : sweep_part<rule, false>(part, from, end, key);
            settle(rule, rate);
        }
        settle(rule, rate);
    }
    template <Rule rule>
    void sweep(std::uint32_t number, const float *rate) {
        for (int colour = 0; colour < job.colours; ++colour) sweep_colour<rule>(colour, 2 * number, rate);
        for (int colour = job.palindromic ? job.colours : 0; colour-- > 0;)
            sweep_colour<rule>(colour, 2 * number + 1, rate);
    }

    int run() {
        if (!ready) return -1;
        job.random_start ? block.scatter() : block.pack();
        take();
        float beta[L], rate[L];  // by lane, and by place
        int done = 0;
        for (; done < job.sweeps && !job.stop->load(std::memory_order_relaxed); ++done) {
            const float *now = job.beta + done * (job.beta_stride ? job.beta_stride : 1);
            if (!done || job.beta_stride || now[0] != now[-1]) {
                for (int l = 0; l < L; ++l) beta[l] = block.beta(now, place_of[l]);
                for (int place = 0; place < L; ++place) rate[place] = law::rate(block.beta(now, place), block.unit(place));
                decisions.heat(beta, [&](int) { return static_cast<double>(job.tables.unit); }, job.tables.deepest + 1);
            }
            const std::uint32_t number = job.first_sweep + static_cast<std::uint32_t>(done);
            const bool metropolis = law::rule_of(job.metropolis, number) == Rule::metropolis;
            metropolis ? sweep<Rule::metropolis>(number, rate) : sweep<Rule::heat_bath>(number, rate);
        }
        give();
        block.give(done);
        return done;
    }
};

template <int L>
int run_filter(const Job &job, std::int64_t first, int count) {
    if (job.beta_stride) return Filter<L, true, true>(job, first, count).run();
    if (job.problems > 1) return Filter<L, true, false>(job, first, count).run();
    return Filter<L, false, false>(job, first, count).run();
}

// Entry m of a group: the sum of those of its four couplings, doubled, whose bits are set in m, in steps of a field in 16
// bits. Rounded once, and off by 0.02 at most before: two roundings of each coupling and three of each sum to 2^-24 of 2^16.
inline void fill(const Job &job, std::uint8_t *sums) {
    const auto steps = static_cast<float>(job.unit[0] / static_cast<double>(job.tables.unit));
    U has[16 / W][4];  // entries that hold each coupling, all ones
    for (int m = 0; m < 16; ++m)
        for (int k = 0; k < 4; ++k) has[m / W][k][m % W] = m >> k & 1 ? ~0u : 0;
    const std::int32_t groups = job.tables.group[job.n];
    for (const std::int32_t *four = job.tables.twice_K; four < job.tables.twice_K + 4 * std::int64_t{groups}; four += 4, sums += 32)
        for (int v = 0; v < 16 / W; ++v) {
            F sum = {};
#pragma GCC unroll 4
            for (int k = 0; k < 4; ++k) sum += (F)((U)splat(static_cast<float>(four[k]) * steps) & has[v][k]);
            const U whole = (U)(sum + law::rounder);  // the low bits: the nearest whole number
            store_bytes(sums + v * W, whole & 0xFFu);
            store_bytes(sums + 16 + v * W, whole >> 8 & 0xFFu);
        }
}

}  // namespace
}  // namespace sparse
#endif
