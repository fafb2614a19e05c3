// Python's way into products with bits.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "../run/isa.hpp"

namespace nb = nanobind;

namespace {

using namespace products;
using Matrix = nb::ndarray<nb::ndim<2>, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

std::int64_t size(std::size_t n) { return static_cast<std::int64_t>(n); }
std::int64_t bunches(std::int64_t terms) { return (terms + bunch - 1) / bunch; }

// The place of term k among the bits of a word.
int place(std::int64_t k) { return static_cast<int>(k % bunch / group * 8 + k % group); }

// Words of rows of bits [rows, terms].
std::vector<std::uint64_t> words_of_rows(const float *bits, std::int64_t rows, std::int64_t terms) {
    std::vector<std::uint64_t> word(static_cast<std::size_t>(bunches(terms) * rows));
    for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t k = 0; k < terms; ++k)
            word[k / bunch * rows + r] |= std::uint64_t{bits[r * terms + k] > 0.5f} << place(k);
    return word;
}

// Words of columns of bits [terms, rows].
std::vector<std::uint64_t> words_of_columns(const float *bits, std::int64_t rows, std::int64_t terms) {
    std::vector<std::uint64_t> word(static_cast<std::size_t>(bunches(terms) * rows));
    for (std::int64_t k = 0; k < terms; ++k)
        for (std::int64_t r = 0; r < rows; ++r)
            word[k / bunch * rows + r] |= std::uint64_t{bits[k * rows + r] > 0.5f} << place(k);
    return word;
}

// `work(first, last)` for parts of `width` numbers in blocks, each on a thread of its own.
template <class Work>
void share(std::int64_t width, int threads, const Work &work) {
    const std::int64_t blocks = (width + lanes - 1) / lanes;
    const std::int64_t parts = std::min<std::int64_t>(std::max(threads, 1), blocks);
    std::vector<std::thread> members;
    for (std::int64_t t = 1; t < parts; ++t)
        members.emplace_back([&, t] { work(blocks * t / parts, blocks * (t + 1) / parts); });
    if (parts) work(0, blocks / parts);
    for (std::thread &member : members) member.join();
}

void check_matrix(const Matrix &matrix, const char *name) {
    if (matrix.stride(1) != 1 || (matrix.itemsize() != 2 && matrix.dtype() != nb::dtype<float>()))
        throw nb::value_error((std::string("expected ") + name +
                               " of float32, or of bfloat16 as 16-bit words, whose rows lie together").c_str());
}

// See annealers/_engine.pyi.
bool product(Matrix matrix, Floats bits, Out out, bool transposed, int threads) {
    check_matrix(matrix, "matrix");
    const std::int64_t n = size(matrix.shape(0)), m = size(matrix.shape(1)), rows = size(bits.shape(0));
    const std::int64_t terms = transposed ? m : n, width = transposed ? n : m;
    if (size(bits.shape(1)) != terms || size(out.shape(0)) != rows || size(out.shape(1)) != width)
        throw nb::value_error("expected bits [R, terms] and out [R, width] beside the matrix");
    static const Kernel &kernel = *isa::chosen("").products;
    nb::gil_scoped_release release;
    const std::vector<std::uint64_t> word = words_of_rows(bits.data(), rows, terms);
    std::fill(out.data(), out.data() + rows * width, 0.0f);
    const Job job{rows, terms, width, matrix.stride(0), matrix.itemsize() == 2, transposed,
                  matrix.data(), word.data(), out.data()};
    std::atomic<bool> finite{true};
    share(width, threads, [&](std::int64_t first, std::int64_t last) {
        if (!kernel.run(job, first, last)) finite = false;
    });
    return finite;
}

void add_outer(Matrix into, Floats bits, Floats numbers, float keep, float times, int threads) {
    check_matrix(into, "into");
    const std::int64_t n = size(into.shape(0)), m = size(into.shape(1)), terms = size(bits.shape(0));
    if (into.stride(0) != m || size(bits.shape(1)) != n || size(numbers.shape(0)) != terms ||
        size(numbers.shape(1)) != m)
        throw nb::value_error("expected bits [K, n] and numbers [K, m] beside into [n, m], which is contiguous");
    static const Kernel &kernel = *isa::chosen("").products;
    nb::gil_scoped_release release;
    const std::vector<std::uint64_t> word = words_of_columns(bits.data(), n, terms);
    const Outer job{n, terms, m, into.itemsize() == 2, into.data(), numbers.data(), word.data(), keep, times};
    share(m, threads, [&](std::int64_t first, std::int64_t last) { kernel.outer(job, first, last); });
}

}  // namespace

void bind_products(nb::module_ &m) {
    m.def("bit_product", &product, nb::arg("matrix"), nb::arg("bits"), nb::arg("out"), nb::arg("transposed"),
          nb::arg("threads"), "out = bits matrix, or bits matrix'; False where the matrix holds what is not finite.");
    m.def("add_outer", &add_outer, nb::arg("into"), nb::arg("bits"), nb::arg("numbers"), nb::arg("keep"),
          nb::arg("times"), nb::arg("threads"), "into = keep into + times bits' numbers.");
}
