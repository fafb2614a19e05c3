// Couplings and fields as whole multiples of a unit: sums of them are exact in any order, so that no path, block or
// instruction set can round a field otherwise than another.
//
// With a = max_i sum_j |J_ij| and b = max_i |h_i|, the unit is u = 2^(e - 27), e = max(ceil(log2 a), ceil(log2 b) - 3).
// K_ij = rint(J_ij / u) and H_i = rint(h_i / u) are what is sampled: an Ising problem again, J and h of which differ from
// the given ones by u/2 at most. A sum of couplings stays below 2^27 + n/2 and H below 2^30: no field leaves 32 bits.
// Problems that share J share u, unless a field is more than 8 times the couplings' reach.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace law {

constexpr int unit_bits = 27, field_bits = 3, least_exponent = -99;

// ceil(log2 x), x > 0.
static inline int exponent_above(double x) {
    int exponent;
    return std::frexp(x, &exponent) == 0.5 ? exponent - 1 : exponent;
}

// u of a problem whose couplings push a spin by `reach` at most, and whose largest field is `field`.
static inline double unit(double reach, double field) {
    int e = unit_bits;  // nothing at all: any unit does
    if (reach > 0 || field > 0) {
        e = least_exponent;
        if (reach > 0 && exponent_above(reach) > e) e = exponent_above(reach);
        if (field > 0 && exponent_above(field) - field_bits > e) e = exponent_above(field) - field_bits;
    }
    return std::ldexp(1.0, e - unit_bits);
}

// x rounded to the nearest whole number, ties to even, |x| < 2^31: one that is added to 1.5 * 2^52 is rounded to a whole
// one, which the low bits of the sum hold.
static inline std::int32_t whole(double x) {
    const double shifted = x + 6755399441055744.0;
    std::int64_t bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    return static_cast<std::int32_t>(bits);
}

// x / u, rounded; `inverse` is 1 / u, a power of two.
static inline std::int32_t units(float x, double inverse) { return whole(static_cast<double>(x) * inverse); }

}  // namespace law
