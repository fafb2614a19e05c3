// Vectors of W floats or words of 32 bits, and the rule that decides a spin. Compiled once for each instruction set, all of
// it in anonymous namespaces, so that no function of one set is ever linked into another.
#pragma once

#include "../law/random.hpp"
#include "../law/rule.hpp"
#include "../law/unit.hpp"

#include <cstdint>
#include <cstring>
#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace vec {
namespace {

using law::Rule;

// As many as a register holds: what the compiler makes of wider vectors goes through memory.
#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif
typedef float F __attribute__((vector_size(4 * W)));
typedef std::uint32_t U __attribute__((vector_size(4 * W)));
typedef std::int32_t I __attribute__((vector_size(4 * W)));

using counter::each;

inline F splat(float x) { return x - F{}; }
inline U usplat(std::uint32_t x) { return x - U{}; }
template <class V, class T>
inline V load(const T *p) {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
template <class V, class T>
inline void store(T *p, V v) {
    std::memcpy(p, &v, sizeof v);
}

// What the vector extension cannot say as well as the processor can: the larger and the smaller; bits by lane as all ones or
// zeros; i + (bits ? j : 0), by bits or by those of group g of a word; numbers below 256 as bytes; bits ? x : -x; and the
// bits of not a > b.
#if defined(__AVX512F__)
inline F largest(F a, F b) { return (F)_mm512_max_ps((__m512)a, (__m512)b); }
inline F least(F a, F b) { return (F)_mm512_min_ps((__m512)a, (__m512)b); }
inline U spread_bits(std::uint32_t bits) {
    return (U)_mm512_maskz_mov_epi32(static_cast<__mmask16>(bits), _mm512_set1_epi32(-1));
}
inline I add_if(I i, std::uint32_t bits, I j) {
    return (I)_mm512_mask_add_epi32((__m512i)i, static_cast<__mmask16>(bits), (__m512i)i, (__m512i)j);
}
template <class Word>
inline I add_at(I i, Word word, int g, I j) {
    return add_if(i, static_cast<std::uint16_t>(word >> (W * g)), j);
}
inline void store_bytes(void *p, U x) { _mm_storeu_si128(static_cast<__m128i *>(p), _mm512_cvtepi32_epi8((__m512i)x)); }
inline void store_words(void *p, U x) {  // numbers below 2^16
    typedef std::uint16_t Words __attribute__((vector_size(2 * W)));
    const Words words = __builtin_convertvector(x, Words);
    std::memcpy(p, &words, sizeof words);
}
inline F minus_unless(std::uint32_t bits, F x) {
    return (F)_mm512_mask_sub_ps((__m512)x, static_cast<__mmask16>(~bits), _mm512_setzero_ps(), (__m512)x);
}
inline std::uint32_t not_above(F a, F b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_NGT_UQ); }
inline std::uint32_t nonzero(U x) { return _mm512_test_epi32_mask((__m512i)x, (__m512i)x); }
#else
#if defined(__AVX2__)
const U one_bit = {1, 2, 4, 8, 16, 32, 64, 128};
inline F largest(F a, F b) { return (F)_mm256_max_ps((__m256)a, (__m256)b); }
inline F least(F a, F b) { return (F)_mm256_min_ps((__m256)a, (__m256)b); }
inline std::uint32_t collect(U mask) { return static_cast<std::uint32_t>(_mm256_movemask_ps((__m256)mask)); }
inline void store_bytes(void *p, U x) {
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128((__m256i)x), _mm256_extracti128_si256((__m256i)x, 1));
    _mm_storel_epi64(static_cast<__m128i *>(p), _mm_packus_epi16(words, words));
}
#else
const U one_bit = {1, 2, 4, 8};
#if defined(__SSE2__)
inline F largest(F a, F b) { return (F)_mm_max_ps((__m128)a, (__m128)b); }
inline F least(F a, F b) { return (F)_mm_min_ps((__m128)a, (__m128)b); }
inline std::uint32_t collect(U mask) { return static_cast<std::uint32_t>(_mm_movemask_ps((__m128)mask)); }
#elif defined(__aarch64__)
inline F largest(F a, F b) { return (F)vmaxq_f32((float32x4_t)a, (float32x4_t)b); }
inline F least(F a, F b) { return (F)vminq_f32((float32x4_t)a, (float32x4_t)b); }
inline std::uint32_t collect(U mask) { return vaddvq_u32((uint32x4_t)(mask & one_bit)); }
#else
inline F largest(F a, F b) { return a > b ? a : b; }
inline F least(F a, F b) { return a < b ? a : b; }
inline std::uint32_t collect(U mask) {
    const U m = mask & one_bit;
    return m[0] | m[1] | m[2] | m[3];
}
#endif
inline void store_bytes(void *p, U x) {
    for (int l = 0; l < W; ++l) static_cast<std::uint8_t *>(p)[l] = static_cast<std::uint8_t>(x[l]);
}
#endif
inline U spread_bits(std::uint32_t bits) { return (U)((usplat(bits) & one_bit) == one_bit); }
inline I add_if(I i, std::uint32_t bits, I j) { return i + (j & (I)spread_bits(bits)); }
template <class Word>
inline I add_at(I i, Word word, int g, I j) {
    const U bit = one_bit << (W * g % 32);
    return i + (j & (I)((usplat(static_cast<std::uint32_t>(word >> (W * g / 32 * 32))) & bit) == bit));
}
inline F minus_unless(std::uint32_t bits, F x) { return (F)((U)x ^ (~spread_bits(bits) & 0x80000000u)); }
inline std::uint32_t not_above(F a, F b) { return collect((U)~(a > b)); }
inline std::uint32_t nonzero(U x) { return collect((U)(x != 0)); }
#endif

// How many vectors' draws are best taken together: as many as the registers hold.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int together = 4;
#else
constexpr int together = 2;
#endif

inline U gather_words(const std::uint32_t *word, const std::int32_t *at) {
    U out;
    for (int l = 0; l < W; ++l) out[l] = word[at[l]];
    return out;
}

// bits ? x : -x.
inline I minus_unless(std::uint32_t bits, I x) {
    const I down = (I)~spread_bits(bits);
    return (x ^ down) - down;
}

// To the nearest whole number, ties to even; |x| < 2^31.
#if defined(__AVX512F__)
inline I nearest(F x) { return (I)_mm512_cvtps_epi32((__m512)x); }
#elif defined(__AVX2__)
inline I nearest(F x) { return (I)_mm256_cvtps_epi32((__m256)x); }
#elif defined(__SSE2__)
inline I nearest(F x) { return (I)_mm_cvtps_epi32((__m128)x); }
#elif defined(__aarch64__)
inline I nearest(F x) { return (I)vcvtnq_s32_f32((float32x4_t)x); }
#else
inline I nearest(F x) {
    I whole;
    for (int l = 0; l < W; ++l) whole[l] = law::whole(static_cast<double>(x[l]));
    return whole;
}
#endif

// Numbers of half the width of a vector's, of which GCC 12 would make two vectors and join them.
typedef float HalfF __attribute__((vector_size(2 * W)));
typedef double D __attribute__((vector_size(4 * W)));
typedef std::uint16_t H __attribute__((vector_size(2 * W)));
typedef std::int16_t S __attribute__((vector_size(2 * W)));
#if defined(__AVX512F__)
inline D widened(HalfF x) { return (D)_mm512_cvtps_pd((__m256)x); }
inline U widened(H x) { return (U)_mm512_cvtepu16_epi32((__m256i)x); }
inline I widened(S x) { return (I)_mm512_cvtepi16_epi32((__m256i)x); }
#elif defined(__AVX2__)
inline D widened(HalfF x) { return (D)_mm256_cvtps_pd((__m128)x); }
inline U widened(H x) { return (U)_mm256_cvtepu16_epi32((__m128i)x); }
inline I widened(S x) { return (I)_mm256_cvtepi16_epi32((__m128i)x); }
#else
inline D widened(HalfF x) { return __builtin_convertvector(x, D); }
inline U widened(H x) { return __builtin_convertvector(x, U); }
inline I widened(S x) { return __builtin_convertvector(x, I); }
#endif

inline F to_float(I x) { return __builtin_convertvector(x, F); }
inline F to_float(U word) { return __builtin_convertvector(word, F); }  // rounded to single precision

// x <- 2^x, as `law::power`.
template <int N>
__attribute__((always_inline)) inline void power(F *x) {
    F shifted[N], p[N];
    each<N>([&](int g) { x[g] = largest(x[g], splat(-126.0f)); });
    each<N>([&](int g) { x[g] = least(x[g], splat(126.0f)); });
    each<N>([&](int g) { shifted[g] = x[g] + law::rounder; });
    each<N>([&](int g) { x[g] = x[g] - (shifted[g] - law::rounder); });
    each<N>([&](int g) { p[g] = splat(law::power_c[0]); });
#pragma GCC unroll 5
    for (int k = 1; k < 6; ++k) each<N>([&](int g) { p[g] = p[g] * x[g] + law::power_c[k]; });
    each<N>([&](int g) { x[g] = (F)((U)p[g] + ((U)shifted[g] << 23)); });
}
inline F power(F x) {
    power<1>(&x);
    return x;
}

// Of uniform spins, by the upper halves of words: 1 where the top bit is 0.
inline std::uint32_t heads(U upper) { return nonzero(~upper & 0x8000u); }

// New bits of N times W lanes whose logits by base 2 are x, which are lost. `upper` holds the upper halves of the words;
// `lower(g)` makes the lower ones of vector g, where 16 bits leave a lane open (one in thousands).
// Heat bath: 1 with probability 1/(1 + 2^x). Metropolis: a flip with probability min(1, e^{-dE}).
template <Rule rule, int N, class Lower>
__attribute__((always_inline)) inline void redraw(F *x, const U *upper, std::uint32_t *bits, Lower lower) {
    if (rule == Rule::metropolis) each<N>([&](int g) { x[g] = minus_unless(bits[g], x[g]); });
    power<N>(x);
    const auto below = [&](int g, F w) {  // what the word decides: +1, or a flip
        return rule == Rule::heat_bath ? not_above(w * x[g] + w, splat(0x1p32f)) : not_above(w, x[g] * 0x1p32f);
    };
    std::uint32_t all[N], none[N], open = 0;
    F w[N];  // of the upper half alone; one sum rounds it with the lower half as a conversion would
    each<N>([&](int g) { w[g] = to_float((I)upper[g]) * 0x1p16f; });
    each<N>([&](int g) { all[g] = below(g, w[g] + 65535.0f); });
    each<N>([&](int g) { none[g] = below(g, w[g]); });
    each<N>([&](int g) { open |= all[g] ^ none[g]; });
    if (__builtin_expect(open != 0, 0))
        for (int g = 0; g < N; ++g)
            if (all[g] != none[g]) all[g] = below(g, w[g] + to_float((I)lower(g)));
    each<N>([&](int g) { bits[g] = rule == Rule::heat_bath ? all[g] : bits[g] ^ all[g]; });
}

}  // namespace
}  // namespace vec
