// Random numbers of a check: the same on every machine and with every compiler, so at most one is drawn an expression.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

namespace check {

inline std::mt19937 &rng() {
    thread_local std::mt19937 generator(1);
    return generator;
}
inline int below(int n) { return static_cast<int>(rng()() % static_cast<unsigned>(n)); }
inline float real() { return static_cast<float>(below(2001) - 1000) / 1000; }
inline double uniform() { return (rng()() + 0.5) * 0x1p-32; }

// Numbers of one kind: evenly spread, of one size, or of very different sizes, times a power of two; or zeros.
inline std::vector<float> reals(std::size_t n) {
    std::vector<float> x(n);
    const int kind = below(8), power = below(3) ? 0 : below(41) - 20;
    for (float &value : x) {
        value = real();
        if (kind == 0) value = 0;
        if (kind == 1) value = value < 0 ? -1.0f : 1.0f;
        if (kind == 2) value = value * value * value * value * value;
        value = std::ldexp(value, power);
    }
    return x;
}

inline void demand(bool good, const char *what, int trial) {
    if (good) return;
    std::fprintf(stderr, "trial %d: %s\n", trial, what);
    std::exit(1);
}

}  // namespace check
