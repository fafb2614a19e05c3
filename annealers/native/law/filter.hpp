// Probabilities in 16 bits, and how far they may be from the law: what a filter needs to decide nearly every spin from a
// field rounded to 16 bits, and to know which spins it cannot decide.
//
// A spin becomes +1 where its word w, of 32 bits, is below 2^32 / (1 + e^X), X = 2 beta u f (`law::decide`; Metropolis: a
// flip uphill is taken below 2^32 e^-|X|). Let U be the word's upper half, so that U <= w / 2^16 < U + 1, and P the threshold
// in the same units of 2^16. From a field F of whole units q a filter makes y and from it Q:
//
//     y = (min(|F|, most) << shift) * factor >> 16,   the logit 2 beta q |F| in units of reach / 2^15,
//     Q = the polynomial of y's segment k at y, by symmetry with the sign of F.
//
// A table has S segments of 2^15 / S numbers y: 8 quadratics, whose constants 16 bytes hold, or 64 lines, for processors
// that look up 64 numbers at once.
//
// U < Q - E[k] is then below P for sure, and U > Q + E[k] above; `margin` is E + 1, and lanes |U - Q| < margin are decided
// again by the law. E[k] adds up:
//
//  1. 1: U is a whole number below w / 2^16.
//  2. e[k], the largest error of the table over every y of the segment, with y itself too small by up to 2: the product's
//     upper half is cut (below 1), and `factor` is, which times a number below 2^16 counts below 1. Thresholds are monotone,
//     so the error is largest at y or at y + 2. `make_table` finds it by trying all 2^15 y. Where lanes cut to `most` lie, e
//     counts thresholds down to 0.
//  3. slope * field: the error `field` of the logit times the largest slope of the threshold that it can reach, at the least
//     logit of the segment less that error. The field's error is half a unit q for each rounded number that is added up (base
//     and groups of four couplings), of which 2 beta q is a logit.
//  4. 1/8: the law in single precision. Its 2^x has a relative error of 3e-7 beside 4 roundings of x, 2^-22 |x| in all; no
//     threshold moves by more than 65536 (0.23 * 2^-22 + 3e-7) < 0.04 (heat bath, since x p' < 0.23), or 65536 (0.37 * 2^-22 +
//     3e-7) < 0.04 (Metropolis). Sums of E are rounded up.
#pragma once

#include <atomic>
#include <cmath>
#include <cstdint>

#include "rule.hpp"

namespace law {

constexpr double reach = 8;       // the logit at which tables end
constexpr double widest = 0.1;    // error of a logit by its field in 16 bits beyond which too many lanes stay open
constexpr int cut_below = 1024;   // lanes cut to `most` have y above 2^15 less this: 2 beta q < 2 widest, which is 820 steps of y

// Thresholds less 2^15 of S segments, t = (y mod 2^15 / S) / (2^15 / S) in 16 bits; `error` is e.
template <int S>
struct Segments {
    static constexpr int segments = S, length = 32768 / S;
    alignas(64) std::uint16_t c0[S], c1[S];
    double error[S], growth[S];  // growth: e^x at the least logit x of a segment
};
struct Quadratics : Segments<8> {  // c0 - t (c1 - t c2)
    alignas(16) std::uint16_t c2[segments];
};
struct Lines : Segments<64> {};    // c0 - t c1

static inline double threshold(Rule rule, double x) {
    return 65536 * (rule == Rule::heat_bath ? 1 / (1 + std::exp(x)) : std::exp(-x));
}
static inline double steepest(Rule rule, double growth) {  // slope of the threshold over the logit x >= 0, by e^x
    return 65536 / (rule == Rule::heat_bath ? 2 + growth + 1 / growth : growth);
}

// As vectors do it: Q less 2^15.
template <int S>
static std::uint32_t part_of(const Segments<S> &, int y) { return static_cast<std::uint32_t>(y % (32768 / S)) * (2 * S); }
static inline int look_up(const Quadratics &table, int y) {
    const int k = y / table.length;
    const std::uint32_t t = part_of(table, y), inner = (table.c1[k] - (t * table.c2[k] >> 16)) & 0xFFFFu;
    return static_cast<std::int16_t>(table.c0[k] - (t * inner >> 16));
}
static inline int look_up(const Lines &table, int y) {
    const int k = y / table.length;
    return static_cast<std::int16_t>(table.c0[k] - (part_of(table, y) * table.c1[k] >> 16));
}

// The last segment, and others where lanes cut to `most` lie, are lowered by half the threshold where they end, to stand for
// stronger fields as well.
template <int S>
static double lowered(Rule rule, int k) {
    return (k + 1) * (32768 / S) > 32768 - cut_below ? threshold(rule, (k + 1) * reach / S) / 2 : 0;
}
static inline std::uint16_t less_half(double at0) {
    return static_cast<std::uint16_t>(static_cast<int>(std::lrint(std::fmin(at0, 65535.0))) - 32768);
}
// Quadratics through the Chebyshev nodes of their segments.
static inline void fit(Quadratics &table, Rule rule) {
    const double step = reach / table.segments;
    for (int k = 0; k < table.segments; ++k) {
        const double a = 0.5 - std::sqrt(3.0) / 4, b = 0.5, c = 0.5 + std::sqrt(3.0) / 4;
        const auto p = [&](double t) { return threshold(rule, (k + t) * step); };
        const double slope = (p(b) - p(a)) / (b - a), bend = ((p(c) - p(b)) / (c - b) - slope) / (c - a);
        table.c0[k] = less_half(p(a) - a * slope + a * b * bend - lowered<8>(rule, k));
        table.c1[k] = static_cast<std::uint16_t>(std::lrint((a + b) * bend - slope));
        table.c2[k] = static_cast<std::uint16_t>(std::lrint(std::fmax(bend, 0.0)));
    }
}
// Lines midway between the chords of their segments and the threshold, which lies below its chords.
static inline void fit(Lines &table, Rule rule) {
    const double step = reach / table.segments;
    for (int k = 0; k < table.segments; ++k) {
        const auto p = [&](double t) { return threshold(rule, (k + t) * step); };
        const double sag = (p(0) + p(1)) / 2 - p(0.5);
        table.c0[k] = less_half(p(0) - sag / 2 - lowered<64>(rule, k));
        table.c1[k] = static_cast<std::uint16_t>(std::lrint(p(0) - p(1)));
    }
}
template <class Table>
static Table make_table(Rule rule) {
    Table table{};
    fit(table, rule);
    for (int k = 0; k < table.segments; ++k) table.growth[k] = std::exp(k * reach / table.segments);
    for (int y = 0; y < 32768; ++y) {
        const double q = look_up(table, y) + 32768.0;
        double &worst = table.error[y / table.length];
        for (int off = 0; off <= 2; off += 2) {
            const double error = std::fabs(q - threshold(rule, (y + off) * reach / 32768));
            if (error > worst) worst = error;  // as std::fmax, over which GCC 12 breaks down on aarch64
        }
        if (y >= 32768 - cut_below && q > worst) worst = q;
    }
    return table;
}
// Of both rules; made at the first call.
template <class Table>
static const Table &table_of(Rule rule) {
    static const Table both[] = {make_table<Table>(Rule::heat_bath), make_table<Table>(Rule::metropolis)};
    return both[static_cast<int>(rule)];
}

// How a field of whole units becomes y, at one beta.
struct Scale {
    std::uint16_t most, factor;
    int shift;
};
static inline Scale scale_of(double beta, double unit) {
    const double by = 2 * beta * unit * 32768 / reach;
    int shift = 0;
    while (by >= std::ldexp(65535.0 / 65536, shift)) ++shift;
    return {static_cast<std::uint16_t>(std::fmin(32767.0, 32766 / by)),
            static_cast<std::uint16_t>(std::ldexp(by, 16 - shift)), shift};
}

// Error of the logit by the field, at the largest beta: half a unit for each rounded number, and 3 % of one
// for the roundings of single precision in which it is made (sparse/filter.hpp, `fill`).
static inline double field_error(double beta, double unit, int rounded) { return 2 * beta * unit * 0.53 * rounded; }

// For check/, which is compiled with kernels of its own: a scale below 1 makes bounds wrong, which it must notice; and how
// many lanes were left open.
#if defined(QSAMPLE_CHECK)
extern double margin_scale;
extern std::atomic<std::int64_t> left_open;
static inline void count_open() { ++left_open; }
#else
constexpr double margin_scale = 1;
static inline void count_open() {}
#endif

// E[k] + 1, as numbers that 16 bits with a sign hold.
template <class Table>
static void margins(Rule rule, double field, std::uint16_t margin[Table::segments]) {
    const Table &table = table_of<Table>(rule);
    const double less = std::exp(-field);
    for (int k = 0; k < table.segments; ++k) {
        const double growth = table.growth[k] * less, least = growth > 1 ? growth : 1;
        const double error = 1 + table.error[k] + steepest(rule, least) * field + 0.125;
        margin[k] = static_cast<std::uint16_t>(std::fmin(32767.0, std::ceil(error * margin_scale) + 1));
    }
}

}  // namespace law
