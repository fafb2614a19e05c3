// Counter-based random words for the sweeps: a function of (seed, replica, pass, spin) and of nothing else.
#pragma once

#include <cstdint>
#include <utility>

namespace counter {

// The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
static inline std::uint64_t mix(std::uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

// Of one replica of the problem with this seed, and of one visit to a spin. Replicas 2k and 2k + 1 of a sweep share the
// key of number k.
static inline std::uint64_t lane_key(std::uint64_t seed, std::uint32_t number) {
    return mix(mix(seed + 0x9E3779B97F4A7C15u) + (number + std::uint64_t{1}) * 0xD1B54A32D192ED03u);
}
static inline std::uint64_t visit_key(std::uint32_t pass, std::uint32_t spin) {
    return mix((std::uint64_t{pass} << 32 | spin) + 0x9E3779B97F4A7C15u);
}

constexpr std::uint32_t start_pass = 0xFFFFFFFFu;  // of uniform random spins: no sweep reaches it

// op(0), ..., op(N - 1): one step of N chains of operations. Taken step by step chains overlap, one after the other they
// hardly do: a single visit of a spin fills the window in which a processor looks for independent operations.
// Each step has a constant for its number, so that arrays become registers.
template <class Op, int... g>
__attribute__((always_inline)) static inline void each_of(std::integer_sequence<int, g...>, Op op) {
    (op(g), ...);
}
template <int N, class Op>
__attribute__((always_inline)) static inline void each(Op op) {
    each_of(std::make_integer_sequence<int, N>(), op);
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

// A word decides a spin. Its upper half is half of the hash that a pair of replicas shares, with the top bit turned over, so
// that the half as it stands is a number of 16 bits with a sign; the lower half is half of a second hash.
constexpr std::uint32_t second_lane = 0x5BD1E995u, second_visit = 0x9E3779B9u;

template <class U>
static inline U first_hash(U lane_low, U lane_high, U visit_low, U visit_high) {
    return bits(lane_low, lane_high, visit_low, visit_high);
}
template <class U>
static inline U second_hash(U lane_low, U lane_high, U visit_low, U visit_high) {
    return bits(lane_low ^ second_lane, lane_high, visit_low, visit_high ^ second_visit);
}

struct Halves {
    std::uint32_t low, high;
    explicit Halves(std::uint64_t key)
        : low(static_cast<std::uint32_t>(key)), high(static_cast<std::uint32_t>(key >> 32)) {}
};

// The upper 16 bits of one replica's word, and all 32; `shift` is 0 for even replicas and 16 for odd ones.
static inline std::uint32_t upper(Halves lane, Halves visit, int shift) {
    return (first_hash(lane.low, lane.high, visit.low, visit.high) >> shift & 0xFFFFu) ^ 0x8000u;
}
static inline std::uint32_t lower(Halves lane, Halves visit, int shift) {
    return second_hash(lane.low, lane.high, visit.low, visit.high) >> shift & 0xFFFFu;
}
static inline std::uint32_t word(Halves lane, Halves visit, int shift) {
    return upper(lane, visit, shift) << 16 | lower(lane, visit, shift);
}

}  // namespace counter
