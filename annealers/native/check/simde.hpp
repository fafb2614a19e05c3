// AVX-512 on a processor that has AVX2 alone, by SIMDe (Debian and Ubuntu: apt install libsimde-dev). Put before a
// kernel's source, it makes of it what the AVX-512 units are.
#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

// What this version of it has not.
typedef int Words16 __attribute__((vector_size(64)));
typedef signed char Bytes16 __attribute__((vector_size(16)));
#define _mm512_cvtepi32_epi8(a) ((__m128i)__builtin_convertvector((Words16)(a), Bytes16))

// Only now: SIMDe and the compiler's own headers would otherwise take the processor to have it.
#define __AVX512F__ 1
#define __AVX512BW__ 1
#define __AVX512DQ__ 1
#define __AVX512VL__ 1
