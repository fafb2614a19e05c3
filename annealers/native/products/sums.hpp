// Sums of numbers that bits choose: of each group of four terms all sixteen sums are made once, and every row of bits
// looks its own up, where a product would multiply by 0 and 1. Additions alone, in an order that depends on the number
// of a term: a row's sums depend neither on the rows beside it, nor on threads, nor on the instruction set. Compiled
// once for each instruction set.
#pragma once

#include "../vec/words.hpp"
#include "job.hpp"

#include <algorithm>
#include <vector>

namespace products {
namespace {

using namespace vec;

constexpr int vectors = lanes / W;     // of the numbers that are summed at a time
constexpr std::int64_t together = 256;  // rows of `Outer::into` that stay near while its columns are passed
constexpr std::int64_t abreast = 4;     // blocks of them whose sums are written at once: half a page

struct alignas(64) Terms {
    float number[bunch][lanes];
};
struct alignas(64) Table {
    float sum[groups][sums][lanes];
};

inline F widen(const float *p) { return load<F>(p); }
inline F widen(const Half *p) { return (F)(widened(load<H>(p)) << 16); }  // bfloat16: the upper half
inline float widen_one(float x) { return x; }
inline float widen_one(Half x) {
    const std::uint32_t bits = std::uint32_t{x} << 16;
    float out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
}

// ---- words ---------------------------------------------------------------------------------------------------------

// The place of term k among the bits of a word.
constexpr int place(std::int64_t k) { return static_cast<int>(k % bunch / group * 8 + k % group); }

// 32 bits, four to a byte.
inline std::uint64_t apart(std::uint64_t bits) {
    bits = (bits | bits << 16) & 0x0000FFFF0000FFFF;
    bits = (bits | bits << 8) & 0x00FF00FF00FF00FF;
    return (bits | bits << 4) & 0x0F0F0F0F0F0F0F0F;
}

void words(const float *bits, std::int64_t rows, std::int64_t terms, std::uint64_t *word) {
    const std::int64_t whole = terms / bunch * bunch;
    for (std::int64_t r = 0; r < rows; ++r, bits += terms) {
        for (std::int64_t k = 0; k < whole; k += bunch) {
            std::uint64_t some = 0;
#pragma GCC unroll 8
            for (int v = 0; v < bunch / W; ++v)
                some |= std::uint64_t{nonzero(load<U>(bits + k + v * W) << 1)} << (v * W);
            word[k / bunch * rows + r] = apart(some);
        }
        for (std::int64_t k = whole; k < terms; ++k)
            word[k / bunch * rows + r] |= std::uint64_t{bits[k] != 0} << place(k);
    }
}

void words_of_columns(const float *bits, std::int64_t rows, std::int64_t terms, std::uint64_t *word) {
    for (std::int64_t k = 0; k < terms; ++k, bits += rows) {
        std::uint64_t *to = word + k / bunch * rows;
        const std::uint64_t one = std::uint64_t{1} << place(k);
        for (std::int64_t r = 0; r < rows; ++r) to[r] |= bits[r] != 0 ? one : 0;
    }
}

// ---- terms: 32 of them, 32 numbers each ----------------------------------------------------------------------------

template <class T>
inline void take_straight(const T *from, std::int64_t row, std::int64_t high, std::int64_t wide, Terms &to) {
    if (high == bunch && wide == lanes) {
        for (int k = 0; k < bunch; ++k)
            for (int v = 0; v < vectors; ++v) store(to.number[k] + v * W, widen(from + k * row + v * W));
        return;
    }
    for (int k = 0; k < bunch; ++k)
        for (int c = 0; c < lanes; ++c)
            to.number[k][c] = k < high && c < wide ? widen_one(from[k * row + c]) : 0.0f;
}

// Halves of two vectors, interleaved.
#if defined(__clang__) || __GNUC__ >= 12
#define QSAMPLE_SHUFFLE(A, B, ...) __builtin_shufflevector(A, B, __VA_ARGS__)
#else
#define QSAMPLE_SHUFFLE(A, B, ...) __builtin_shuffle(A, B, I{__VA_ARGS__})
#endif
#if defined(__AVX512F__)
inline void zip(F a, F b, F &low, F &high) {
    low = QSAMPLE_SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    high = QSAMPLE_SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
#elif defined(__AVX2__)
inline void zip(F a, F b, F &low, F &high) {
    low = QSAMPLE_SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
    high = QSAMPLE_SHUFFLE(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
}
#else
inline void zip(F a, F b, F &low, F &high) {
    low = QSAMPLE_SHUFFLE(a, b, 0, 4, 1, 5);
    high = QSAMPLE_SHUFFLE(a, b, 2, 6, 3, 7);
}
#endif

// As many vectors as each has numbers, rows for columns: one perfect shuffle for each bit of a place.
inline void transpose(F *x) {
    F y[W];
#pragma GCC unroll 4
    for (int stage = 1; stage < W; stage *= 2) {
#pragma GCC unroll 16
        for (int k = 0; k < W / 2; ++k) zip(x[k], x[k + W / 2], y[2 * k], y[2 * k + 1]);
#pragma GCC unroll 16
        for (int k = 0; k < W; ++k) x[k] = y[k];
    }
}

template <class T>
inline void take_across(const T *from, std::int64_t row, std::int64_t high, std::int64_t wide, Terms &to) {
    if (high == bunch && wide == lanes) {
        for (int c = 0; c < lanes; c += W)
            for (int k = 0; k < bunch; k += W) {
                F x[W];
#pragma GCC unroll 16
                for (int l = 0; l < W; ++l) x[l] = widen(from + (c + l) * row + k);
                transpose(x);
#pragma GCC unroll 16
                for (int l = 0; l < W; ++l) store(to.number[k + l] + c, x[l]);
            }
        return;
    }
    for (int k = 0; k < bunch; ++k)
        for (int c = 0; c < lanes; ++c)
            to.number[k][c] = k < high && c < wide ? widen_one(from[c * row + k]) : 0.0f;
}

// ---- sums of groups, and of rows -----------------------------------------------------------------------------------

// All sums of each group; `odd` takes what is not finite.
inline void tabulate(const Terms &terms, Table &table, F &odd) {
    for (int g = 0; g < groups; ++g)
        for (int v = 0; v < vectors; ++v) {
            F sum[sums];
            sum[0] = F{};
#pragma GCC unroll 4
            for (int b = 0; b < group; ++b) {
                const F one = load<F>(terms.number[g * group + b] + v * W);
#pragma GCC unroll 8
                for (int s = 0; s < 1 << b; ++s) sum[(1 << b) + s] = s ? sum[s] + one : one;
            }
#pragma GCC unroll 16
            for (int s = 0; s < sums; ++s) store(table.sum[g][s] + v * W, sum[s]);
            odd += sum[sums - 1] * 0.0f;
        }
}

// Lines of memory that are asked for while others are worked on: `lines` of each of `bunch` rows.
struct Ahead {
    const char *from;
    std::int64_t row;
    int lines;
    inline void ask(std::int64_t number) const {
        if (number < bunch * lines) __builtin_prefetch(from + number % bunch * row + number / bunch * 64, 0, 2);
    }
};

// to[r stride] += what row r's bits choose.
inline void add_rows(const Table &table, const std::uint64_t *word, std::int64_t rows, float *to, std::int64_t stride,
                     const Ahead &ahead) {
    const char *base = reinterpret_cast<const char *>(table.sum);
    constexpr int entry = lanes * sizeof(float);
    for (std::int64_t r = 0; r < rows; ++r) {
        ahead.ask(r);
        std::uint64_t w = word[r];
        F sum[vectors];
        const float *first = reinterpret_cast<const float *>(base + (w & 15) * entry);
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) sum[v] = load<F>(first + v * W);
#pragma GCC unroll 8
        for (int g = 1; g < groups; ++g) {
            w >>= 8;
            const auto *one = reinterpret_cast<const float *>(base + g * sums * entry + (w & 15) * entry);
#pragma GCC unroll 8
            for (int v = 0; v < vectors; ++v) sum[v] += load<F>(one + v * W);
        }
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) store(to + v * W, load<F>(to + v * W) + sum[v]);
        to += stride;
    }
}

inline bool finite(F odd) {
    float total = 0;
    for (int l = 0; l < W; ++l) total += odd[l];
    return total == 0;
}

// ---- products ------------------------------------------------------------------------------------------------------

template <class T, bool transposed>
bool run_on(const Job &job, std::int64_t first, std::int64_t last) {
    Terms terms;  // not of the thread: compilers look its address up in every row
    Table table;
    std::vector<float> sum(static_cast<std::size_t>(job.rows) * lanes);
    const T *matrix = static_cast<const T *>(job.matrix);
    const std::int64_t tiles = (job.terms + tile - 1) / tile, blocks = last - first;
    F odd{};
    // a tile of M at a time, whose pages stay at hand; of a transposed one a block, which lies in rows
    for (std::int64_t part = 0; part < tiles * blocks; ++part) {
        const std::int64_t t = transposed ? part % tiles : part / blocks;
        const std::int64_t c = (first + (transposed ? part / tiles : part % blocks)) * lanes;
        const std::int64_t wide = std::min<std::int64_t>(lanes, job.width - c);
        const std::int64_t end = std::min(job.terms, (t + 1) * tile);
        Ahead ahead{nullptr, static_cast<std::int64_t>(job.row * sizeof(T)), 0};
        std::fill(sum.begin(), sum.end(), 0.0f);
        for (std::int64_t k = t * tile; k < end; k += bunch) {
            const std::int64_t high = std::min<std::int64_t>(bunch, end - k);
            if (transposed) {
                take_across(matrix + c * job.row + k, job.row, high, wide, terms);
            } else {
                const T *from = matrix + k * job.row + c;
                take_straight(from, job.row, high, wide, terms);
                ahead.from = reinterpret_cast<const char *>(from + bunch * job.row);
                ahead.lines = k + 2 * bunch <= end ? lanes * sizeof(T) / 64 : 0;
            }
            tabulate(terms, table, odd);
            add_rows(table, job.word + k / bunch * job.rows, job.rows, sum.data(), lanes, ahead);
        }
        for (std::int64_t r = 0; r < job.rows; ++r)
            for (std::int64_t l = 0; l < wide; ++l) job.out[r * job.width + c + l] += sum[r * lanes + l];
    }
    return finite(odd);
}

bool run(const Job &job, std::int64_t first, std::int64_t last) {
    if (job.half)
        return job.transposed ? run_on<Half, true>(job, first, last) : run_on<Half, false>(job, first, last);
    return job.transposed ? run_on<float, true>(job, first, last) : run_on<float, false>(job, first, last);
}

inline void put(float *to, float x) { *to = x; }
inline void put(Half *to, float x) {  // the nearest, ties to even
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    if (x != x)
        *to = 0x7FC0;
    else
        *to = static_cast<Half>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

template <class T>
void outer_on(const Outer &job, std::int64_t first, std::int64_t last) {
    Terms terms;  // not of the thread: compilers look its address up in every row
    Table table;
    constexpr std::int64_t stride = abreast * lanes;
    std::vector<float> sum(together * stride);
    T *into = static_cast<T *>(job.into);
    F odd{};
    for (std::int64_t r = 0; r < job.rows; r += together)
        for (std::int64_t block = first; block < last; block += abreast) {
            const std::int64_t rows = std::min(together, job.rows - r), c = block * lanes;
            const std::int64_t all = std::min(std::min(abreast, last - block) * lanes, job.width - c);
            std::fill(sum.begin(), sum.end(), 0.0f);
            for (std::int64_t b = 0; b < abreast && b * lanes < all; ++b)
                for (std::int64_t k = 0; k < job.terms; k += bunch) {
                    const std::int64_t high = std::min<std::int64_t>(bunch, job.terms - k);
                    const std::int64_t wide = std::min<std::int64_t>(lanes, all - b * lanes);
                    take_straight(job.numbers + k * job.width + c + b * lanes, job.width, high, wide, terms);
                    tabulate(terms, table, odd);
                    add_rows(table, job.word + k / bunch * job.rows + r, rows, sum.data() + b * lanes, stride,
                             Ahead{});
                }
            for (std::int64_t i = 0; i < rows; ++i) {
                T *to = into + (r + i) * job.width + c;
                const float *from = sum.data() + i * stride;
                if (i + 4 < rows)
                    for (std::int64_t at = 0; at < all; at += 64 / static_cast<std::int64_t>(sizeof(T)))
                        __builtin_prefetch(to + 4 * job.width + at, 1);
                if (job.keep == 0)
                    for (std::int64_t l = 0; l < all; ++l) put(to + l, job.times * from[l]);
                else
                    for (std::int64_t l = 0; l < all; ++l)
                        put(to + l, job.keep * widen_one(to[l]) + job.times * from[l]);
            }
        }
}

void outer(const Outer &job, std::int64_t first, std::int64_t last) {
    job.half ? outer_on<Half>(job, first, last) : outer_on<float>(job, first, last);
}

}  // namespace
}  // namespace products
