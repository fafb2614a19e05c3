// Four bits of a lane look up one of sixteen sums. Compiled once for each instruction set.
#pragma once

#include "../vec/words.hpp"

namespace bipartite {
namespace {

using namespace vec;

// Entry k: the sum of those of four numbers whose bits are set in k.
#if defined(__AVX512F__)
constexpr int widest = 8, outputs = 2;  // vectors of lanes, and spins, that are taken together

struct Sums {
    __m512i all;
    inline explicit Sums(const std::int32_t *a) {
        all = _mm512_maskz_mov_epi32(0xAAAA, _mm512_set1_epi32(a[0]));
        all = _mm512_mask_add_epi32(all, 0xCCCC, all, _mm512_set1_epi32(a[1]));
        all = _mm512_mask_add_epi32(all, 0xF0F0, all, _mm512_set1_epi32(a[2]));
        all = _mm512_mask_add_epi32(all, 0xFF00, all, _mm512_set1_epi32(a[3]));
    }
    // f plus the entry that the low four bits choose.
    inline I add(I f, U k) const { return f + (I)_mm512_permutexvar_epi32((__m512i)k, all); }
};
#elif defined(__AVX2__)
constexpr int widest = 2, outputs = 4;
const I first_bit = {0, -1, 0, -1, 0, -1, 0, -1}, second_bit = {0, 0, -1, -1, 0, 0, -1, -1},
        third_bit = {0, 0, 0, 0, -1, -1, -1, -1};
inline I isplat(std::int32_t x) { return x - I{}; }

struct Sums {
    I half[2];
    inline explicit Sums(const std::int32_t *a) {
        half[0] = (isplat(a[0]) & first_bit) + (isplat(a[1]) & second_bit) + (isplat(a[2]) & third_bit);
        half[1] = half[0] + isplat(a[3]);
    }
    inline I add(I f, U k) const {
        const __m256 low = (__m256)_mm256_permutevar8x32_epi32((__m256i)half[0], (__m256i)k);
        const __m256 high = (__m256)_mm256_permutevar8x32_epi32((__m256i)half[1], (__m256i)k);
        return f + (I)_mm256_blendv_ps(low, high, (__m256)(k << 28));  // by the sign: bit 3 of k
    }
};
#else
constexpr int widest = 2, outputs = 4;

struct Sums {
    std::int32_t all[16] = {};
    inline explicit Sums(const std::int32_t *a) {
        for (int m = 1; m < 16; ++m) all[m] = all[m & (m - 1)] + a[__builtin_ctz(static_cast<unsigned>(m))];
    }
    inline I add(I f, U k) const {
        for (int l = 0; l < W; ++l) f[l] += all[k[l] & 15];
        return f;
    }
};
#endif

}  // namespace
}  // namespace bipartite
