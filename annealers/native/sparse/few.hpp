// The sparse kernel for a few replicas of one problem: SIMD lanes are spins of one colour, which do not see each other.
// Fields are kept, in whole units. All spins of a colour are decided, then the flips of each replica are gone through:
// each changes the fields of its neighbours by 2 K.
#pragma once

#include "lanes.hpp"

namespace sparse {
namespace {

// The numbers of the bits that are set in a byte, ascending.
struct SetBits {
    std::uint8_t at[256][8];
    constexpr SetBits() : at() {
        for (int byte = 0; byte < 256; ++byte)
            for (int bit = 0, count = 0; bit < 8; ++bit)
                if (byte >> bit & 1) at[byte][count++] = static_cast<std::uint8_t>(bit);
    }
};
constexpr SetBits set_bits;

// to[k] = from[k] + by of eight bytes; GCC 12 takes bytes one by one.
inline void store_eight(std::int32_t *to, const std::uint8_t *from, std::int32_t by) {
#if defined(__AVX2__)
    const __m256i words = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(from)));
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), _mm256_add_epi32(words, _mm256_set1_epi32(by)));
#else
    for (int k = 0; k < 8; ++k) to[k] = from[k] + by;
#endif
}

typedef std::uint64_t Long __attribute__((vector_size(4 * W)));

struct Few {
    static constexpr int widest = 8;           // replicas
    static constexpr int N = 2, span = N * W;  // spins decided together
    static constexpr int chunk = 128;          // spins of which the same step is made together
    static constexpr int ahead = 8;            // flips, for which neighbours are fetched in advance

    // The spins that a colour's visit turned over, in one direction.
    struct List {
        std::int32_t *begin, *end;

        // Spins at + b for all bits b of a span: eight places are written, whatever their number.
        __attribute__((always_inline)) inline void append(int at, std::uint32_t bits) {
            for (int part = 0; part < span; part += 8) {
                const std::uint32_t byte = bits >> part & 255;
                store_eight(end, set_bits.at[byte], at + part);
                end += __builtin_popcount(byte);
            }
        }
    };

    const Job &job;
    const std::int64_t first;
    const int count;
    const std::int64_t stride;           // n, and room for whole vectors
    std::int64_t spans = 0;              // of all colours, each of which begins with a span of its own
    Array<std::int32_t> f;               // fields, [count, stride]
    Array<std::uint32_t> up;             // [count, spans], a bit a spin
    Array<std::int32_t> name, begins;    // the caller's numbers; job.start and some zeros
    Array<std::int32_t> lists;
    List risen[widest], fallen[widest];
    std::uint32_t low[widest], high[widest], odd[widest];
    bool ready = false;

    Few(const Job &j, std::int64_t start, int c) : job(j), first(start), count(c), stride(j.n + span) {
        int largest = 0;
        for (int colour = 0; colour < job.colours; ++colour) {
            largest = size(colour) > largest ? size(colour) : largest;
            spans += spans_of(colour);
        }
        const std::int64_t room = largest + 16;  // what is written or read ahead
        ready = f.resize(count * stride) && up.resize(count * spans) && name.resize(stride) &&
                begins.resize(stride + ahead) && lists.resize(2 * count * room);
        if (!ready) return;
        for (int r = 0; r < count; ++r) {
            const auto replica = job.first_replica + static_cast<std::uint32_t>(first + r);
            const Halves key(counter::lane_key(job.seed[0], replica >> 1));
            low[r] = key.low, high[r] = key.high, odd[r] = replica & 1;
            risen[r].begin = &lists[2 * r * room], fallen[r].begin = &lists[(2 * r + 1) * room];
        }
        std::memcpy(name.data, job.order, sizeof(std::int32_t) * static_cast<std::size_t>(job.n));
        std::memcpy(begins.data, job.start, sizeof(std::int32_t) * (static_cast<std::size_t>(job.n) + 1));
    }

    int size(int colour) const { return job.colour[colour + 1] - job.colour[colour]; }
    int spans_of(int colour) const { return (size(colour) + span - 1) / span; }
    void clear() {
        for (int r = 0; r < count; ++r) risen[r].end = risen[r].begin, fallen[r].end = fallen[r].begin;
    }

    // The keys of W visits: those of even places in one vector of 64-bit numbers, those of odd ones in another.
    __attribute__((always_inline)) inline void keys(std::uint32_t pass, int at, U &v0, U &v1) const {
        const Long spins = load<Long>(&name[at]), low_half = Long{} + 0xFFFFFFFFu;
        const std::uint64_t start = (std::uint64_t{pass} << 32) + 0x9E3779B97F4A7C15u;
        Long z[2] = {(spins & low_half) + start, (spins >> 32) + start};
        each<2>([&](int g) { z[g] = (z[g] ^ (z[g] >> 30)) * 0xBF58476D1CE4E5B9u; });
        each<2>([&](int g) { z[g] = (z[g] ^ (z[g] >> 27)) * 0x94D049BB133111EBu; });
        each<2>([&](int g) { z[g] = z[g] ^ (z[g] >> 31); });
        v0 = (U)((z[0] & low_half) | z[1] << 32), v1 = (U)(z[0] >> 32 | (z[1] & ~low_half));
    }
    // The spins of a colour, which begins with span s: a chunk at a time, and each step of it for the whole chunk,
    // since a processor sees no further than some hundred operations.
    template <Rule rule>
    void visit(int colour, std::int64_t s, std::uint32_t pass, const float *rate) {
        clear();
        const int end = job.colour[colour + 1];
        for (int at = job.colour[colour]; at < end; at += chunk, s += chunk / span)
            decide<rule>(at, end - at < chunk ? end - at : chunk, s, pass, rate);
        spread_out();
    }
    template <Rule rule>
    void decide(int from, int spins, std::int64_t s, std::uint32_t pass, const float *rate) {
        constexpr int vectors = chunk / W;
        U v0[vectors], v1[vectors], hash[vectors];
        const int used = (spins + span - 1) / span * N;
        for (int g = 0; g < used; ++g) keys(pass, from + W * g, v0[g], v1[g]);
        for (int r = 0; r < count; ++r) {
            const U lane_low = usplat(low[r]), lane_high = usplat(high[r]);
            if (r == 0 || low[r] != low[r - 1] || high[r] != high[r - 1])
                for (int g = 0; g < used; ++g) hash[g] = counter::first_hash(lane_low, lane_high, v0[g], v1[g]);
            const std::uint32_t shift = odd[r] << 4;
            const std::int32_t *field = &f[r * stride + from];
            std::uint32_t *state = &up[r * spans + s];
            List mine_up = risen[r], mine_down = fallen[r];
            for (int at = 0; at < spins; at += span) {
                const int k = at / W;
                F x[N];
                U upper[N];
                std::uint32_t bits[N], before = state[at / span], after = 0;
                each<N>([&](int g) { x[g] = rate[r] * to_float(load<I>(field + at + W * g)); });
                each<N>([&](int g) { upper[g] = (hash[k + g] >> shift & 0xFFFFu) ^ 0x8000u; });
                each<N>([&](int g) { bits[g] = before >> (W * g) & ((1u << W) - 1); });
                redraw<rule, N>(x, upper, bits, [&](int g) {
                    return counter::second_hash(lane_low, lane_high, v0[k + g], v1[k + g]) >> shift & 0xFFFFu;
                });
                each<N>([&](int g) { after |= bits[g] << (W * g); });
                if (spins - at < span) after &= (1u << (spins - at)) - 1;
                state[at / span] = after;
                mine_up.append(from + at, after & ~before);
                mine_down.append(from + at, before & ~after);
            }
            risen[r].end = mine_up.end, fallen[r].end = mine_down.end;
        }
    }
    // f += 2 K of the neighbours of some spins, or -=.
    template <int sign>
    void scatter(std::int32_t *field, const List &list) const {
        const std::int32_t *start = begins.data, *near = job.near, *twice_K = job.twice_K;
        for (const std::int32_t *spin = list.begin; spin < list.end; ++spin) {
            const std::int32_t later = start[spin[ahead]];  // past the end of the list: some spin or other
            __builtin_prefetch(near + later);
            __builtin_prefetch(twice_K + later);
            std::int32_t e = start[*spin];
            const std::int32_t end = start[*spin + 1];
            for (; e + 4 <= end; e += 4) {
                field[near[e]] += sign * twice_K[e];
                field[near[e + 1]] += sign * twice_K[e + 1];
                field[near[e + 2]] += sign * twice_K[e + 2];
                field[near[e + 3]] += sign * twice_K[e + 3];
            }
            for (; e < end; ++e) field[near[e]] += sign * twice_K[e];
        }
    }
    void spread_out() {
        for (int r = 0; r < count; ++r) {
            scatter<1>(&f[r * stride], risen[r]);
            scatter<-1>(&f[r * stride], fallen[r]);
        }
    }
    template <Rule rule>
    void sweep(std::uint32_t number, const float *rate) {
        std::int64_t s = 0;
        for (int colour = 0; colour < job.colours; s += spans_of(colour++)) visit<rule>(colour, s, 2 * number, rate);
        for (int colour = job.palindromic ? job.colours : 0; colour-- > 0;)
            visit<rule>(colour, s -= spans_of(colour), 2 * number + 1, rate);
    }

    // The start: f = H - sum K, all spins -1, of which some rise.
    void begin() {
        const double inverse = 1 / job.unit[0];
        for (int i = 0; i < job.n; ++i) f[i] = law::units(job.h[job.order[i]], inverse) - job.sum_K[i];
        for (int r = 1; r < count; ++r)
            std::memcpy(&f[r * stride], f.data, sizeof(std::int32_t) * static_cast<std::size_t>(job.n));
        std::int64_t s = 0;
        for (int colour = 0; colour < job.colours; ++colour) {
            clear();
            for (int at = job.colour[colour]; at < job.colour[colour + 1]; at += span, ++s)
                for (int r = 0; r < count; ++r) {
                    for (int l = 0; l < span && at + l < job.colour[colour + 1]; ++l)
                        up[r * spans + s] |= std::uint32_t{starts_up(r, job.order[at + l])} << l;
                    risen[r].append(at, up[r * spans + s]);
                }
            spread_out();
        }
    }
    bool starts_up(int r, std::int32_t spin) const {
        if (!job.random_start) return job.spins[(first + r) * job.n + spin] > 0;
        const Halves lane(std::uint64_t{high[r]} << 32 | low[r]);
        const Halves visit(counter::visit_key(counter::start_pass, static_cast<std::uint32_t>(spin)));
        return counter::upper(lane, visit, odd[r] ? 16 : 0) < 0x8000u;
    }
    // Spins, and energies: E = u sum_i s_i (H_i + f_i) / 2, a whole number of units.
    void give(int done) const {
        const double inverse = 1 / job.unit[0];
        for (int r = 0; r < count; ++r) {
            std::int64_t total = 0, s = 0;
            std::int8_t *spins = job.spins + (first + r) * job.n;
            for (int colour = 0; colour < job.colours; s += spans_of(colour++))
                for (int k = 0; k < size(colour); ++k) {
                    const int i = job.colour[colour] + k, spin = up[r * spans + s + k / span] >> k % span & 1 ? 1 : -1;
                    spins[job.order[i]] = static_cast<std::int8_t>(spin);
                    total += spin * (std::int64_t{law::units(job.h[job.order[i]], inverse)} + f[r * stride + i]);
                }
            job.energy[first + r] = static_cast<double>(total) * job.unit[0] / 2;
            job.done[first + r] = done;
        }
    }
    int run() {
        if (!ready) return -1;
        begin();
        float rate[widest];
        int done = 0;
        for (; done < job.sweeps && !stopped(job.halt); ++done) {
            const float *now = job.beta + done * (job.beta_stride ? job.beta_stride : 1);
            for (int r = 0; r < count; ++r) rate[r] = law::rate(now[job.beta_stride ? first + r : 0], job.unit[0]);
            const std::uint32_t number = job.first_sweep + static_cast<std::uint32_t>(done);
            const bool metropolis = law::rule_of(job.metropolis, number) == Rule::metropolis;
            metropolis ? sweep<Rule::metropolis>(number, rate) : sweep<Rule::heat_bath>(number, rate);
        }
        give(done);
        return done;
    }
};

int run_few(const Job &job, std::int64_t first, int count) { return Few(job, first, count).run(); }

}  // namespace
}  // namespace sparse
