// Vectors of bytes and of 16-bit numbers, as the filters use them: `Bytes` names each operation once for every instruction
// set that has a table look-up by bytes. Elsewhere HAS_BYTES is not defined, and fields are summed exactly.
#pragma once

#include "../law/random.hpp"

#include <cstdint>

// The numbers of 16 bits of a vector, and tables of them, lie in memory with the lower byte first.
#if defined(__AVX2__) || defined(__SSE4_1__)
#include <immintrin.h>
#define HAS_BYTES
#elif defined(QSAMPLE_NEON)
#include <arm_neon.h>
#define HAS_BYTES
#endif

namespace vec {
namespace {

#if defined(__AVX2__)

struct Bytes {
    typedef __m256i V;
    static constexpr int size = 32;
    typedef std::uint32_t Words __attribute__((vector_size(32)));
    static V load(const void *p) { return _mm256_loadu_si256(static_cast<const V *>(p)); }
    static void store(void *p, V a) { _mm256_storeu_si256(static_cast<V *>(p), a); }
    static V sixteens(const void *p, std::int64_t apart) {  // bytes from p on, and so many further on
        const auto *from = static_cast<const char *>(p);
        return _mm256_set_m128i(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from + apart)),
                                _mm_loadu_si128(reinterpret_cast<const __m128i *>(from)));
    }
    static V table(const void *p) {  // sixteen bytes, for `look`
        return _mm256_broadcastsi128_si256(_mm_load_si128(static_cast<const __m128i *>(p)));
    }
    static V zero() { return _mm256_setzero_si256(); }
    static V all8(int x) { return _mm256_set1_epi8(static_cast<char>(x)); }
    static V all16(int x) { return _mm256_set1_epi16(static_cast<short>(x)); }
    static V all32(std::uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
    static V bit_and(V a, V b) { return _mm256_and_si256(a, b); }
    static V and_not(V a, V b) { return _mm256_andnot_si256(a, b); }  // ~a & b
    static V bit_or(V a, V b) { return _mm256_or_si256(a, b); }
    static V bit_xor(V a, V b) { return _mm256_xor_si256(a, b); }
    static V bit_not(V a) { return bit_xor(a, all8(-1)); }
    static V add8(V a, V b) { return _mm256_add_epi8(a, b); }
    static V twice8(V a, V b) { return add8(add8(a, a), b); }  // 2 a + b
    static V add16(V a, V b) { return _mm256_add_epi16(a, b); }
    static V sub16(V a, V b) { return _mm256_sub_epi16(a, b); }
    static V add16_saturated(V a, V b) { return _mm256_adds_epi16(a, b); }
    static V sub16_saturated(V a, V b) { return _mm256_subs_epi16(a, b); }
    static V multiply16(V a, V b) { return _mm256_mullo_epi16(a, b); }
    static V upper16(V a, V b) { return _mm256_mulhi_epu16(a, b); }  // of the products of 16-bit numbers without sign
    static V share16(V a, V b) { return upper16(a, b); }  // the same, of even a and b below 2^15
    template <int by>
    static V right16(V a) { return _mm256_srli_epi16(a, by); }
    template <int by>
    static V left16(V a) { return _mm256_slli_epi16(a, by); }
    template <int by>
    static V right32(V a) { return _mm256_srli_epi32(a, by); }
    template <int by>
    static V left32(V a) { return _mm256_slli_epi32(a, by); }
    static V lower4(V a) { return bit_and(a, all8(0x0F)); }  // of bytes
    static V upper4(V a) { return lower4(right16<4>(a)); }
    typedef __m128i Count;
    static Count count(int by) { return _mm_cvtsi32_si128(by); }
    static V left16(V a, Count by) { return _mm256_sll_epi16(a, by); }
    static V left32(V a, Count by) { return _mm256_sll_epi32(a, by); }
    // The second byte of each 16-bit number, as a number: a multiplication, since shifts contend with look-ups.
    static V odd8(V a) { return _mm256_maddubs_epi16(a, all16(0x0100)); }
    static V signs16(V a) { return _mm256_srai_epi16(a, 15); }  // all ones where negative
    static V size16(V a) { return _mm256_abs_epi16(a); }
    static V least16(V a, V b) { return _mm256_min_epu16(a, b); }    // of numbers without sign
    static V signed16(V a, V b) { return _mm256_sign_epi16(a, b); }  // a, 0 or -a by the sign of b
    static V above16(V a, V b) { return _mm256_cmpgt_epi16(a, b); }
    static V same8(V a, V b) { return _mm256_cmpeq_epi8(a, b); }
    // x, of which compilers do not know that it is constant: they make three operations of a product by 0x0202.
    static V unknown(V x) {
        asm("" : "+x"(x));
        return x;
    }
    static V either(V where, V a, V b) { return _mm256_blendv_epi8(b, a, where); }  // by bytes of all ones or zeros
    // Sixteen bytes looked up, by bytes below 16; bytes from 128 on find 0.
    static V look(V table, V at) { return _mm256_shuffle_epi8(table, at); }
    // Bytes of a and b by turns, of each 16 bytes the first eight or the others; the tops of 16-bit numbers as the tops of
    // bytes (all ones of all ones, zeros of zeros), back in the order before.
    static V low8(V a, V b) { return _mm256_unpacklo_epi8(a, b); }
    static V high8(V a, V b) { return _mm256_unpackhi_epi8(a, b); }
    static V pack(V a, V b) { return _mm256_packs_epi16(a, b); }
#if defined(__AVX512BW__)
    static V words(const void *p) { return load(p); }
    static V look16(V table, V at) { return _mm256_permutexvar_epi16(at, table); }
#endif
    // The upper bytes of 16-bit numbers, those of `even` as lower ones.
    static V uppers(V even, V odd) { return either(all16(0xFF00), odd, right16<8>(even)); }
    // Likewise of 32-bit numbers by turns; and numbers of four vectors that are below 256, as bytes: of each 16 bytes of the
    // four, one after the other.
    static V low32(V a, V b) { return _mm256_unpacklo_epi32(a, b); }
    static V high32(V a, V b) { return _mm256_unpackhi_epi32(a, b); }
    static V narrow(V a, V b, V c, V d) { return _mm256_packus_epi16(_mm256_packus_epi32(a, b), _mm256_packus_epi32(c, d)); }
    // Sums and registers stay as they are written: the compiler may not take this value apart.
    static void keep(V &a) { asm volatile("" : "+x"(a)); }
    static std::uint32_t tops(V a) { return static_cast<std::uint32_t>(_mm256_movemask_epi8(a)); }  // of bytes
    // Whether any 16-bit number, any byte is negative.
    static bool any_negative(V a) { return _mm256_movemask_epi8(a) & 0xAAAAAAAAu; }
    static bool any_top(V a) { return _mm256_movemask_epi8(a); }
    // The byte of `pack` that number w of its first (0) or second (1) half becomes.
    static constexpr int byte_of(int half, int w) { return (w < 8 ? w : w + 8) + 8 * half; }
};

#elif defined(__SSE4_1__)

struct Bytes {
    typedef __m128i V;
    static constexpr int size = 16;
    typedef std::uint32_t Words __attribute__((vector_size(16)));
    static V load(const void *p) { return _mm_loadu_si128(static_cast<const V *>(p)); }
    static void store(void *p, V a) { _mm_storeu_si128(static_cast<V *>(p), a); }
    static V sixteens(const void *p, std::int64_t) { return load(p); }
    static V table(const void *p) { return _mm_load_si128(static_cast<const V *>(p)); }
    static V zero() { return _mm_setzero_si128(); }
    static V all8(int x) { return _mm_set1_epi8(static_cast<char>(x)); }
    static V all16(int x) { return _mm_set1_epi16(static_cast<short>(x)); }
    static V all32(std::uint32_t x) { return _mm_set1_epi32(static_cast<int>(x)); }
    static V bit_and(V a, V b) { return _mm_and_si128(a, b); }
    static V and_not(V a, V b) { return _mm_andnot_si128(a, b); }
    static V bit_or(V a, V b) { return _mm_or_si128(a, b); }
    static V bit_xor(V a, V b) { return _mm_xor_si128(a, b); }
    static V bit_not(V a) { return bit_xor(a, all8(-1)); }
    static V add8(V a, V b) { return _mm_add_epi8(a, b); }
    static V twice8(V a, V b) { return add8(add8(a, a), b); }
    static V add16(V a, V b) { return _mm_add_epi16(a, b); }
    static V sub16(V a, V b) { return _mm_sub_epi16(a, b); }
    static V add16_saturated(V a, V b) { return _mm_adds_epi16(a, b); }
    static V sub16_saturated(V a, V b) { return _mm_subs_epi16(a, b); }
    static V multiply16(V a, V b) { return _mm_mullo_epi16(a, b); }
    static V upper16(V a, V b) { return _mm_mulhi_epu16(a, b); }
    static V share16(V a, V b) { return upper16(a, b); }
    template <int by>
    static V right16(V a) { return _mm_srli_epi16(a, by); }
    template <int by>
    static V left16(V a) { return _mm_slli_epi16(a, by); }
    template <int by>
    static V right32(V a) { return _mm_srli_epi32(a, by); }
    template <int by>
    static V left32(V a) { return _mm_slli_epi32(a, by); }
    static V lower4(V a) { return bit_and(a, all8(0x0F)); }
    static V upper4(V a) { return lower4(right16<4>(a)); }
    typedef __m128i Count;
    static Count count(int by) { return _mm_cvtsi32_si128(by); }
    static V left16(V a, Count by) { return _mm_sll_epi16(a, by); }
    static V left32(V a, Count by) { return _mm_sll_epi32(a, by); }
    static V odd8(V a) { return _mm_maddubs_epi16(a, all16(0x0100)); }
    static V signs16(V a) { return _mm_srai_epi16(a, 15); }
    static V size16(V a) { return _mm_abs_epi16(a); }
    static V least16(V a, V b) { return _mm_min_epu16(a, b); }
    static V signed16(V a, V b) { return _mm_sign_epi16(a, b); }
    static V above16(V a, V b) { return _mm_cmpgt_epi16(a, b); }
    static V same8(V a, V b) { return _mm_cmpeq_epi8(a, b); }
    static V unknown(V x) {
        asm("" : "+x"(x));
        return x;
    }
    static V either(V where, V a, V b) { return _mm_blendv_epi8(b, a, where); }
    static V look(V table, V at) { return _mm_shuffle_epi8(table, at); }
    static V low8(V a, V b) { return _mm_unpacklo_epi8(a, b); }
    static V high8(V a, V b) { return _mm_unpackhi_epi8(a, b); }
    static V pack(V a, V b) { return _mm_packs_epi16(a, b); }
    static V uppers(V even, V odd) { return either(all16(0xFF00), odd, right16<8>(even)); }
    static V low32(V a, V b) { return _mm_unpacklo_epi32(a, b); }
    static V high32(V a, V b) { return _mm_unpackhi_epi32(a, b); }
    static V narrow(V a, V b, V c, V d) { return _mm_packus_epi16(_mm_packus_epi32(a, b), _mm_packus_epi32(c, d)); }
    static void keep(V &a) { asm volatile("" : "+x"(a)); }
    static std::uint32_t tops(V a) { return static_cast<std::uint32_t>(_mm_movemask_epi8(a)); }
    static bool any_negative(V a) { return _mm_movemask_epi8(a) & 0xAAAA; }
    static bool any_top(V a) { return _mm_movemask_epi8(a); }
    static constexpr int byte_of(int half, int w) { return w + 8 * half; }
};

#elif defined(QSAMPLE_NEON)

struct Bytes {
    typedef uint8x16_t V;
    static constexpr int size = 16;
    typedef std::uint32_t Words __attribute__((vector_size(16)));

    static uint16x8_t u16(V a) { return vreinterpretq_u16_u8(a); }
    static int16x8_t s16(V a) { return vreinterpretq_s16_u8(a); }
    static uint32x4_t u32(V a) { return vreinterpretq_u32_u8(a); }
    static V of(uint16x8_t a) { return vreinterpretq_u8_u16(a); }
    static V of(int32x4_t a) { return vreinterpretq_u8_s32(a); }
    static V of(int16x8_t a) { return vreinterpretq_u8_s16(a); }
    static V of(uint32x4_t a) { return vreinterpretq_u8_u32(a); }

    static V load(const void *p) { return vld1q_u8(static_cast<const std::uint8_t *>(p)); }
    static void store(void *p, V a) { vst1q_u8(static_cast<std::uint8_t *>(p), a); }
    static V sixteens(const void *p, std::int64_t) { return load(p); }
    static V table(const void *p) { return load(p); }
    static V zero() { return vdupq_n_u8(0); }
    static V all8(int x) { return vdupq_n_u8(static_cast<std::uint8_t>(x)); }
    static V all16(int x) { return of(vdupq_n_u16(static_cast<std::uint16_t>(x))); }
    static V all32(std::uint32_t x) { return of(vdupq_n_u32(x)); }
    static V bit_and(V a, V b) { return vandq_u8(a, b); }
    static V and_not(V a, V b) { return vbicq_u8(b, a); }
    static V bit_or(V a, V b) { return vorrq_u8(a, b); }
    static V bit_xor(V a, V b) { return veorq_u8(a, b); }
    static V bit_not(V a) { return vmvnq_u8(a); }
    static V add8(V a, V b) { return vaddq_u8(a, b); }
    static V twice8(V a, V b) { return vmlaq_u8(b, a, vdupq_n_u8(2)); }
    static V add16(V a, V b) { return of(vaddq_u16(u16(a), u16(b))); }
    static V sub16(V a, V b) { return of(vsubq_u16(u16(a), u16(b))); }
    static V add16_saturated(V a, V b) { return of(vqaddq_s16(s16(a), s16(b))); }
    static V sub16_saturated(V a, V b) { return of(vqsubq_s16(s16(a), s16(b))); }
    static V multiply16(V a, V b) { return of(vmulq_u16(u16(a), u16(b))); }
    static V upper16(V a, V b) {
        const uint16x8_t x = u16(a), y = u16(b);
        const uint32x4_t low = vmull_u16(vget_low_u16(x), vget_low_u16(y)), high = vmull_high_u16(x, y);
        return of(vuzp2q_u16(vreinterpretq_u16_u32(low), vreinterpretq_u16_u32(high)));
    }
    static V share16(V a, V b) { return of(vqdmulhq_s16(vreinterpretq_s16_u16(vshrq_n_u16(u16(a), 1)), s16(b))); }
    template <int by>
    static V right16(V a) { return of(vshrq_n_u16(u16(a), by)); }
    template <int by>
    static V left16(V a) { return of(vshlq_n_u16(u16(a), by)); }
    template <int by>
    static V right32(V a) { return of(vshrq_n_u32(u32(a), by)); }
    template <int by>
    static V left32(V a) { return of(vshlq_n_u32(u32(a), by)); }
    static V lower4(V a) { return vandq_u8(a, vdupq_n_u8(0x0F)); }
    static V upper4(V a) { return vshrq_n_u8(a, 4); }
    typedef int Count;
    static Count count(int by) { return by; }
    static V left16(V a, Count by) { return of(vshlq_u16(u16(a), vdupq_n_s16(static_cast<std::int16_t>(by)))); }
    static V left32(V a, Count by) { return of(vshlq_s32(vreinterpretq_s32_u8(a), vdupq_n_s32(by))); }
    static V odd8(V a) { return right16<8>(a); }
    static V signs16(V a) { return of(vshrq_n_s16(s16(a), 15)); }
    static V size16(V a) { return of(vabsq_s16(s16(a))); }
    static V least16(V a, V b) { return of(vminq_u16(u16(a), u16(b))); }
    static V signed16(V a, V b) {  // a times -1, 0 or 1
        return of(vmulq_s16(s16(a), vmaxq_s16(vminq_s16(s16(b), vdupq_n_s16(1)), vdupq_n_s16(-1))));
    }
    static V above16(V a, V b) { return of(vcgtq_s16(s16(a), s16(b))); }
    static V same8(V a, V b) { return vceqq_u8(a, b); }
    static V unknown(V x) { return x; }
    static V either(V where, V a, V b) { return vbslq_u8(where, a, b); }
    static V look(V table, V at) { return vqtbl1q_u8(table, at); }
    static V low8(V a, V b) { return vzip1q_u8(a, b); }
    static V high8(V a, V b) { return vzip2q_u8(a, b); }
    static V pack(V a, V b) { return vuzp2q_u8(a, b); }  // the upper bytes
    static V uppers(V even, V odd) { return either(all16(0xFF00), odd, right16<8>(even)); }
    static V low32(V a, V b) { return of(vzip1q_u32(u32(a), u32(b))); }
    static V high32(V a, V b) { return of(vzip2q_u32(u32(a), u32(b))); }
    static V narrow(V a, V b, V c, V d) {  // the lower halves of lower halves
        return vuzp1q_u8(of(vuzp1q_u16(u16(a), u16(b))), of(vuzp1q_u16(u16(c), u16(d))));
    }
    static void keep(V &a) { asm volatile("" : "+w"(a)); }
    static std::uint32_t tops(V a) {
        const uint8x16_t bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
        const uint8x16_t set = vandq_u8(vreinterpretq_u8_s8(vshrq_n_s8(vreinterpretq_s8_u8(a), 7)), bit);
        return static_cast<std::uint32_t>(vaddv_u8(vget_low_u8(set)) | vaddv_u8(vget_high_u8(set)) << 8);
    }
    static bool any_negative(V a) { return vminvq_s16(s16(a)) < 0; }
    static bool any_top(V a) { return vminvq_s8(vreinterpretq_s8_u8(a)) < 0; }
    static constexpr int byte_of(int half, int w) { return w + 8 * half; }
};

#endif

// Vectors as wide as a register, for lanes that fill them: `Bytes` where there are no wider ones.
#if defined(__AVX512BW__)
#define HAS_WIDE

struct Wide {
    typedef __m512i V;
    typedef Bytes Half;
    static constexpr int size = 64;
    typedef std::uint32_t Words __attribute__((vector_size(64)));
    static V load(const void *p) { return _mm512_loadu_si512(p); }
    static void store(void *p, V a) { _mm512_storeu_si512(p, a); }
    static V sixteens(const void *p, std::int64_t apart) {
        return join(Half::sixteens(p, apart), Half::sixteens(static_cast<const char *>(p) + 2 * apart, apart));
    }
    static V table(const void *p) { return _mm512_broadcast_i32x4(_mm_load_si128(static_cast<const __m128i *>(p))); }
    static V zero() { return _mm512_setzero_si512(); }
    static V all8(int x) { return _mm512_set1_epi8(static_cast<char>(x)); }
    static V all16(int x) { return _mm512_set1_epi16(static_cast<short>(x)); }
    static V all32(std::uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
    static V join(Half::V low, Half::V high) { return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1); }
    static Half::V lower_half(V a) { return _mm512_castsi512_si256(a); }
    static Half::V upper_half(V a) { return _mm512_extracti64x4_epi64(a, 1); }
    static V bit_and(V a, V b) { return _mm512_and_si512(a, b); }
    static V bit_or(V a, V b) { return _mm512_or_si512(a, b); }
    static V bit_xor(V a, V b) { return _mm512_xor_si512(a, b); }
    static V bit_not(V a) { return bit_xor(a, all8(-1)); }
    static V add8(V a, V b) { return _mm512_add_epi8(a, b); }
    static V low32(V a, V b) { return _mm512_unpacklo_epi32(a, b); }
    static V high32(V a, V b) { return _mm512_unpackhi_epi32(a, b); }
    static V add16(V a, V b) { return _mm512_add_epi16(a, b); }
    static V sub16(V a, V b) { return _mm512_sub_epi16(a, b); }
    static V add16_saturated(V a, V b) { return _mm512_adds_epi16(a, b); }
    static V sub16_saturated(V a, V b) { return _mm512_subs_epi16(a, b); }
    static V multiply16(V a, V b) { return _mm512_mullo_epi16(a, b); }
    static V upper16(V a, V b) { return _mm512_mulhi_epu16(a, b); }
    static V share16(V a, V b) { return upper16(a, b); }
    template <int by>
    static V right16(V a) { return _mm512_srli_epi16(a, by); }
    template <int by>
    static V left16(V a) { return _mm512_slli_epi16(a, by); }
    template <int by>
    static V right32(V a) { return _mm512_srli_epi32(a, by); }
    template <int by>
    static V left32(V a) { return _mm512_slli_epi32(a, by); }
    static V lower4(V a) { return bit_and(a, all8(0x0F)); }
    typedef V Count;  // shifts by products: look-ups contend with shifts
    static Count count(int by) { return all16(1 << by); }
    static V left16(V a, Count by) { return multiply16(a, by); }
    static V odd8(V a) { return _mm512_maddubs_epi16(a, all16(0x0100)); }
    static V signs16(V a) { return _mm512_srai_epi16(a, 15); }
    static V size16(V a) { return _mm512_abs_epi16(a); }
    static V least16(V a, V b) { return _mm512_min_epu16(a, b); }
    static V signed16(V a, V b) {  // a where b is 0
        const V below = _mm512_mulhi_epi16(b, all16(1));
        return sub16(bit_xor(a, below), below);
    }
    static V above16(V a, V b) { return _mm512_movm_epi16(_mm512_cmpgt_epi16_mask(a, b)); }
    static V either(V where, V a, V b) { return _mm512_mask_blend_epi8(_mm512_movepi8_mask(where), b, a); }
    static V look(V table, V at) { return _mm512_shuffle_epi8(table, at); }
    // 16-bit numbers, of sixteen by the lower four bits, or of 64 in two vectors by the lower six.
    static V words(const void *p) { return _mm512_broadcast_i64x4(Half::load(p)); }
    static V look16(V table, V at) { return _mm512_permutexvar_epi16(at, table); }
    static V look64(const V *table, V at) { return _mm512_permutex2var_epi16(table[0], at, table[1]); }
    static V uppers(V even, V odd) { return _mm512_mask_blend_epi8(0xAAAAAAAAAAAAAAAAu, right16<8>(even), odd); }
#if defined(QSAMPLE_SIMDE)  // no register holds it
    static V unknown(V x) { return x; }
    static void keep(V &) {}
#else
    static V unknown(V x) {
        asm("" : "+v"(x));
        return x;
    }
    static void keep(V &a) { asm volatile("" : "+v"(a)); }
#endif
    static std::uint64_t tops(V a) { return _mm512_movepi8_mask(a); }
    static bool any_top(V a) { return _mm512_movepi8_mask(a); }
};

#elif defined(HAS_BYTES)
typedef Bytes Wide;
#endif

#if defined(HAS_BYTES)
// The hash of two keys by 32-bit numbers, each of which decides two lanes.
template <class B>
__attribute__((always_inline)) inline typename B::V hash(typename B::V low, typename B::V high, typename B::V v0,
                                                         typename B::V v1) {
    typedef typename B::Words Words;
    return (typename B::V)counter::first_hash((Words)low, (Words)high, (Words)v0, (Words)v1);
}
#endif

}  // namespace
}  // namespace vec
