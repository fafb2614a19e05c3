// Spins between rows of bytes, [replica, spin], and words of bits, one word a spin: by 64 x 64 transposition.
#pragma once

#include "bytes.hpp"

#include <cstdint>
#include <cstring>

namespace {

// In place: bit j of row i becomes bit i of row j (Warren, Hacker's Delight, section 7-3).
inline void transpose(std::uint64_t row[64]) {
    std::uint64_t mask = 0x00000000FFFFFFFFu;
    for (int width = 32; width; width >>= 1, mask ^= mask << width)
        for (int i = 0; i < 64; i = (i + width + 1) & ~width) {
            const std::uint64_t t = ((row[i] >> width) ^ row[i + width]) & mask;
            row[i] ^= t << width;
            row[i + width] ^= t;
        }
}

// Up to 64 spins of -1 and +1 as bits.
inline std::uint64_t gather(const std::int8_t *spin, int count) {
    std::uint64_t bits = 0;
    int i = 0;
#if defined(HAS_BYTES)
    using vec::Bytes;
    for (; i + Bytes::size <= count; i += Bytes::size) {  // the sign bits: 0 for +1
        const std::uint64_t down = Bytes::tops(Bytes::load(spin + i));
        bits |= (down ^ ((std::uint64_t{1} << Bytes::size) - 1)) << i;
    }
#endif
    for (; i + 8 <= count; i += 8) {
        std::uint64_t eight;
        std::memcpy(&eight, spin + i, 8);
        eight = (~eight >> 7) & 0x0101010101010101u;
        bits |= (eight * 0x0102040810204080u >> 56) << i;
    }
    for (; i < count; ++i) bits |= std::uint64_t{spin[i] > 0} << i;
    return bits;
}

inline void spread(std::uint64_t bits, std::int8_t *spin, int count) {
    int i = 0;
#if defined(HAS_BYTES)
    using vec::Bytes;
    alignas(32) static constexpr std::uint8_t byte[32] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1,
                                                          2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3};
    alignas(32) static constexpr std::uint8_t bit[32] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128,
                                                         1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    for (; i + Bytes::size <= count; i += Bytes::size) {
        const auto word = Bytes::all32(static_cast<std::uint32_t>(bits >> i)), one = Bytes::load(bit);
        const auto up = Bytes::same8(Bytes::bit_and(Bytes::look(word, Bytes::load(byte)), one), one);
        Bytes::store(spin + i, Bytes::add8(Bytes::bit_and(up, Bytes::all8(2)), Bytes::all8(-1)));
    }
#endif
    for (; i + 8 <= count; i += 8) {
        std::uint64_t eight = (bits >> i & 255) * 0x0101010101010101u & 0x8040201008040201u;  // byte k holds bit k
        eight = (eight + 0x7F7F7F7F7F7F7F7Fu) >> 7 & 0x0101010101010101u;  // 1 where it is set
        eight = ~(eight * 0xFE);
        std::memcpy(spin + i, &eight, 8);
    }
    for (; i < count; ++i) spin[i] = static_cast<std::int8_t>(static_cast<int>(bits >> i & 1) * 2 - 1);
}

}  // namespace
