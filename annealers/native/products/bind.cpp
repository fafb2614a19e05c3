// Python's way into products with bits.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "../run/isa.hpp"
#include "../run/pool.hpp"

namespace nb = nanobind;

namespace {

using namespace products;
using Matrix = nb::ndarray<nb::ndim<2>, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

std::int64_t size(std::size_t n) { return static_cast<std::int64_t>(n); }
std::int64_t bunches(std::int64_t terms) { return (terms + bunch - 1) / bunch; }

// Additions to numbers: of each row's look-ups, and of the tables'.
double work_of(std::int64_t rows, std::int64_t terms, std::int64_t width) {
    return static_cast<double>(bunches(terms)) * groups * static_cast<double>(width) * static_cast<double>(rows + sums);
}

// `work(first, last)` for parts of `width` numbers in blocks, each on a thread of its own where `numbers` are many.
template <class Work>
void share(std::int64_t width, double numbers, int threads, const Work &work) {
    const std::int64_t blocks = (width + lanes - 1) / lanes;
    const std::int64_t parts = std::min<std::int64_t>(pool::worthwhile(numbers, threads), blocks);
    pool::share(static_cast<int>(parts), [&](int t) { work(blocks * t / parts, blocks * (t + 1) / parts); });
}

void check_matrix(const Matrix &matrix, const char *name) {
    const bool known = matrix.dtype() == nb::dtype<float>() || matrix.dtype() == nb::dtype<std::int16_t>();
    if (!known || (matrix.stride(1) != 1 && matrix.shape(1) != 1))
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
    std::vector<std::uint64_t> word(static_cast<std::size_t>(bunches(terms) * rows));
    kernel.words(bits.data(), rows, terms, word.data());
    std::fill(out.data(), out.data() + rows * width, 0.0f);
    const Job job{rows, terms, width, matrix.stride(0), matrix.itemsize() == 2, transposed,
                  matrix.data(), word.data(), out.data()};
    std::atomic<bool> finite{true};
    share(width, work_of(rows, terms, width), threads, [&](std::int64_t first, std::int64_t last) {
        if (!kernel.run(job, first, last)) finite = false;
    });
    return finite;
}

void add_outer(Matrix into, Floats bits, Floats numbers, float keep, float times, int threads) {
    check_matrix(into, "into");
    const std::int64_t n = size(into.shape(0)), m = size(into.shape(1)), terms = size(bits.shape(0));
    if ((n != 1 && into.stride(0) != m) || size(bits.shape(1)) != n || size(numbers.shape(0)) != terms ||
        size(numbers.shape(1)) != m)
        throw nb::value_error("expected bits [K, n] and numbers [K, m] beside into [n, m], which is contiguous");
    static const Kernel &kernel = *isa::chosen("").products;
    nb::gil_scoped_release release;
    std::vector<std::uint64_t> word(static_cast<std::size_t>(bunches(terms) * n));
    kernel.words_of_columns(bits.data(), n, terms, word.data());
    const Outer job{n, terms, m, into.itemsize() == 2, into.data(), numbers.data(), word.data(), keep, times};
    share(m, work_of(n, terms, m), threads,
          [&](std::int64_t first, std::int64_t last) { kernel.outer(job, first, last); });
}

}  // namespace

void bind_products(nb::module_ &m) {
    m.def("bit_product", &product, nb::arg("matrix"), nb::arg("bits"), nb::arg("out"), nb::arg("transposed"),
          nb::arg("threads"), "out = bits matrix, or bits matrix'; False where the matrix holds what is not finite.");
    m.def("add_outer", &add_outer, nb::arg("into"), nb::arg("bits"), nb::arg("numbers"), nb::arg("keep"),
          nb::arg("times"), nb::arg("threads"), "into = keep into + times bits' numbers.");
}
