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

// op(0), ..., op(N - 1): one step of N chains of operations. Taken step by step chains overlap, one after the other they
// hardly do: a single visit of a spin fills the window in which a processor looks for independent operations.
template <int N, class Op>
__attribute__((always_inline)) static inline void each(Op op) {
#pragma GCC unroll 8
    for (int g = 0; g < N; ++g) op(g);
}

// The two keys become 32 random bits in three multiplications, N times; U is a word or a vector of words.
template <int N, class U>
__attribute__((always_inline)) static inline void bits(const U *lane_low, const U *lane_high, U visit_low, U visit_high,
                                                       U *x) {
    each<N>([&](int g) { x[g] = lane_low[g] + visit_low; });
    each<N>([&](int g) { x[g] = (x[g] ^ (x[g] >> 16)) * 0x7FEB352Du; });
    each<N>([&](int g) { x[g] = (x[g] ^ (x[g] >> 15)) + (lane_high[g] ^ visit_high); });
    each<N>([&](int g) { x[g] = (x[g] ^ (x[g] >> 16)) * 0x846CA68Bu; });
    each<N>([&](int g) { x[g] = (x[g] ^ (x[g] >> 13)) * 0xC2B2AE35u; });
}
template <class U>
static inline U bits(U lane_low, U lane_high, U visit_low, U visit_high) {
    U x;
    bits<1>(&lane_low, &lane_high, visit_low, visit_high, &x);
    return x;
}

}  // namespace counter
