// Counter-based uniforms for the sweeps: a function of (seed, replica, sweep, spin) and of nothing else.
#pragma once

#include <cstdint>

namespace counter {

// The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
static inline std::uint64_t mix(std::uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

// Of one replica of the problem with this seed, and of one visit to a spin.
static inline std::uint64_t lane_key(std::uint64_t seed, std::uint32_t replica) {
    return mix(mix(seed + 0x9E3779B97F4A7C15u) + (replica + std::uint64_t{1}) * 0xD1B54A32D192ED03u);
}
static inline std::uint64_t visit_key(std::uint32_t sweep, std::uint32_t spin) {
    return mix((std::uint64_t{sweep} << 32 | spin) + 0x9E3779B97F4A7C15u);
}

// The two keys become 32 random bits in three multiplications; U is a word or a vector of words.
template <class U>
static inline U bits(U lane_low, U lane_high, U visit_low, U visit_high) {
    U x = lane_low + visit_low;
    x = (x ^ (x >> 16)) * 0x7FEB352Du;
    x = (x ^ (x >> 15)) + (lane_high ^ visit_high);
    x = (x ^ (x >> 16)) * 0x846CA68Bu;
    return (x ^ (x >> 13)) * 0xC2B2AE35u;
}

}  // namespace counter
