// Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy
// as 1, 2, 3" (SC'11). A block of four 32-bit words is a function of a 128-bit counter and a 64-bit key alone, so
// any part of a stream can be made anywhere, in any order, with the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

namespace philox {

constexpr std::size_t lanes = 16;  // blocks made together: one AVX-512 register of words, two of AVX2

// One block in place. Always inlined, so that a loop over many blocks becomes vector code.
[[gnu::always_inline]] inline void block(std::uint32_t &c0, std::uint32_t &c1, std::uint32_t &c2,
                                         std::uint32_t &c3, std::uint32_t k0, std::uint32_t k1) {
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c0;
        const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * c2;
        c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
        c1 = static_cast<std::uint32_t>(p1);
        c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
        c3 = static_cast<std::uint32_t>(p0);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

// The top 23 bits k of a word as (k + 1/2) / 2^23: exact in float32, symmetric about 1/2, never 0 or 1.
[[gnu::always_inline]] inline float unit(std::uint32_t word) {
    return static_cast<float>(static_cast<std::int32_t>((word >> 8) | 1u)) * 0x1p-24f;
}

// The uniforms of blocks first .. first + lanes - 1 of the stream with key `seed`, in the stream's order.
[[gnu::always_inline]] inline void uniforms(float *out, std::uint64_t seed, std::uint64_t first) {
    const auto k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
    std::uint32_t c0[lanes], c1[lanes], c2[lanes], c3[lanes];
    for (std::size_t l = 0; l < lanes; ++l) {
        const std::uint64_t index = first + l;
        c0[l] = static_cast<std::uint32_t>(index);
        c1[l] = static_cast<std::uint32_t>(index >> 32);
        c2[l] = c3[l] = 0;
    }
    for (std::size_t l = 0; l < lanes; ++l) block(c0[l], c1[l], c2[l], c3[l], k0, k1);
    for (std::size_t l = 0; l < lanes; ++l) {
        out[4 * l] = unit(c0[l]);
        out[4 * l + 1] = unit(c1[l]);
        out[4 * l + 2] = unit(c2[l]);
        out[4 * l + 3] = unit(c3[l]);
    }
}

}  // namespace philox
