// Five bits of a lane look up one of 32 sums of 16 bits. Compiled once for each instruction set.
#pragma once

#include "simd16.hpp"

namespace bipartite {
namespace {

using namespace sparse;

// Of five couplings the eight sums of the first three are kept and the four sums of the others. Sums wrap at 2^16, that
// harms nothing where the last of them is a field in range.
#if defined(__AVX512F__)
typedef V Choice;  // of a sum: the low five bits of each lane

struct Sums16 {
    __m512i all;
    inline explicit Sums16(const std::uint16_t *of) {
        static const V upper = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1,
                                2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3};
        const __m512i three = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i *>(of)));
        const __m512i two = _mm512_broadcastq_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(of + 8)));
        all = _mm512_add_epi16(three, _mm512_permutexvar_epi16((__m512i)upper, two));
    }
    inline V add(V f, const Choice &k) const {
        return (V)_mm512_add_epi16((__m512i)f, _mm512_permutexvar_epi16((__m512i)k, all));
    }
};
inline Choice choice(V bits) { return bits; }
#elif defined(__AVX2__)
struct Choice {
    __m256i three, two;  // the places of the bytes of a sum
};

struct Sums16 {
    __m256i three, two;
    inline explicit Sums16(const std::uint16_t *of)
        : three(_mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i *>(of)))),
          two(_mm256_broadcastq_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(of + 8)))) {}
    inline V add(V f, const Choice &k) const {
        return f + (V)_mm256_shuffle_epi8(three, k.three) + (V)_mm256_shuffle_epi8(two, k.two);
    }
};
inline Choice choice(V bits) {
    const V bytes = vsplat(0x0202), second = vsplat(0x0100);
    return {(__m256i)((bits & 7) * bytes + second), (__m256i)((bits >> 3 & 3) * bytes + second)};
}
#else
typedef V Choice;

struct Sums16 {
    const std::uint16_t *of;
    inline explicit Sums16(const std::uint16_t *sums) : of(sums) {}
    inline V add(V f, const Choice &k) const {
        for (int l = 0; l < W16; ++l) f[l] = static_cast<std::uint16_t>(f[l] + of[k[l] & 7] + of[8 + (k[l] >> 3 & 3)]);
        return f;
    }
};
inline Choice choice(V bits) { return bits; }
#endif

// Lanes of all ones or zeros by their bits.
inline V spread16(std::uint32_t bits) {
#if defined(__AVX512F__)
    return (V)_mm512_movm_epi16(bits);
#else
    return (V)((vsplat(static_cast<std::uint16_t>(bits)) & bit16) != 0);
#endif
}

}  // namespace
}  // namespace bipartite
