// Four bits of a lane look up one of sixteen sums. Compiled once for each instruction set.
#pragma once

#include "simd.hpp"

namespace bipartite {
namespace {

using namespace sparse;

// Entry k: the sum of those of four numbers whose bits are set in k, added up from the first to the last.
#if defined(__AVX512F__)
constexpr int widest = 4;  // vectors of lanes taken together

struct Sums {
    __m512 all;
    inline Sums(const float *a, std::int64_t stride) {
        all = _mm512_maskz_mov_ps(0xAAAA, _mm512_set1_ps(a[0]));
        all = _mm512_mask_add_ps(all, 0xCCCC, all, _mm512_set1_ps(a[stride]));
        all = _mm512_mask_add_ps(all, 0xF0F0, all, _mm512_set1_ps(a[2 * stride]));
        all = _mm512_mask_add_ps(all, 0xFF00, all, _mm512_set1_ps(a[3 * stride]));
    }
    // f plus the entry that the low four bits choose. Look-ups and additions contend for the same ports of today's
    // processors; a multiplication by one does not, and rounds alike.
    inline F add(F f, U k) const {
        const __m512 found = _mm512_permutexvar_ps((__m512i)k, all);
        return (F)_mm512_fmadd_ps(found, _mm512_set1_ps(1.0f), (__m512)f);
    }
};
#else
constexpr int widest = 2;
const U first_bit = {0, ~0u, 0, ~0u, 0, ~0u, 0, ~0u}, second_bit = {0, 0, ~0u, ~0u, 0, 0, ~0u, ~0u},
        third_bit = {0, 0, 0, 0, ~0u, ~0u, ~0u, ~0u};

struct Sums {
    F half[2];
    inline Sums(const float *a, std::int64_t stride) {
        half[0] = (F)((U)splat(a[0]) & first_bit);
        half[0] += (F)((U)splat(a[stride]) & second_bit);
        half[0] += (F)((U)splat(a[2 * stride]) & third_bit);
        half[1] = half[0] + splat(a[3 * stride]);
    }
#if defined(__AVX2__)
    inline F add(F f, U k) const {
        const __m256 low = _mm256_permutevar8x32_ps((__m256)half[0], (__m256i)k);
        const __m256 high = _mm256_permutevar8x32_ps((__m256)half[1], (__m256i)k);
        return f + (F)_mm256_blendv_ps(low, high, (__m256)(k << 28));  // by the sign: bit 3 of k
    }
#else
    inline F add(F f, U k) const {
        float entry[16];
        std::memcpy(entry, half, sizeof entry);
        F found;
        for (int l = 0; l < W; ++l) found[l] = entry[k[l] & 15];
        return f + found;
    }
#endif
};
#endif

}  // namespace
}  // namespace bipartite
