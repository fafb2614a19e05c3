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

using counter::each;

inline F splat(float x) { return x - F{}; }
inline U usplat(std::uint32_t x) { return x - U{}; }
template <class V, class T>
inline V load(const T *p) {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

// What the vector extension cannot say as well as the processor can: a b + c in one rounding, f + (bits ? j : 0),
// bits ? x : -x, and the bits of a < b and of not a > b.
#if defined(__AVX512F__)
inline F fma(F a, F b, F c) { return (F)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
inline F add_if(F f, std::uint32_t bits, F j) {
    return (F)_mm512_mask_add_ps((__m512)f, static_cast<__mmask16>(bits), (__m512)f, (__m512)j);
}
inline F minus_unless(std::uint32_t bits, F x) {
    return (F)_mm512_mask_sub_ps((__m512)x, static_cast<__mmask16>(~bits), _mm512_setzero_ps(), (__m512)x);
}
inline std::uint32_t less(F a, F b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ); }
inline std::uint32_t not_above(F a, F b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_NGT_UQ); }
// add_if with the bits of group g of a word, straight from memory to a mask register: compilers take a detour.
typedef std::uint16_t __attribute__((may_alias)) Half;
inline F add_at(F f, const void *word, int g, F j) {
    __mmask16 bits;
    asm("kmovw %1, %0" : "=Yk"(bits) : "m"(static_cast<const Half *>(word)[g]));
    return (F)_mm512_mask_add_ps((__m512)f, bits, (__m512)f, (__m512)j);
}
// ... and a mask register straight to memory.
inline void put(void *word, int g, std::uint32_t bits) { static_cast<Half *>(word)[g] = static_cast<Half>(bits); }
// splat(*p): compilers choose an instruction that takes twice the time.
inline F broadcast(const void *p) {
    __m512i out;
    asm("vpbroadcastd %1, %0" : "=v"(out) : "m"(*static_cast<const std::int32_t *>(p)));
    return (F)out;
}
#else
inline F broadcast(const void *p) { return splat(load<float>(p)); }

const U one_bit = {1, 2, 4, 8, 16, 32, 64, 128};
inline F add_if(F f, std::uint32_t bits, F j) { return f + (F)((U)j & (U)((usplat(bits) & one_bit) != 0)); }
inline F minus_unless(std::uint32_t bits, F x) { return (usplat(bits) & one_bit) != 0 ? x : -x; }
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "byte g of a word holds its group g");
inline void put(void *word, int g, std::uint32_t bits) {
    static_cast<std::uint8_t *>(word)[g] = static_cast<std::uint8_t>(bits);
}
template <class Word>
inline F add_at(F f, const Word *word, int g, F j) {
    return add_if(f, static_cast<std::uint32_t>(*word >> (W * g)) & ((1u << W) - 1), j);
}
#if defined(__AVX2__)
inline F fma(F a, F b, F c) { return (F)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
inline std::uint32_t less(F a, F b) {
    return static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_LT_OQ)));
}
inline std::uint32_t not_above(F a, F b) {
    return static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_NGT_UQ)));
}
#else
inline F fma(F a, F b, F c) { return a * b + c; }
inline std::uint32_t collect(U mask) {  // all ones or zeros a lane
    const U m = mask & one_bit;
    return m[0] | m[1] | m[2] | m[3] | m[4] | m[5] | m[6] | m[7];
}
inline std::uint32_t less(F a, F b) { return collect((U)(a < b)); }
inline std::uint32_t not_above(F a, F b) { return collect((U)~(a > b)); }
#endif
#endif

// The halves of a key in memory.
inline U low_half(const std::uint64_t &key) { return (U)broadcast(&key); }
inline U high_half(const std::uint64_t &key) { return (U)broadcast(reinterpret_cast<const char *>(&key) + 4); }

// How many vectors' draws are best taken together: as many as the registers hold.
#if defined(__AVX512F__)
constexpr int together = 4;
#else
constexpr int together = 2;
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

// x <- 2^x, relative error 2e-7; beyond |x| = 126 just something as good as 0 or infinity.
template <int N>
__attribute__((always_inline)) inline void power(F *x) {
    F whole[N], p[N];
#if defined(__AVX512F__)
    each<N>([&](int g) { whole[g] = (F)_mm512_roundscale_ps((__m512)x[g], 0); });
#elif defined(__AVX2__)
    each<N>([&](int g) { x[g] = (F)_mm256_max_ps((__m256)x[g], (__m256)splat(-126.0f)); });
    each<N>([&](int g) { x[g] = (F)_mm256_min_ps((__m256)x[g], (__m256)splat(126.0f)); });
    each<N>([&](int g) { whole[g] = (F)_mm256_round_ps((__m256)x[g], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); });
#else
    each<N>([&](int g) { x[g] = x[g] < -126.0f ? splat(-126.0f) : x[g]; });
    each<N>([&](int g) { x[g] = x[g] > 126.0f ? splat(126.0f) : x[g]; });
    each<N>([&](int g) { whole[g] = (x[g] + 12582912.0f) - 12582912.0f; });  // 1.5 * 2^23: rounds
#endif
    each<N>([&](int g) { x[g] = x[g] - whole[g]; });
    each<N>([&](int g) { p[g] = fma(splat(1.3264715e-3f), x[g], splat(9.6715083e-3f)); });
    each<N>([&](int g) { p[g] = fma(p[g], x[g], splat(5.5507336e-2f)); });
    each<N>([&](int g) { p[g] = fma(p[g], x[g], splat(2.4022242e-1f)); });
    each<N>([&](int g) { p[g] = fma(p[g], x[g], splat(6.9314700e-1f)); });
    each<N>([&](int g) { p[g] = fma(p[g], x[g], splat(1.0f)); });
#if defined(__AVX512F__)
    each<N>([&](int g) { x[g] = (F)_mm512_scalef_ps((__m512)p[g], (__m512)whole[g]); });
#else
    each<N>([&](int g) { x[g] = (F)((U)p[g] + ((U)(whole[g] + 12582912.0f) << 23)); });  // its low bits: the exponent
#endif
}
inline F exponential(F x) {
    F one[] = {x * log2_e};
    power<1>(one);
    return one[0];
}

// A word as a number in units of 2^-32, rounded to single precision.
inline F number(U word) { return __builtin_convertvector(word, F); }
// Of uniform spins: 1 where a word's top bit is 0.
inline std::uint32_t heads(U word) { return less(number(word >> 31), splat(1.0f)); }

// New bits of N times W lanes in fields f, which are lost; `rate` is 2 beta / log 2, so that e^{2 beta f} = 2^{rate f}.
// Heat bath: 1 with probability 1/(1 + e^{2 beta f}). Metropolis: a flip with probability min(1, e^{-dE}), dE = -2 beta s f.
// Beyond its range the power is just something small or large: what is compared with it is written for 0 and for infinity.
template <Rule rule, int N>
__attribute__((always_inline)) inline void redraw(F *f, const F *rate, const U *word, std::uint32_t *bits) {
    F u[N];
    each<N>([&](int g) { f[g] = rate[g] * f[g]; });
    if (rule == Rule::metropolis) each<N>([&](int g) { f[g] = minus_unless(bits[g], f[g]); });
    power<N>(f);
    each<N>([&](int g) { u[g] = number(word[g]); });
    if (rule == Rule::heat_bath) {
        each<N>([&](int g) { f[g] = fma(u[g], f[g], u[g]); });
        each<N>([&](int g) { bits[g] = not_above(f[g], splat(0x1p32f)); });
    } else {
        each<N>([&](int g) { bits[g] ^= not_above(u[g], f[g] * 0x1p32f); });
    }
}
// Of W lanes.
template <Rule rule>
inline std::uint32_t redraw(F f, F rate, U word, std::uint32_t old) {
    redraw<rule, 1>(&f, &rate, &word, &old);
    return old;
}

}  // namespace
}  // namespace sparse
