// Vectors of 2 W words of 16 bits, and the rule that decides a spin from its field in 16 bits.
#pragma once

#include "fixed_table.hpp"
#include "simd.hpp"

namespace sparse {
namespace {

constexpr int W16 = 2 * W;
typedef std::uint16_t V __attribute__((vector_size(2 * W16)));

inline V vsplat(std::uint16_t x) { return x - V{}; }

// To the nearest whole number, |x| < 2^22: as std::nearbyint, in vectors too.
inline float rounded(float x) { return (x + 12582912.0f) - 12582912.0f; }

// f + (bit ? j : 0) by the bits of group g of a word; |f|; the smaller; the upper half of a product; table[at mod 64];
// the bits of a < b and of the lanes below 0.
#if defined(__AVX512F__)
inline V add_at(V f, const void *word, int g, V j) {
    __mmask32 bits;
    typedef std::uint32_t __attribute__((may_alias)) Two;
    asm("kmovd %1, %0" : "=Yk"(bits) : "m"(static_cast<const Two *>(word)[g]));
    return (V)_mm512_mask_add_epi16((__m512i)f, bits, (__m512i)f, (__m512i)j);
}
inline V size(V f) { return (V)_mm512_abs_epi16((__m512i)f); }
inline V least(V a, V b) { return (V)_mm512_min_epu16((__m512i)a, (__m512i)b); }
inline V upper(V a, V b) { return (V)_mm512_mulhi_epu16((__m512i)a, (__m512i)b); }
inline V look(const std::uint16_t *table, V at) {
    return (V)_mm512_permutex2var_epi16((__m512i)load<V>(table), (__m512i)at, (__m512i)load<V>(table + 32));
}
inline std::uint32_t less(V a, V b) { return _mm512_cmplt_epu16_mask((__m512i)a, (__m512i)b); }
inline std::uint32_t negative(V a) { return _mm512_movepi16_mask((__m512i)a); }
#else
const V bit16 = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768};
inline std::uint32_t collect(V mask) {  // all ones or zeros a lane
#if defined(__AVX2__)
    const __m256i bytes = _mm256_packs_epi16((__m256i)mask, _mm256_setzero_si256());
    const auto spread = static_cast<std::uint32_t>(_mm256_movemask_epi8(bytes));
    return (spread & 255) | (spread >> 8 & 0xFF00);
#else
    const V m = mask & bit16;
    std::uint32_t bits = 0;
    for (int l = 0; l < W16; ++l) bits |= m[l];
    return bits;
#endif
}
template <class Word>
inline V add_at(V f, const Word *word, int g, V j) {
    return f + (j & (V)((vsplat(static_cast<std::uint16_t>(*word >> (W16 * g))) & bit16) != 0));
}
inline V size(V f) { return (f >> 15) ? -f : f; }
inline V least(V a, V b) { return a < b ? a : b; }
inline V upper(V a, V b) {
#if defined(__AVX2__)
    return (V)_mm256_mulhi_epu16((__m256i)a, (__m256i)b);
#else
    V out;
    for (int l = 0; l < W16; ++l) out[l] = static_cast<std::uint16_t>(std::uint32_t{a[l]} * b[l] >> 16);
    return out;
#endif
}
inline V look(const std::uint16_t *table, V at) {
    V out;
    for (int l = 0; l < W16; ++l) out[l] = table[at[l] & 63];
    return out;
}
inline std::uint32_t less(V a, V b) { return collect((V)(a < b)); }
inline std::uint32_t negative(V a) { return collect((V)((a >> 15) != 0)); }
#endif

// How a field becomes the argument y of the table: |x| = 2 beta |f| = reach y / 2^16 is a power of two times
// 1 + part / 2^16 (or part / 2^16 alone, without the `whole`) times |f|, of which no more than `most` counts.
struct Heat {
    std::uint16_t most, twice, whole, part;
};
inline Heat heat16(float beta, float unit) {
    const double by = 2.0 * beta * unit * (65536 / reach);
    if (by < 1) return {65535, 1, 0, static_cast<std::uint16_t>(by * 65536)};
    std::uint16_t twice = 1;
    while (by >= 2.0 * twice) twice = static_cast<std::uint16_t>(2 * twice);
    const auto part = static_cast<std::uint16_t>((by / twice - 1) * 65536);
    return {static_cast<std::uint16_t>(65535 / (twice * (1 + part / 65536.0))), twice, 65535, part};
}

// New bits of N times W16 lanes; by symmetry the table holds the side of positive fields alone.
template <Rule rule, int N>
__attribute__((always_inline)) inline void redraw16(const V *f, const V *most, const V *twice, const V *whole, const V *part,
                                                    const V *u, const Table &table, std::uint32_t *bits) {
    V a[N], y[N], t[N], p[N];
    each<N>([&](int g) { a[g] = least(size(f[g]), most[g]) * twice[g]; });
    each<N>([&](int g) { y[g] = (a[g] & whole[g]) + upper(a[g], part[g]); });
    each<N>([&](int g) { t[g] = y[g] << 6; });
    each<N>([&](int g) { y[g] = y[g] >> 10; });
    each<N>([&](int g) { p[g] = upper(t[g], look(table.c2, y[g])); });
    each<N>([&](int g) { p[g] = upper(t[g], look(table.c1, y[g]) - p[g]); });
    each<N>([&](int g) { p[g] = look(table.c0, y[g]) - p[g]; });
    each<N>([&](int g) {
        const std::uint32_t below = less(u[g], p[g]), down = negative(f[g]);
        bits[g] = rule == Rule::heat_bath ? below ^ down : bits[g] ^ ((bits[g] ^ down) | below);
    });
}
template <Rule rule>
inline std::uint32_t redraw16(V f, V most, V twice, V whole, V part, V u, const Table &table, std::uint32_t old) {
    redraw16<rule, 1>(&f, &most, &twice, &whole, &part, &u, table, &old);
    return old;
}

}  // namespace
}  // namespace sparse
