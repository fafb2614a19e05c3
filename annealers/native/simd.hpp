// Vectors of W floats or words, and the rule that decides a spin. Compiled once for each instruction set, all of it in
// anonymous namespaces, so that no function of one set is ever linked into another.
#pragma once

#include "job.hpp"
#include "random.hpp"

#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace sparse {
namespace {

#if defined(__AVX512F__)
constexpr int W = 16;
#else
constexpr int W = 8;
#endif
typedef float F __attribute__((vector_size(4 * W)));
typedef std::uint32_t U __attribute__((vector_size(4 * W)));
typedef std::int32_t I __attribute__((vector_size(4 * W)));

constexpr float log2_e = 1.44269504f;

inline F splat(float x) { return x - F{}; }
inline U usplat(std::uint32_t x) { return x - U{}; }
template <class V, class T>
inline V load(const T *p) {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

// What the vector extension cannot say as well as the processor can: a b + c in one rounding, f + (bits ? j : 0), and
// the bits of a < b.
#if defined(__AVX512F__)
inline F fma(F a, F b, F c) { return (F)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
inline F add_if(F f, std::uint32_t bits, F j) {
    return (F)_mm512_mask_add_ps((__m512)f, static_cast<__mmask16>(bits), (__m512)f, (__m512)j);
}
inline std::uint32_t less(F a, F b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ); }
// add_if with the bits of group g of a word, straight from memory to a mask register: compilers take a detour.
typedef std::uint16_t __attribute__((may_alias)) Half;
inline F add_at(F f, const void *word, int g, F j) {
    __mmask16 bits;
    asm("kmovw %1, %0" : "=Yk"(bits) : "m"(static_cast<const Half *>(word)[g]));
    return (F)_mm512_mask_add_ps((__m512)f, bits, (__m512)f, (__m512)j);
}
#else

const U one_bit = {1, 2, 4, 8, 16, 32, 64, 128};
inline F add_if(F f, std::uint32_t bits, F j) { return f + (F)((U)j & (U)((usplat(bits) & one_bit) != 0)); }
template <class Word>
inline F add_at(F f, const Word *word, int g, F j) {
    return add_if(f, static_cast<std::uint32_t>(*word >> (W * g)) & ((1u << W) - 1), j);
}
#if defined(__AVX2__)
inline F fma(F a, F b, F c) { return (F)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
inline std::uint32_t less(F a, F b) {
    return static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_LT_OQ)));
}
#else
inline F fma(F a, F b, F c) { return a * b + c; }
inline std::uint32_t less(F a, F b) {
    const U m = (U)(a < b) & one_bit;
    return m[0] | m[1] | m[2] | m[3] | m[4] | m[5] | m[6] | m[7];
}
#endif
#endif

// Bits to lanes of all ones or zeros; the bits of the lanes that are not 0; words by their places.
inline U spread_bits(std::uint32_t bits) {
    U lane;
    for (int l = 0; l < W; ++l) lane[l] = 1u << l;
    return (U)((usplat(bits) & lane) != 0);
}
inline std::uint32_t nonzero(U x) { return less(splat(0.0f), __builtin_convertvector((I)(x != 0) & 1, F)); }
inline U gather_words(const std::uint32_t *word, const std::int32_t *at) {
    U out;
    for (int l = 0; l < W; ++l) out[l] = word[at[l]];
    return out;
}

// 2^r for |r| <= 1/2, relative error 2e-7.
inline F fraction(F r) {
    F p = splat(1.3264715e-3f);
    p = fma(p, r, splat(9.6715083e-3f));
    p = fma(p, r, splat(5.5507336e-2f));
    p = fma(p, r, splat(2.4022242e-1f));
    p = fma(p, r, splat(6.9314700e-1f));
    return fma(p, r, splat(1.0f));
}
// 2^x; beyond |x| = 126 just something as good as 0 or infinity.
#if defined(__AVX512F__)
inline F power(F x) {
    const F whole = (F)_mm512_roundscale_ps((__m512)x, 0);
    return (F)_mm512_scalef_ps((__m512)fraction(x - whole), (__m512)whole);
}
#else
inline F power(F x) {
#if defined(__AVX2__)
    x = (F)_mm256_min_ps(_mm256_max_ps((__m256)x, (__m256)splat(-126.0f)), (__m256)splat(126.0f));
#else
    x = x < -126.0f ? splat(-126.0f) : x;
    x = x > 126.0f ? splat(126.0f) : x;
#endif
    const F shifted = x + 12582912.0f;  // 1.5 * 2^23: the sum's low bits are x rounded
    return (F)((U)fraction(x - (shifted - 12582912.0f)) + ((U)shifted << 23));
}
#endif
inline F exponential(F x) { return power(x * log2_e); }

// The top 23 bits k of a word as 2 k + 1: uniform, in units of 2^-24, strictly inside (0, 1).
inline F odd(U bits) { return __builtin_convertvector((I)((bits >> 8) | 1u), F); }
inline F uniform(U bits) { return odd(bits) * 0x1p-24f; }

// New bits of W lanes in fields f; `rate` is 2 beta / log 2, so that e^{2 beta f} = 2^{rate f}. Heat bath: 1 with
// probability 1/(1 + e^{2 beta f}). Metropolis: a flip with probability min(1, e^{-dE}), dE = -2 beta s f.
template <Rule rule>
inline std::uint32_t redraw(F f, F rate, U bits, std::uint32_t old) {
    const F x = rate * f, u = odd(bits);
    if (rule == Rule::heat_bath) return less(fma(u, power(x), u), splat(0x1p24f));
    return old ^ less(u, power(add_if(-x, old, x + x)) * 0x1p24f);
}

}  // namespace
}  // namespace sparse
