// The rule that decides one spin, in plain single precision without fused operations: what every vector path repeats.
#pragma once

#include <cstdint>
#include <cstring>

namespace law {

enum class Rule : int { heat_bath, metropolis };

// The rule of a sweep by its number. Metropolis flips a spin in no field (and nearly always one in hardly any) at each
// visit: under a fixed order of visits domain walls then circulate for ever and never meet. So the first of every four
// of its sweeps is one of the heat bath; a cycle of kernels that leave the law invariant leaves it invariant.
constexpr std::uint32_t metropolis_cycle = 4;
static inline Rule rule_of(bool metropolis, std::uint32_t sweep) {
    return metropolis && sweep % metropolis_cycle ? Rule::metropolis : Rule::heat_bath;
}

constexpr double log2_e = 1.4426950408889634;

// 2 beta u log2 e: a field of f units u makes odds of 2^(rate f) against +1.
static inline float rate(float beta, double unit) { return static_cast<float>(2 * log2_e * static_cast<double>(beta) * unit); }

// 2^x for |x| <= 126, relative error 3e-7; beyond, its value at the end, which is as good as 0 or infinity.
constexpr float power_c[] = {1.3264715e-3f, 9.6715083e-3f, 5.5507336e-2f, 2.4022242e-1f, 6.9314700e-1f, 1.0f};
constexpr float rounder = 12582912.0f;  // 1.5 * 2^23: x + rounder is rounded to a whole number, which its low bits hold

static inline float power(float x) {
    x = x < -126.0f ? -126.0f : x;
    x = x > 126.0f ? 126.0f : x;
    const float shifted = x + rounder, rest = x - (shifted - rounder);
    float p = power_c[0];
    for (int k = 1; k < 6; ++k) p = p * rest + power_c[k];
    std::uint32_t bits, whole;
    std::memcpy(&bits, &p, 4), std::memcpy(&whole, &shifted, 4);
    bits += whole << 23;
    std::memcpy(&p, &bits, 4);
    return p;
}

// Whether a spin becomes +1, from its logit x = rate f by base 2 and its random word.
static inline bool decide(Rule rule, float x, std::uint32_t word, bool up) {
    const float w = static_cast<float>(word);
    if (rule == Rule::heat_bath) {
        const float p = power(x);
        return !(w * p + w > 0x1p32f);
    }
    const bool stays = w > power(up ? x : -x) * 0x1p32f;
    return stays == up;
}

}  // namespace law
