// The filter's thresholds on vectors: what law/filter.hpp says of numbers.
#pragma once

#include "../law/filter.hpp"
#include "bytes.hpp"

#if defined(HAS_BYTES)
namespace vec {
namespace {

// From y, Q less 2^15 and the margin; made of the rule's table and of the margins of its segments.
template <class B>
struct Curve {
    using Table = law::Quadratics;
    typedef typename B::V V;
    struct Point {
        V threshold, margin;
    };
    V c0, c1, c2, margins, twin;

    Curve(law::Rule rule, const std::uint16_t *margin) {
        const Table &table = law::table_of<Table>(rule);
        c0 = B::table(table.c0), c1 = B::table(table.c1), c2 = B::table(table.c2), margins = B::table(margin);
        twin = B::unknown(B::all16(0x0202));
    }
    template <law::Rule rule>
    __attribute__((always_inline)) inline Point at(V y) const {
        // The two bytes of entry k of a table of 16-bit numbers.
        const V k = B::add16(B::multiply16(B::template right16<12>(y), twin), B::all16(0x0100));
        const V t = B::template left16<4>(y);
        const V inner = B::sub16(B::look(c1, k), B::share16(t, B::look(c2, k)));
        // Metropolis' first segment is so steep that `inner` needs 16 bits.
        const V fall = rule == law::Rule::heat_bath ? B::share16(t, inner) : B::upper16(t, inner);
        return {B::sub16(B::look(c0, k), fall), B::look(margins, k)};
    }
};

#if defined(HAS_WIDE)
// The lines are looked up in two vectors each.
template <>
struct Curve<Wide> {
    using Table = law::Lines;
    typedef Wide::V V;
    struct Point {
        V threshold, margin;
    };
    V c0[2], c1[2], margins[2], step;

    Curve(law::Rule rule, const std::uint16_t *margin) {
        const Table &table = law::table_of<Table>(rule);
        step = Wide::unknown(Wide::all16(128));
        for (int half = 0; half < 2; ++half) {
            c0[half] = Wide::load(table.c0 + 32 * half), c1[half] = Wide::load(table.c1 + 32 * half);
            margins[half] = Wide::load(margin + 32 * half);
        }
    }
    template <law::Rule>
    __attribute__((always_inline)) inline Point at(V y) const {
        const V k = Wide::right16<9>(y), t = Wide::multiply16(y, step);
        const V fall = Wide::upper16(t, Wide::look64(c1, k));
        return {Wide::sub16(Wide::look64(c0, k), fall), Wide::look64(margins, k)};
    }
};
#endif

}  // namespace
}  // namespace vec
#endif
