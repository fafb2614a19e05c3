// AVX-512 on a processor that has AVX2 alone, by SIMDe (Debian and Ubuntu: apt install libsimde-dev). Put before a
// kernel's source, it makes of it what the AVX-512 units are.
#pragma once

#define QSAMPLE_SIMDE

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

// What this version of it has not.
typedef int Words16 __attribute__((vector_size(64)));
typedef signed char Bytes16 __attribute__((vector_size(16)));
#define _mm512_cvtepi32_epi8(a) ((__m128i)__builtin_convertvector((Words16)(a), Bytes16))
#define _mm512_cvtps_epi32(a) nearest16((__m512)(a))
static inline __m512i nearest16(__m512 x) {
    __m256i half[2];
    for (int k = 0; k < 2; ++k) half[k] = _mm256_cvtps_epi32(reinterpret_cast<const __m256 *>(&x)[k]);
    __m512i whole;
    __builtin_memcpy(&whole, half, sizeof whole);
    return whole;
}
typedef float Singles8 __attribute__((vector_size(32)));
typedef double Doubles8 __attribute__((vector_size(64)));
#define _mm512_cvtps_pd(a) ((__m512d)__builtin_convertvector((Singles8)(a), Doubles8))
typedef unsigned short Numbers16 __attribute__((vector_size(32)));
typedef unsigned int Wide16 __attribute__((vector_size(64)));
#define _mm512_cvtepu16_epi32(a) ((__m512i)__builtin_convertvector((Numbers16)(a), Wide16))
typedef short Signed16 __attribute__((vector_size(32)));
#define _mm512_cvtepi16_epi32(a) ((__m512i)__builtin_convertvector((Signed16)(a), Words16))
typedef unsigned short Numbers32 __attribute__((vector_size(64)));
typedef short Signed32 __attribute__((vector_size(64)));
typedef unsigned int Words32 __attribute__((vector_size(128)));
#define _mm512_mulhi_epu16(a, b) \
    ((__m512i)__builtin_convertvector( \
        __builtin_convertvector((Numbers32)(a), Words32) * __builtin_convertvector((Numbers32)(b), Words32) >> 16, \
        Numbers32))
static inline __mmask32 lanes_above(Signed32 a, Signed32 b) {
    __mmask32 bits = 0;
    for (int k = 0; k < 32; ++k) bits |= static_cast<__mmask32>(a[k] > b[k]) << k;
    return bits;
}
#define _mm512_cmpgt_epi16_mask(a, b) lanes_above((Signed32)(a), (Signed32)(b))

// Only now: SIMDe and the compiler's own headers would otherwise take the processor to have it.
#define __AVX512F__ 1
#define __AVX512BW__ 1
#define __AVX512DQ__ 1
#define __AVX512VL__ 1
