// Sweeps of a block of lanes whose problems have a J each, by fields of 16 bits (law/filter.hpp). Couplings are rounded
// to steps of their lane and lie side by side by neighbour and lane; a spin is a bit of the block's words, spread over 16
// bits where a neighbour asks for it: couplings come from the second or third cache, and beside their stream nothing else
// may leave the first.
//
// With r_j = rint(2 J_j / step) and base = rint(h / step) - floor(sum r_j / 2), a field is base + sum of the r_j whose
// neighbours are +1. That is (H + sum_j s_j K_j) u / step but for roundings: half of s_j times the error of r_j, so at
// most 1/4 a neighbour, and 1/2 each for rint and floor. A field is as good as one of degree / 2 + 2 rounded numbers
// (law::field_error). J / u is not rounded first, but u < step / 2^11: this and single precision stay within the 2 % of
// field_error.
#pragma once

#include "filter.hpp"

#if defined(HAS_BYTES)
namespace sparse {
namespace {

struct Apart {
    typedef Bytes::V V;
    using Block = Lanes<std::uint32_t, true, false>;
    static constexpr int L = Block::L, numbers = Bytes::size / 2, Q = L / numbers;
    static constexpr int width = 64;       // edges at a time
    static constexpr int of_a_class = 8;   // degrees
    static constexpr int waiting = 8;      // lanes

    // The bounds of a chunk are those of its largest degree, rounded up to a whole class; made anew for other betas.
    struct Bounds {
        bool made;
        Decisions<Bytes, L, true>::Margins margin[2];
    };
    struct Open {
        std::uint64_t key;
        int spin, place;
        bool up;
    };

    Block block;
    const Job &job;
    Array<std::int16_t> memory;
    std::int16_t *twice_J, *base;          // [2 k, L] and [n, L], in whole lines
    int place_of[L];                       // of each lane: its bit of a word
    alignas(64) std::uint8_t byte[2 * L], bit[2 * L];  // of each lane, twice: where in a word its bit lies
    Array<std::int32_t> ends;              // [k, 2]: each edge's places among the neighbours; energies have other uses for it
    double step[L];                        // by lane
    Decisions<Bytes, L, true> decisions;
    Array<Bounds> bounds;                  // [classes]
    int classes = 1;
    float beta[L], rate[L];                // by lane, and by place
    int from = 0;                          // the present chunk's first spin, and the keys of its visits
    std::uint64_t key[chunk];
    Open queue[waiting];                   // lanes that 16 bits left open
    int queued = 0;
    bool ready = false;

    Apart(const Job &j, std::int64_t first, int count)
        : block(j, first, count, lane_at), job(block.job) {
        const std::int64_t n = job.n, both = job.start[n];
        for (int i = 0; i < n; ++i) classes = class_of(i) < classes ? classes : class_of(i) + 1;
        ready = block.ready && memory.resize((both + n) * L + 32) && ends.resize(both) && bounds.resize(classes);
        if (!ready) return;
        for (std::int64_t e = 0; e < both; ++e) ends[e] = -1;
        twice_J = memory.data + (32 - reinterpret_cast<std::uintptr_t>(memory.data) % 64 / 2) % 32;
        base = twice_J + both * L;
        for (int place = 0; place < L; ++place) {
            const int l = block.lane_of[place];
            place_of[l] = place, step[l] = job.step[block.problem(place)];
            byte[2 * l] = byte[2 * l + 1] = static_cast<std::uint8_t>(place / 8);
            bit[2 * l] = bit[2 * l + 1] = static_cast<std::uint8_t>(1 << place % 8);
        }
        decisions.keys(block, place_of);
        decisions.metropolis = job.metropolis;
        lay_out();
    }
    // Lane q * numbers + w, number w of vector q, has the bit at which `gather_bits` finds it.
    static int lane_at(int place) {
        const int in = place % Bytes::size, first = place / Bytes::size * 2;
        for (int half = 0; half < 2; ++half)
            for (int w = 0; w < numbers; ++w)
                if (Bytes::byte_of(half, w) == in) return (first + half) * numbers + w;
        return 0;
    }
    // A word of the tops of 16-bit numbers; all ones where the lanes of vector q have their bits in a word.
    __attribute__((always_inline)) static inline std::uint32_t gather_bits(const V *x) {
        std::uint64_t bits = 0;
        for (int q = 0; q < Q; q += 2)
            bits |= std::uint64_t{Bytes::tops(Bytes::pack(x[q], x[q + 1]))} << (q / 2 * Bytes::size);
        return static_cast<std::uint32_t>(bits);
    }
    __attribute__((always_inline)) inline V spread_word(V word, int q) const {
        const V mine = Bytes::load(bit + q * Bytes::size);
        return Bytes::same8(Bytes::bit_and(Bytes::look(word, Bytes::load(byte + q * Bytes::size)), mine), mine);
    }
    int class_of(int i) const { return (job.start[i + 1] - job.start[i] + of_a_class - 1) / of_a_class; }
    void bound(int end) {
        int largest = 0;
        for (int i = from; i < end; ++i) largest = class_of(i) > largest ? class_of(i) : largest;
        Bounds &mine = bounds[largest];
        if (!mine.made) {
            decisions.bound(beta, [&](int l) { return step[l]; }, largest * of_a_class / 2 + 2);
            std::memcpy(mine.margin, decisions.margin, sizeof mine.margin);
            mine.made = true;
        }
        std::memcpy(decisions.margin, mine.margin, sizeof mine.margin);
    }

    // Numbers a .. a + width - 1 of `size`, or zeros beyond them.
    static const float *some_of(const float *from, std::int64_t a, std::int64_t size, float *buffer) {
        if (a + width <= size) return from + a;
        for (int k = 0; k < width; ++k) buffer[k] = a + k < size ? from[a + k] : 0;
        return buffer;
    }
    // Couplings of some edges at a time, from a row for each lane to a row for each edge, and to both its ends.
    void lay_out() {
        const std::int64_t edges = job.start[job.n] / 2;
        for (std::int32_t e = 0; e < job.start[job.n]; ++e) {
            std::int32_t *place = &ends[2 * std::int64_t{job.edge[e]}];
            place[place[0] >= 0] = e;
        }
        const float *J[L];
        float by[L];
        for (int l = 0; l < L; ++l) J[l] = block.J(place_of[l]), by[l] = static_cast<float>(2 / step[l]);
        std::uint32_t two[L / 2][width];  // the numbers of lanes 2 k and 2 k + 1, of 16 bits each
        alignas(64) std::int16_t row[width][L];
        for (std::int64_t a = 0; a < edges; a += width) {
            for (int l = 0; l < L; l += 2) {
                float rest[2][width];
                const float *even = some_of(J[l], a, edges, rest[0]), *odd = some_of(J[l + 1], a, edges, rest[1]);
                for (int k = 0; k < width; k += W) {  // the low bits of a sum are the nearest whole number
                    const U first = (U)(load<F>(even + k) * by[l] + law::rounder);
                    const U second = (U)(load<F>(odd + k) * by[l + 1] + law::rounder);
                    store(two[l / 2] + k, (first & 0xFFFFu) | second << 16);
                }
            }
            for (int k = 0; k < width; k += Bytes::size / 4)
                for (int m = 0; m < L / 2; m += 4) turn(two + m, k, row, 2 * m);
            const int some = edges - a < width ? static_cast<int>(edges - a) : width;
            for (int k = 0; k < some; ++k)
                for (int side = 0; side < 2; ++side)
                    std::memcpy(twice_J + ends[2 * (a + k) + side] * std::int64_t{L}, row[k], sizeof row[k]);
        }
        add_up();
    }
    // Rows of 32-bit numbers become columns, four by four: `to[k + ...][at]` of from[0 .. 3][k + ...].
    static void turn(const std::uint32_t (*from)[width], int k, std::int16_t (*to)[L], int at) {
        const V a = Bytes::load(from[0] + k), b = Bytes::load(from[1] + k);
        const V c = Bytes::load(from[2] + k), d = Bytes::load(from[3] + k);
        const V even[2] = {Bytes::low32(a, c), Bytes::high32(a, c)}, odd[2] = {Bytes::low32(b, d), Bytes::high32(b, d)};
        for (int r = 0; r < 4; ++r) {
            const V four = r % 2 ? Bytes::high32(even[r / 2], odd[r / 2]) : Bytes::low32(even[r / 2], odd[r / 2]);
            for (int part = 0; part < Bytes::size / 16; ++part)
                std::memcpy(to[k + 4 * part + r] + at, reinterpret_cast<const char *>(&four) + 16 * part, 16);
        }
    }
    void add_up() {
        double steps[L];
        for (int l = 0; l < L; ++l) steps[l] = block.unit(place_of[l]) / step[l];
        for (std::int64_t i = 0; i < job.n; ++i) {
            I sum[L / W] = {};
            for (std::int64_t e = job.start[i]; e < job.start[i + 1]; ++e)
#pragma GCC unroll 8
                for (int g = 0; g < L / W; ++g)
                    sum[g] += widened(load<S>(twice_J + e * L + g * W));
            for (int l = 0; l < L; ++l) {
                const double h = std::nearbyint(block.h[i * L + place_of[l]] * steps[l]);
                base[i * L + l] = static_cast<std::int16_t>(static_cast<std::int32_t>(h) - (sum[l / W][l % W] >> 1));
            }
        }
    }
    // The lane at a place of a spin that 16 bits left open, by the law.
    void decide_again(int i, int place, Halves visit, Rule rule, bool up) {
        law::count_open();
        const float *J = block.J(place);
        std::int32_t f = block.h[std::int64_t{i} * L + place];
        for (std::int32_t e = job.start[i]; e < job.start[i + 1]; ++e) {
            const std::int32_t K = law::units(J[job.edge[e]], block.inverse[place]);
            const std::int32_t down = static_cast<std::int32_t>(block.word[job.near[e]] >> place & 1) - 1;
            f += (K ^ down) - down;  // no branch: spins cannot be foreseen
        }
        const std::uint32_t word = counter::word(block.key(place), visit, block.odd[place] ? 16 : 0);
        const bool now = law::decide(rule, rate[place] * static_cast<float>(f), word, up);
        block.word[i] = (block.word[i] & ~(1u << place)) | std::uint32_t{now} << place;
    }

    __attribute__((always_inline)) inline void field(int i, V *f) const {
        V sum[Q];
        each<Q>([&](int q) { sum[q] = Bytes::load(base + std::int64_t{i} * L + q * numbers); });
        for (std::int64_t e = job.start[i]; e < job.start[i + 1]; ++e) {
            const std::int16_t *twice = twice_J + e * L;
            const V word = Bytes::all32(block.word[job.near[e]]);
            each<Q>([&](int q) {
                const V one = Bytes::bit_and(spread_word(word, q), Bytes::load(twice + q * numbers));
                sum[q] = Bytes::add16(sum[q], one);
            });
        }
        each<Q>([&](int q) { f[q] = sum[q]; });
    }
    // Spins from .. end - 1, which are of one colour, as in filter.hpp: fields, decisions, open lanes.
    template <Rule rule, bool paired>
    void sweep_chunk(int end, std::uint32_t pass) {
        bound(end);
        const auto constants = decisions.template constants<rule>();
        V fields[chunk][Q];
        std::uint32_t before[chunk];
        for (int i = from; i < end; ++i) field(i, fields[i - from]);
        for (int i = from; i < end; ++i)
            key[i - from] = counter::visit_key(pass, static_cast<std::uint32_t>(job.order[i]));

        std::uint32_t open[chunk];  // by place
        int open_spin[chunk], opened = 0;
        for (int i = from; i < end; ++i) {
            const Halves visit(key[i - from]);
            const V v0 = Bytes::all32(visit.low), v1 = Bytes::all32(visit.high);
            V below[Q], left[Q];
            before[i - from] = block.word[i];
#pragma GCC unroll 8
            for (int q = 0; q < Q; ++q) {
                const V dark = rule == Rule::metropolis ? Bytes::bit_not(spread_word(Bytes::all32(before[i - from]), q))
                                                        : Bytes::zero();
                const V halves = decisions.template halves<paired>(q, v0, v1);
                const auto outcome = decisions.template decide<rule>(q, fields[i - from][q], halves, dark, constants);
                below[q] = outcome.below, left[q] = outcome.open;
            }
            const std::uint32_t bits = gather_bits(below);
            block.word[i] = rule == Rule::metropolis ? before[i - from] ^ bits : bits;
            open[opened] = gather_bits(left), open_spin[opened] = i;
            opened += open[opened] != 0;  // no branch: it could not be foreseen
        }
        for (int k = 0; k < opened; ++k)
            for (std::uint32_t some = open[k]; some; some &= some - 1) {
                const int i = open_spin[k], place = __builtin_ctz(some);
                put_off({key[i - from], i, place, (before[i - from] >> place & 1) != 0}, rule);
            }
    }
    // An open lane waits for a few others of its colour, while its couplings come to the nearest cache.
    void put_off(Open lane, Rule rule) {
        const float *J = block.J(lane.place);
        for (std::int32_t e = job.start[lane.spin]; e < job.start[lane.spin + 1]; ++e)
            __builtin_prefetch(J + job.edge[e]);
        queue[queued++] = lane;
        if (queued == waiting) settle(rule);
    }
    void settle(Rule rule) {
        for (int k = 0; k < queued; ++k)
            decide_again(queue[k].spin, queue[k].place, Halves(queue[k].key), rule, queue[k].up);
        queued = 0;
    }
    template <Rule rule>
    void sweep_colour(int colour, std::uint32_t pass) {
        for (from = job.colour[colour]; from < job.colour[colour + 1]; from += chunk) {
            const int end = job.colour[colour + 1] - from < chunk ? job.colour[colour + 1] : from + chunk;
            decisions.paired ? sweep_chunk<rule, true>(end, pass) : sweep_chunk<rule, false>(end, pass);
        }
        settle(rule);
    }
    template <Rule rule>
    void sweep(std::uint32_t number) {
        for (int colour = 0; colour < job.colours; ++colour) sweep_colour<rule>(colour, 2 * number);
        for (int colour = job.palindromic ? job.colours : 0; colour-- > 0;)
            sweep_colour<rule>(colour, 2 * number + 1);
    }

    // E = u (sum_i H_i s_i + sum over edges of K_ij s_i s_j).
    void energies(int sweeps) {
        std::int64_t total[L] = {};
        const std::int64_t edges = job.start[job.n] / 2;
        for (std::int64_t i = 0; i < job.n; ++i)  // by edge: the lanes whose spins differ at its ends
            for (std::int32_t e = job.start[i]; e < job.start[i + 1]; ++e)
                if (job.near[e] < i) ends[job.edge[e]] = static_cast<std::int32_t>(block.word[i] ^ block.word[job.near[e]]);
        for (std::int64_t from = 0; from < job.n; from += Block::at_once)
            add_fields(from, job.n - from < Block::at_once ? job.n : from + Block::at_once, total);
        for (std::int64_t from = 0; from < edges; from += Block::at_once)
            add_couplings(from, edges - from < Block::at_once ? edges : from + Block::at_once, edges, total);
        for (int l = 0; l < L; ++l)
            if (block.lane_of[l] < block.count) {
                job.energy[block.lane(l)] = static_cast<double>(total[l]) * block.unit(l);
                job.done[block.lane(l)] = sweeps;
            }
    }
    // Sums by halves of 16 bits, so that 2^15 terms fit 32.
    struct Sum {
        I low, high;
        __attribute__((always_inline)) inline void add(I term) { low += term & 0xFFFF, high += term >> 16; }
    };
    void add_fields(std::int64_t from, std::int64_t end, std::int64_t *total) const {
        Sum sum[L / W] = {};
        for (std::int64_t i = from; i < end; ++i)
#pragma GCC unroll 8
            for (int g = 0; g < L / W; ++g)
                sum[g].add(minus_unless(Block::part(block.word[i], g), load<I>(&block.h[i * L + g * W])));
        for (int l = 0; l < L; ++l) total[l] += sum[l / W].low[l % W] + std::int64_t{sum[l / W].high[l % W]} * 65536;
    }
    // Of some edges at a time, their lanes' bits as bits of edges by lane.
    void add_couplings(std::int64_t from, std::int64_t end, std::int64_t edges, std::int64_t *total) const {
        Sum sum[L] = {};
        for (std::int64_t a = from; a < end; a += width) {
            std::uint64_t same[width];
            for (int k = 0; k < width; ++k) same[k] = a + k < edges ? ~static_cast<std::uint32_t>(ends[a + k]) : 0;
            transpose(same);
            for (int l = 0; l < L; ++l) {
                float rest[width];
                const float *J = some_of(block.J(l), a, edges, rest), inverse = static_cast<float>(block.inverse[l]);
                std::int32_t K[width];
                for (int k = 0; k < width; ++k) K[k] = static_cast<std::int32_t>(std::nearbyint(J[k] * inverse));
                for (int k = 0; k < width; k += W) {
                    const auto bits = static_cast<std::uint32_t>(same[l] >> k) & static_cast<std::uint32_t>((1u << W) - 1);
                    sum[l].add(minus_unless(bits, load<I>(K + k)));
                }
            }
        }
        for (int l = 0; l < L; ++l)
            for (int w = 0; w < W; ++w) total[l] += sum[l].low[w] + std::int64_t{sum[l].high[w]} * 65536;
    }
    int run() {
        if (!ready) return -1;
        job.random_start ? block.scatter() : block.pack();
        int done = 0;
        for (; done < job.sweeps && !stopped(job.halt); ++done) {
            const float *now = job.beta + done * (job.beta_stride ? job.beta_stride : 1);
            if (!done || job.beta_stride || now[0] != now[-1]) {
                for (int l = 0; l < L; ++l) beta[l] = block.beta(now, place_of[l]);
                for (int place = 0; place < L; ++place) rate[place] = law::rate(block.beta(now, place), block.unit(place));
                decisions.heat(beta, [&](int l) { return step[l]; }, 2);
                for (std::int64_t k = 0; k < classes; ++k) bounds[k].made = false;
            }
            const std::uint32_t number = job.first_sweep + static_cast<std::uint32_t>(done);
            const bool metropolis = law::rule_of(job.metropolis, number) == Rule::metropolis;
            metropolis ? sweep<Rule::metropolis>(number) : sweep<Rule::heat_bath>(number);
        }
        block.give_spins();
        energies(done);
        return done;
    }
};

int run_apart(const Job &job, std::int64_t first, int count) { return Apart(job, first, count).run(); }

}  // namespace
}  // namespace sparse
#endif
