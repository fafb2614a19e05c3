// What one instruction set's filter makes of fields of 16 bits.
#pragma once

#include <cstdint>
#include <string>

#include "../law/rule.hpp"

namespace probe {

constexpr int lanes = 64;

struct Question {
    law::Rule rule;
    bool up;                   // every spin before
    bool own_beta;
    const float *beta;         // [lanes], or [1]
    double unit;               // of the fields
    int rounded;               // numbers whose rounding errors a field holds
};

// Of each field, [count], a multiple of `lanes`: the threshold less 2^15, and the distance from it below which the lane
// is left open.
using Answer = void (*)(const Question &, const std::int16_t *field, int count, std::int16_t *threshold,
                        std::int16_t *margin);

// Of the instruction set of this name; null where it has no filter.
Answer of(const std::string &name);

}  // namespace probe
