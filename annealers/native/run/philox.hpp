// Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy
// as 1, 2, 3" (SC'11). A block of four 32-bit words is a function of a 128-bit counter and a 64-bit key alone, so
// any part of a stream can be made anywhere, in any order, with the same bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace philox {

constexpr std::uint32_t m0 = 0xD2511F53u, m1 = 0xCD9E8D57u;  // the multipliers
constexpr std::uint32_t w0 = 0x9E3779B9u, w1 = 0xBB67AE85u;  // what the key grows by from round to round
constexpr std::size_t lanes = 32;                            // blocks made together
constexpr std::size_t group = 4 * lanes;                     // and their words

// One block, in place.
inline void block(std::uint32_t &c0, std::uint32_t &c1, std::uint32_t &c2, std::uint32_t &c3, std::uint32_t k0,
                  std::uint32_t k1) {
    for (int round = 0; round < 10; ++round, k0 += w0, k1 += w1) {
        const std::uint64_t p0 = std::uint64_t{m0} * c0, p1 = std::uint64_t{m1} * c2;
        c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
        c1 = static_cast<std::uint32_t>(p1);
        c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
        c3 = static_cast<std::uint32_t>(p0);
    }
}

// The top 23 bits k of a word as (k + 1/2) / 2^23: exact in float32, symmetric about 1/2, never 0 or 1.
inline float unit(std::uint32_t word) {
    return static_cast<float>(static_cast<std::int32_t>((word >> 8) | 1u)) * 0x1p-24f;
}

// The uniforms of blocks first .. first + lanes - 1 of the stream of `seed`, in the stream's order.
inline void group_plain(float *out, std::uint64_t seed, std::uint64_t first) {
    std::uint32_t c0[lanes], c1[lanes], c2[lanes], c3[lanes];
    for (std::size_t l = 0; l < lanes; ++l) {
        c0[l] = static_cast<std::uint32_t>(first + l);
        c1[l] = static_cast<std::uint32_t>((first + l) >> 32);
        c2[l] = c3[l] = 0;
    }
    for (std::size_t l = 0; l < lanes; ++l)
        block(c0[l], c1[l], c2[l], c3[l], static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32));
    for (std::size_t l = 0; l < lanes; ++l) {
        out[4 * l] = unit(c0[l]);
        out[4 * l + 1] = unit(c1[l]);
        out[4 * l + 2] = unit(c2[l]);
        out[4 * l + 3] = unit(c3[l]);
    }
}

// The same on x86, five to nine times as fast. The compiler's own vector code spends its time on moving halves of
// products about; here each word has a 64-bit lane of its own, whose upper half is ignored: the instruction
// pmuludq reads lower halves only. One copy per instruction set, chosen at run time, so one wheel runs everywhere.
#if defined(__x86_64__)
#define QSAMPLE_GROUP(NAME, TARGET, BYTES, REGISTER, MULTIPLY)                                                   \
    __attribute__((target(TARGET))) inline void NAME(float *out, std::uint64_t seed, std::uint64_t first) {     \
        typedef std::uint64_t vec __attribute__((vector_size(BYTES)));                                           \
        constexpr std::size_t width = BYTES / 8, parts = lanes / width;                                          \
        constexpr std::uint64_t low = 0xFFFFFFFFu;                                                               \
        std::uint64_t k0 = seed & low, k1 = seed >> 32;                                                          \
        vec c0[parts], c1[parts], c2[parts], c3[parts], a{}, b{};                                                \
        a += m0, b += m1;                                                                                        \
        for (std::size_t g = 0; g < parts; ++g) {                                                                \
            for (std::size_t l = 0; l < width; ++l) c0[g][l] = first + g * width + l;                            \
            c1[g] = c0[g] >> 32;                                                                                 \
            c2[g] = c3[g] = vec{};                                                                               \
        }                                                                                                        \
        _Pragma("GCC unroll 10") for (int round = 0; round < 10; ++round) {                                      \
            _Pragma("GCC unroll 8") for (std::size_t g = 0; g < parts; ++g) {                                    \
                const vec p0 = (vec)MULTIPLY((REGISTER)c0[g], (REGISTER)a);                                      \
                const vec p1 = (vec)MULTIPLY((REGISTER)c2[g], (REGISTER)b);                                      \
                c0[g] = (p1 >> 32) ^ c1[g] ^ k0;                                                                 \
                c1[g] = p1;                                                                                      \
                c2[g] = (p0 >> 32) ^ c3[g] ^ k1;                                                                 \
                c3[g] = p0;                                                                                      \
            }                                                                                                    \
            k0 = (k0 + w0) & low;                                                                                \
            k1 = (k1 + w1) & low;                                                                                \
        }                                                                                                        \
        _Pragma("GCC unroll 8") for (std::size_t g = 0; g < parts; ++g) {                                        \
            const vec front = (c0[g] & low) | (c1[g] << 32), back = (c2[g] & low) | (c3[g] << 32);               \
            std::uint64_t pairs[2 * width];                                                                      \
            for (std::size_t l = 0; l < width; ++l) pairs[2 * l] = front[l], pairs[2 * l + 1] = back[l];         \
            std::uint32_t words[4 * width];                                                                      \
            std::memcpy(words, pairs, sizeof words);                                                             \
            for (std::size_t i = 0; i < 4 * width; ++i)                                                          \
                out[4 * g * width + i] =                                                                         \
                    static_cast<float>(static_cast<std::int32_t>((words[i] >> 8) | 1u)) * 0x1p-24f;              \
        }                                                                                                        \
    }
QSAMPLE_GROUP(group_avx512, "avx512f", 64, __m512i, _mm512_mul_epu32)
QSAMPLE_GROUP(group_avx2, "avx2", 32, __m256i, _mm256_mul_epu32)
#undef QSAMPLE_GROUP
#endif

using Group = void (*)(float *, std::uint64_t, std::uint64_t);

inline Group best_group() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f")) return group_avx512;
    if (__builtin_cpu_supports("avx2")) return group_avx2;
#endif
    return group_plain;
}

// out[i] = word start + i of the stream of `seed` as a uniform, for i < n.
inline void fill(float *out, std::uint64_t n, std::uint64_t seed, std::uint64_t start) {
    static const Group make = best_group();
    std::uint64_t first = start / 4, skip = start % 4, done = 0;
    while (done < n) {
        const std::uint64_t rest = n - done, take = rest < group - skip ? rest : group - skip;
        if (take == group) {
            make(out + done, seed, first);
        } else {  // the ragged ends go through a buffer
            float buffer[group];
            make(buffer, seed, first);
            std::memcpy(out + done, buffer + skip, take * sizeof(float));
        }
        done += take;
        first += lanes;
        skip = 0;
    }
}

}  // namespace philox
