// Products of a large matrix with rows of bits, and of rows of bits with a few rows of numbers. Plain data.
#pragma once

#include <cstdint>

namespace products {

using Half = std::uint16_t;  // bfloat16
constexpr int lanes = 32;    // numbers of a row that are summed at a time
constexpr int group = 4;     // terms whose sums are looked up
constexpr int bunch = 32;    // terms whose look-ups are summed at a time: a word of eight groups
constexpr int groups = bunch / group;
constexpr int sums = 1 << group;  // of a group
constexpr int tile = 512;    // terms whose sums are added up before they meet those of the others

// out[r, c] = sum over k of bit[r, k] M[k, c], where M is `matrix`, [terms, width], or its transpose.
struct Job {
    std::int64_t rows, terms, width, row;  // `row`: of the matrix, the distance of its rows
    bool half, transposed;
    const void *matrix;
    const std::uint64_t *word;             // [terms / bunch, rows]: a byte for each group, of its bits
    float *out;                            // [rows, width]
};

// into[k, c] = keep into[k, c] + times (sum over r of bit[r, k] p[r, c]), k being the rows that words are of.
struct Outer {
    std::int64_t rows, terms, width;
    bool half;
    void *into;                            // [rows, width]
    const float *numbers;                  // [terms, width]
    const std::uint64_t *word;             // [terms / bunch, rows]
    float keep, times;
};

// Words of rows of 0 and 1, [rows, terms], and of their columns where they are [terms, rows]; `word` begins as zeros.
// Then blocks of `lanes` from first to last. False where a sum of the matrix is not finite.
struct Kernel {
    void (*words)(const float *bits, std::int64_t rows, std::int64_t terms, std::uint64_t *word);
    void (*words_of_columns)(const float *bits, std::int64_t rows, std::int64_t terms, std::uint64_t *word);
    bool (*run)(const Job &, std::int64_t first, std::int64_t last);
    void (*outer)(const Outer &, std::int64_t first, std::int64_t last);
};

}  // namespace products
