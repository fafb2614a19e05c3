// Sweeps of a block of lanes by fields of 16 bits: the sums of four couplings are looked up at once, nearly every spin is
// decided by a curve (vec/curve.hpp), and the few lanes that 16 bits leave open (law/filter.hpp) are decided again from the
// exact field.
//
// State: 32 bytes a spin. The lanes 0 to 31 of the block have bit 0 of a byte, the lanes 32 to 63 bit 4. So four neighbours,
// added up by Horner's rule, make two indices of four bits a byte. The spins of a colour do not see each other: a chunk of
// them is swept in three steps (fields, decisions, open lanes), each of which keeps its constants in registers.
#pragma once

#include "../vec/curve.hpp"
#include "lanes.hpp"
#include "turns.hpp"

#include <new>
#include <type_traits>

#if defined(HAS_BYTES)
namespace sparse {
namespace {

constexpr int state_bytes = 32;
constexpr int chunk = 32;  // spins

// A group's sixteen sums, and the numbers that a vector of bytes stands for: `half` 0 or 1 is one or the other vector of
// them. Either sums are looked up whole, in the even bytes and in the odd ones; or byte by byte.
#if defined(HAS_WIDE)
template <class B>
struct Sums {
    typedef typename B::V V;
    V table;
    explicit Sums(const std::uint8_t *sums) : table(B::words(sums)) {}
    // Of indices in the lower four bits of bytes.
    __attribute__((always_inline)) inline void add(V index, V *sum) const {
        sum[0] = B::add16(sum[0], B::look16(table, index));
        sum[1] = B::add16(sum[1], B::look16(table, number(index, 1)));
    }
    static constexpr int byte_of(int half, int w) { return 2 * w + half; }
    static V number(V bytes, int half) { return half ? B::upper16(bytes, B::all16(256)) : bytes; }  // and more above it
    static V tops(V first, V second) { return B::uppers(first, second); }
};
#else
template <class B>
struct Sums {
    typedef typename B::V V;
    V lows, highs;
    explicit Sums(const std::uint8_t *sums) : lows(B::table(sums)), highs(B::table(sums + 16)) {}
    __attribute__((always_inline)) inline void add(V index, V *sum) const {
        const V l = B::look(lows, index), h = B::look(highs, index);
        sum[0] = B::add16(sum[0], B::low8(l, h)), sum[1] = B::add16(sum[1], B::high8(l, h));
    }
    static constexpr int byte_of(int half, int w) { return B::byte_of(half, w); }
    static V number(V bytes, int half) { return half ? B::high8(bytes, bytes) : B::low8(bytes, bytes); }
    static V tops(V first, V second) { return B::pack(first, second); }
};
#endif

// How the planes of a state, bits 0 and bits 4 of its bytes, become vectors of a byte a lane: a vector for each plane, ...
template <class B, int planes>
struct Planes {
    typedef typename B::V V;
    typedef B State;
    static constexpr int vectors = planes;
    // Vector v of indices of four bits.
    static V index(V x, int v) { return planes == 1 ? x : v ? B::upper4(x) : B::lower4(x); }
    // Bit 0 of each byte is the lane's.
    static V bits(V state, int v) { return v ? B::template right16<4>(state) : state; }
    // The state of the tops of bytes.
    static V state(const V *tops) {
        const V low = B::bit_and(B::template right16<7>(tops[0]), B::all8(1));
        if (planes == 1) return low;
        return B::bit_or(low, B::bit_and(B::template right16<3>(tops[planes - 1]), B::all8(0x10)));
    }
};
#if defined(HAS_WIDE)
// ... or both planes in one, whose indices have other bits above them.
template <>
struct Planes<Wide, 2> {
    typedef Wide::V V;
    typedef Bytes State;
    static constexpr int vectors = 1;
    static V bits(State::V state, int) { return Wide::join(state, State::upper16(state, State::all16(4096))); }
    static V index(State::V x, int) { return bits(x, 0); }
    static State::V state(const V *tops) {
        const State::V low = State::right16<7>(Wide::lower_half(tops[0])), high = State::right16<3>(Wide::upper_half(tops[0]));
        return State::bit_or(State::bit_and(low, State::all8(1)), State::bit_and(high, State::all8(0x10)));
    }
};
#endif

// Random words and decisions of L lanes, as vectors q of 16-bit numbers w: number w of vector q is lane q * numbers + w.
template <class B, int L, bool own_beta>
struct Decisions {
    typedef typename B::V V;
    static constexpr int numbers = B::size / 2;  // 16-bit ones of a vector
    static constexpr int none = 0x80;            // byte, to look up

    alignas(64) std::uint32_t low[2][L / 2], high[2][L / 2];  // keys of even and of odd numbers
    bool paired = true;                                       // which share hashes; else each picks its half of its own
    alignas(64) std::uint8_t pick[2][L / 2][4];
    alignas(64) std::uint16_t most[L], factor[L], twice[L];
    int shift = 0;
    bool metropolis = true;                                                  // whether that rule is asked for
    using Margins = std::uint16_t[Curve<B>::Table::segments];
    alignas(64) Margins margin[2];                                           // of either rule

    template <class Block>
    void keys(const Block &block, const int *place_of) {
        for (int l = 0; l < L; ++l) {
            const int from = place_of[l], to = l / 2;
            low[l & 1][to] = block.low[from], high[l & 1][to] = block.high[from];
            const bool other = l & 1;
            paired = paired && block.odd[from] == other && low[other][to] == low[0][to] && high[other][to] == high[0][to];
            for (int byte = 0; byte < 4; ++byte) {
                const bool mine = byte / 2 == static_cast<int>(other);
                const int half = 4 * (to % 4) + (block.odd[from] ? 2 : 0);
                pick[other][to][byte] = static_cast<std::uint8_t>(mine ? half + byte % 2 : none);
            }
        }
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
        law::margins<typename Curve<B>::Table>(Rule::heat_bath, field, margin[0]);
        if (metropolis) law::margins<typename Curve<B>::Table>(Rule::metropolis, field, margin[1]);
    }

    // The upper halves of words of vector q, less 2^15.
    template <bool paired>
    __attribute__((always_inline)) inline V halves(int q, V v0, V v1) const {
        const int at = q * numbers / 2;
        const V even = hash<B>(B::load(low[0] + at), B::load(high[0] + at), v0, v1);
        if (paired) return even;
        const V other = hash<B>(B::load(low[1] + at), B::load(high[1] + at), v0, v1);
        return B::bit_or(B::look(even, B::load(pick[0] + at)), B::look(other, B::load(pick[1] + at)));
    }

    // Of vector q: where a lane is negative the spin becomes +1 (heat bath) or is flipped (Metropolis), and whether the lane
    // is left open (negative). `down` is all ones where a spin is -1.
    struct Outcome {
        V below, open;
    };
    struct Constants {  // in registers, as far as they go
        Curve<B> curve;
        V most, factor;
        typename B::Count shift;
    };
    template <Rule rule>
    Constants constants() const {
        return {Curve<B>(rule, margin[static_cast<int>(rule)]), B::all16(most[0]), B::all16(factor[0]), B::count(shift)};
    }
    template <Rule rule>
    __attribute__((always_inline)) inline Outcome decide(int q, V f, V halves, V down, const Constants &c) const {
        const int at = q * numbers;
        const V bound = own_beta ? B::load(most + at) : c.most;
        const V by = own_beta ? B::load(factor + at) : c.factor;
        V a = B::least16(B::size16(f), bound);
        a = own_beta ? B::multiply16(a, B::load(twice + at)) : B::left16(a, c.shift);
        const auto point = c.curve.template at<rule>(B::upper16(a, by));
        V threshold = point.threshold;
        if (rule == Rule::heat_bath) {
            threshold = B::signed16(threshold, f);
        } else {  // uphill where s f < 0: the flip of a spin +1 in a field f < 0, of one -1 in f > 0
            const V uphill = B::above16(B::sub16(B::bit_xor(f, B::bit_not(down)), B::bit_not(down)),
                                            B::zero());
            threshold = B::either(uphill, threshold, B::all16(0x7FFF));
        }
        const V below = B::sub16_saturated(halves, threshold);
        return {below, B::sub16(B::size16(below), point.margin)};
    }
};

// A block, and what threads that sweep it share.
template <class B, int L, bool own_h, bool own_beta>
struct Filtered {
    using P = Planes<B, L / 32>;
    using S = typename P::State;
    typedef typename B::V V;
    typedef typename S::V State;
    using Word = std::conditional_t<L == 64, std::uint64_t, std::uint32_t>;
    using Block = Lanes<Word, own_h, false>;
    using Decide = Decisions<B, L, own_beta>;
    static constexpr int planes = L / 32, parts = state_bytes / S::size, vectors = P::vectors, per_part = 2 * vectors;
    static constexpr int numbers = Decide::numbers;
    static constexpr int H = own_h ? L : 1;

    Block block;
    const Job &job;
    Array<std::uint8_t> memory;
    std::uint8_t *state;          // [n + 1, 32], 64-byte aligned; the last is for groups of fewer than four
    Array<std::uint16_t> base;    // (H - sum K) in 16 bits: [n] or [n, L] by vector
    int place_of[L];              // of each lane
    Decide decisions;             // without betas
    Turns turns;
    bool ready = false;

    // Place 32 p + b is bit 4 p of byte b of the state. The bytes of a part, plane by plane, are those of its vectors; a
    // vector's bytes are two vectors of numbers, and number w of vector q of them all is lane q * numbers + w.
    static int lane_at(int place) {
        const int part = place % 32 / S::size, in_part = place / 32 * S::size + place % S::size;
        for (int half = 0; half < 2; ++half)
            for (int w = 0; w < numbers; ++w)
                if (Sums<B>::byte_of(half, w) == in_part % B::size)
                    return (part * per_part + 2 * (in_part / B::size) + half) * numbers + w;
        return 0;
    }
    Filtered(const Job &j, std::int64_t first, int count)
        : block(j, first, count, lane_at), job(block.job), turns(job.sweeps) {
        const std::int64_t n = job.n;
        if (!block.ready || !memory.resize((n + 1) * state_bytes + 64) || !base.resize(n * H)) return;
        state = memory.data + (64 - reinterpret_cast<std::uintptr_t>(memory.data) % 64) % 64;
        for (int place = 0; place < L; ++place) place_of[block.lane_of[place]] = place;
        decisions.keys(block, place_of);
        decisions.metropolis = job.metropolis;
        const double steps = job.unit[0] / static_cast<double>(job.tables.unit);  // one unit serves all
        for (std::int64_t i = 0; i < n; ++i) {
            std::int32_t field[H];
            for (int l = 0; l < H; ++l) field[l] = block.h[i * H + (own_h ? place_of[l] : 0)] - job.sum_K[i];
            for (int l = 0; l < H; ++l) base[i * H + l] = static_cast<std::uint16_t>(law::whole(field[l] * steps));
        }
        job.random_start ? block.scatter() : block.pack();
        take();
        ready = true;
    }

    // The block's bits to the state, and back. A word's four bytes are spread over eight bytes each, of which each keeps one
    // bit.
    __attribute__((noinline)) void take() {
        alignas(32) std::uint8_t byte[32], bit[32];
        for (int b = 0; b < 32; ++b) byte[b] = static_cast<std::uint8_t>(b / 8), bit[b] = static_cast<std::uint8_t>(1 << b % 8);
        const auto bits = [&](std::uint32_t word, int part) {
            const State bytes = S::look(S::all32(word), S::load(byte + part * S::size));
            const State mask = S::load(bit + part * S::size);
            return S::same8(S::bit_and(bytes, mask), mask);
        };
        for (int i = 0; i < job.n; ++i)
            for (int part = 0; part < parts; ++part) {
                const Word word = block.word[i];
                State to = S::bit_and(bits(static_cast<std::uint32_t>(word), part), S::all8(1));
                if (planes > 1) {
                    const State high = bits(static_cast<std::uint32_t>(std::uint64_t{word} >> 32), part);
                    to = S::bit_or(to, S::bit_and(high, S::all8(0x10)));
                }
                S::store(state + i * state_bytes + part * S::size, to);
            }
    }
    __attribute__((noinline)) void give() {
        for (int i = 0; i < job.n; ++i) {
            Word bits = 0;
            for (int part = 0; part < parts; ++part) {
                const State bytes = S::load(state + i * state_bytes + part * S::size);
                bits |= static_cast<Word>(S::tops(S::template left16<7>(bytes))) << part * S::size;
                if (planes > 1)
                    bits |= static_cast<Word>(std::uint64_t{S::tops(S::template left16<3>(bytes))} << (32 + part * S::size));
            }
            block.word[i] = bits;
        }
        block.give(turns.end());
    }
};

// One thread's part in sweeping a block.
template <class B, int L, bool own_h, bool own_beta>
struct Filter {
    using All = Filtered<B, L, own_h, own_beta>;
    using P = typename All::P;
    using S = typename All::S;
    typedef typename B::V V;
    typedef typename S::V State;
    using Outcome = typename All::Decide::Outcome;
    static constexpr int planes = All::planes, parts = All::parts, vectors = All::vectors, per_part = All::per_part;
    static constexpr int numbers = All::numbers;

    All &all;
    const Job &job;
    const typename All::Block &block;
    std::uint8_t *const state;
    const std::uint16_t *const base;
    typename All::Decide decisions;
    float rate[L];       // by place
    int heated = -1;     // the sweep whose betas these are
    struct Open {  // a spin with lanes left open: the tops of bytes, as in the state
        V tops[vectors];
        State before;
        std::uint64_t key;
        int spin, part;
    };
    Open queue[2][chunk * parts + 1];  // of the present chunk and of the one before
    int queued[2] = {}, filling = 0;

    explicit Filter(All &of)
        : all(of), job(of.job), block(of.block), state(of.state), base(of.base.data), decisions(of.decisions) {}

    // Of a bit of the tops of vector v of a part.
    static int place_at(int part, int v, int bit) {
        const int in_part = v * B::size + bit;
        return in_part / S::size * 32 + part * S::size + in_part % S::size;
    }

    // The field of spin i in a part's vectors, in 16 bits.
    __attribute__((always_inline)) inline void field(int i, int part, V *f) const {
        const Tables &tables = job.tables;
        const std::uint8_t *mine = state + part * S::size;
        V sum[per_part];
        for (int q = 0; q < per_part; ++q)
            sum[q] = own_h ? B::load(&base[std::int64_t{i} * L + (part * per_part + q) * numbers]) : B::all16(base[i]);
        for (std::int32_t g = tables.group[i]; g < tables.group[i + 1]; ++g) {
            const std::uint32_t *at = tables.state + 4 * std::int64_t{g};
            State x = S::load(mine + at[3]);
            x = S::twice8(x, S::load(mine + at[2]));
            x = S::twice8(x, S::load(mine + at[1]));
            x = S::twice8(x, S::load(mine + at[0]));
            const Sums<B> sums(tables.sums + 32 * std::int64_t{g});
#pragma GCC unroll 2
            for (int v = 0; v < vectors; ++v) sums.add(P::index(x, v), sum + 2 * v);
        }
        for (int q = 0; q < per_part; ++q) f[q] = sum[q];
    }
    // All ones where the spins of vector q of a part are -1.
    __attribute__((always_inline)) inline V down(State bytes, int q) const {
        const V bits = Sums<B>::number(P::bits(bytes, q / 2), q % 2);
        return B::sub16(B::bit_and(bits, B::all16(1)), B::all16(1));
    }

    // The lane at a place of a spin that 16 bits left open, by the law; `up` is its spin before. Couplings are read from the
    // tables' own lists, which the spin's field has just brought near.
    __attribute__((always_inline)) inline void decide_again(int i, int place, Halves visit, Rule rule, bool up) {
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
        V fields[chunk][per_part];
        State before[metropolis ? chunk : 1];
        for (int i = from; i < end; ++i) field(i, part, fields[i - from]);

        const auto decide = [&](int i, int q, V v0, V v1) __attribute__((always_inline)) {
            const int number = part * per_part + q;
            const V dark = metropolis ? down(before[i - from], q) : B::zero();
            const V halves = decisions.template halves<paired>(number, v0, v1);
            return decisions.template decide<rule>(number, fields[i - from][q], halves, dark, constants);
        };
        Open *open = queue[filling] + queued[filling];
        for (int i = from; i < end; ++i) {
            std::uint8_t *to = state + i * state_bytes + part * S::size;
            const Halves visit(key[i - from]);
            const V v0 = B::all32(visit.low), v1 = B::all32(visit.high);
            if (metropolis) before[i - from] = S::load(to);
            Outcome outcome[per_part];
#pragma GCC unroll 4
            for (int q = 0; q < per_part; ++q) outcome[q] = decide(i, q, v0, v1);
            V below[vectors], any = B::zero();
#pragma GCC unroll 2
            for (int v = 0; v < vectors; ++v) {
                below[v] = Sums<B>::tops(outcome[2 * v].below, outcome[2 * v + 1].below);
                open->tops[v] = Sums<B>::tops(outcome[2 * v].open, outcome[2 * v + 1].open);
                any = v ? B::bit_or(any, open->tops[v]) : open->tops[v];
            }
            const State bits = P::state(below);
            S::store(to, metropolis ? S::bit_xor(before[i - from], bits) : bits);
            open->spin = i;
            open += B::any_top(any);  // no branch: it could not be foreseen
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
    void settle(Rule rule) {
        filling ^= 1;
        for (const Open *late = queue[filling]; late != queue[filling] + queued[filling]; ++late) {
            alignas(32) std::uint8_t old[S::size] = {};
            if (rule == Rule::metropolis) S::store(old, late->before);
            for (int v = 0; v < vectors; ++v)
                for (std::uint64_t left = B::tops(late->tops[v]); left; left &= left - 1) {
                    const int place = place_at(late->part, v, __builtin_ctzll(left));
                    const bool up = old[place % S::size] >> (place / 32 * 4) & 1;
                    decide_again(late->spin, place, Halves(late->key), rule, up);
                }
        }
        queued[filling] = 0;
    }
    // The spins begin .. end - 1 of a colour.
    template <Rule rule>
    void sweep(int begin, int end, std::uint32_t pass) {
        for (int from = begin; from < end; from += chunk) {
            const int to = end - from < chunk ? end : from + chunk;
            std::uint64_t key[chunk];
            for (int i = from; i < to; ++i)
                key[i - from] = counter::visit_key(pass, static_cast<std::uint32_t>(job.order[i]));
            for (int part = 0; part < parts; ++part)
                decisions.paired ? sweep_part<rule, true>(part, from, to, key)
                                 : sweep_part<rule, false>(part, from, to, key);
            settle(rule);
        }
        settle(rule);
    }
    void heat(int sweep) {
        const std::int64_t stride = job.beta_stride ? job.beta_stride : 1;
        const float *now = job.beta + sweep * stride, *before = job.beta + heated * stride;
        if (heated < 0 || job.beta_stride || now[0] != before[0]) {
            float beta[L];
            for (int l = 0; l < L; ++l) beta[l] = block.beta(now, all.place_of[l]);
            for (int place = 0; place < L; ++place) rate[place] = law::rate(block.beta(now, place), block.unit(place));
            decisions.heat(beta, [&](int) { return static_cast<double>(job.tables.unit); }, job.tables.deepest + 1);
        }
        heated = sweep;
    }
    // Turns of so many spins, and one before each sweep that asks whether it is still wanted: the sweeps done.
    int serve(int member, int members, int spins) {
        Turns &turns = all.turns;
        Way way(turns, member, members);
        for (int sweep = 0; sweep < job.sweeps; ++sweep) {
            const bool stop = stopped(job.halt);  // each thread asks: only the calling one may set it
            if (!way.pass(1, sweep, [&](int) { if (stop) turns.stop(sweep); })) break;
            const std::uint32_t number = job.first_sweep + static_cast<std::uint32_t>(sweep);
            const bool metropolis = law::rule_of(job.metropolis, number) == Rule::metropolis;
            for (int k = 0; k < job.colours << job.palindromic; ++k) {
                const bool back = k >= job.colours;
                const int colour = back ? 2 * job.colours - 1 - k : k;
                const int begin = job.colour[colour], end = job.colour[colour + 1];
                const auto visit = [&](int piece) {
                    if (heated != sweep) heat(sweep);
                    const int from = begin + piece * spins, to = end - from < spins ? end : from + spins;
                    metropolis ? this->template sweep<Rule::metropolis>(from, to, 2 * number + back)
                               : this->template sweep<Rule::heat_bath>(from, to, 2 * number + back);
                };
                if (!way.pass((end - begin + spins - 1) / spins, sweep, visit)) return turns.end();
            }
        }
        return turns.end();
    }
};

// What `Kernel` knows of a block.
struct Sweepable {
    virtual ~Sweepable() = default;
    virtual int serve(int member, int members, int spins) = 0;
    virtual void give() = 0;
};
template <class B, int L, bool own_h, bool own_beta>
struct Opened final : Sweepable {
    Filtered<B, L, own_h, own_beta> all;
    Opened(const Job &job, std::int64_t first, int count) : all(job, first, count) {}
    int serve(int member, int members, int spins) override {
        return Filter<B, L, own_h, own_beta>(all).serve(member, members, spins);
    }
    void give() override { all.give(); }
};
template <class B, int L, bool own_h, bool own_beta>
Sweepable *opened(const Job &job, std::int64_t first, int count) {
    auto *block = new (std::nothrow) Opened<B, L, own_h, own_beta>(job, first, count);
    if (block && block->all.ready) return block;
    delete block;
    return nullptr;
}
template <int L>
void *open(const Job &job, std::int64_t first, int count) {
    using B = std::conditional_t<L == 64, Wide, Bytes>;
    if (job.beta_stride) return opened<B, L, true, true>(job, first, count);
    if (job.problems > 1) return opened<B, L, true, false>(job, first, count);
    return opened<B, L, false, false>(job, first, count);
}
int serve(void *block, int member, int members, int spins) {
    return static_cast<Sweepable *>(block)->serve(member, members, spins);
}
void close(void *block) {
    static_cast<Sweepable *>(block)->give();
    delete static_cast<Sweepable *>(block);
}

template <int L>
int run_filter(const Job &job, std::int64_t first, int count) {
    void *const block = open<L>(job, first, count);
    if (!block) return -1;
    const int done = serve(block, 0, 1, job.n);
    close(block);
    return done;
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
#if defined(HAS_WIDE)
            store_words(sums + 2 * v * W, whole & 0xFFFFu);
#else
            store_bytes(sums + v * W, whole & 0xFFu);
            store_bytes(sums + 16 + v * W, whole >> 8 & 0xFFu);
#endif
        }
}

}  // namespace
}  // namespace sparse
#endif
