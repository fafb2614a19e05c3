// Products with bits over fuzzed shapes: near the sums in double precision, and the same of any block and row alone.
#include <algorithm>
#include <cstring>

#include "../run/isa.hpp"
#include "chance.hpp"
#include "checks.hpp"
#include "result.hpp"

namespace check {

namespace {

using products::Half;

float wide(float x) { return x; }
float wide(Half x) {
    const std::uint32_t bits = std::uint32_t{x} << 16;
    float out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
}

std::vector<std::uint64_t> words(const std::vector<char> &bit, int rows, int terms) {
    std::vector<std::uint64_t> word(std::size_t((terms + products::bunch - 1) / products::bunch) * rows);
    for (int r = 0; r < rows; ++r)
        for (int k = 0; k < terms; ++k)
            word[k / products::bunch * rows + r] |=
                std::uint64_t(bit[r * terms + k]) << (k % products::bunch / products::group * 8 + k % products::group);
    return word;
}

template <class T>
void product_trial(int trial, Digest &digest) {
    const int rows = 1 + below(9), terms = 1 + below(below(4) ? 80 : 1200), width = 1 + below(100);
    const bool transposed = below(2);
    const int high = transposed ? width : terms, across = transposed ? terms : width;
    std::vector<T> matrix(std::size_t(high) * across);
    for (T &one : matrix) {
        const int size = below(64), sign = below(2) << 15, whole = below(2001) - 1000;
        one = static_cast<T>(sizeof(T) == 2 ? 0x3F80 + size + sign : whole);
    }
    std::vector<char> bit(std::size_t(rows) * terms);
    for (char &one : bit) one = static_cast<char>(below(2));
    const std::vector<std::uint64_t> word = words(bit, rows, terms);
    std::vector<float> wanted;
    for (const isa::Set &set : isa::sets()) {
        std::vector<float> out(std::size_t(rows) * width), parts = out;
        products::Job job{rows, terms, width, across, sizeof(T) == 2, transposed,
                          matrix.data(), word.data(), out.data()};
        const int blocks = (width + products::lanes - 1) / products::lanes;
        std::vector<float> floats(bit.begin(), bit.end());
        std::vector<std::uint64_t> made(word.size());
        set.products->words(floats.data(), rows, terms, made.data());
        demand(made == word, "words of rows are others", trial);
        demand(set.products->run(job, 0, blocks), "finite sums are said to be none", trial);
        job.out = parts.data();
        for (int b = 0; b < blocks; ++b) set.products->run(job, b, b + 1);
        demand(out == parts, "blocks asked for one by one are others", trial);
        if (&set == &isa::sets().front()) wanted = out, digest.add(out);
        demand(out == wanted, set.name, trial);
    }
    for (int r = 0; r < rows; ++r)
        for (int c = 0; c < width; ++c) {
            double sum = 0, size = 0;
            for (int k = 0; k < terms; ++k)
                if (bit[r * terms + k]) {
                    const std::size_t at = transposed ? std::size_t(c) * across + k : std::size_t(k) * across + c;
                    const double one = wide(matrix[at]);
                    sum += one, size += one < 0 ? -one : one;
                }
            const double error = sum - wanted[r * width + c];
            demand((error < 0 ? -error : error) <= 2e-5 * size, "a sum is another", trial);
        }
}

template <class T>
void outer_trial(int trial, Digest &digest) {
    const int rows = 1 + below(below(4) ? 40 : 600), terms = 1 + below(80), width = 1 + below(300);
    std::vector<T> start(std::size_t(rows) * width, T(0));
    std::vector<char> bit(std::size_t(rows) * terms);
    for (char &one : bit) one = static_cast<char>(below(2));
    const std::vector<std::uint64_t> word = words(bit, rows, terms);
    const std::vector<float> numbers = reals(std::size_t(terms) * width);
    const float keep = real(), times = real();
    std::vector<T> wanted;
    for (const isa::Set &set : isa::sets()) {
        std::vector<T> into = start, parts = start;
        products::Outer job{rows, terms, width, sizeof(T) == 2, into.data(), numbers.data(), word.data(), keep, times};
        std::vector<float> columns(bit.size());
        for (int r = 0; r < rows; ++r)
            for (int k = 0; k < terms; ++k) columns[std::size_t(k) * rows + r] = bit[std::size_t(r) * terms + k];
        std::vector<std::uint64_t> made(word.size());
        set.products->words_of_columns(columns.data(), rows, terms, made.data());
        demand(made == word, "words of columns are others", trial);
        const int blocks = (width + products::lanes - 1) / products::lanes;
        set.products->outer(job, 0, blocks);
        job.into = parts.data();
        for (int b = 0; b < blocks; ++b) set.products->outer(job, b, b + 1);
        demand(into == parts, "blocks asked for one by one are others", trial);
        if (&set == &isa::sets().front()) wanted = into, digest.add(into);
        demand(into == wanted, set.name, trial);
    }
}

}  // namespace

unsigned long long fuzz_products(int trials) {
    Digest digest;
    for (int trial = 0; trial < trials; ++trial) {
        product_trial<float>(trial, digest), product_trial<Half>(trial, digest);
        outer_trial<float>(trial, digest), outer_trial<Half>(trial, digest);
    }
    return digest.value();
}

}  // namespace check
