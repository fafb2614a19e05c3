// Python's way into the pass from products to spins.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <vector>

#include "../law/random.hpp"
#include "../run/isa.hpp"
#include "../run/pool.hpp"

namespace nb = nanobind;

namespace {

using Matrix = nb::ndarray<nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Bias = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Seeds = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// See annealers/_engine.pyi.
void draw(Matrix product, Matrix bits, Bias bias, Floats beta, Seeds seed, std::uint32_t pass, std::int64_t first_spin,
          bool metropolis, std::uint32_t first_replica, int threads) {
    const auto rows = static_cast<std::int64_t>(product.shape(0)), n = static_cast<std::int64_t>(product.shape(1));
    const auto problems = static_cast<std::int64_t>(seed.shape(0));
    const bool half = product.itemsize() == 2;
    if (bits.shape(0) != product.shape(0) || bits.shape(1) != product.shape(1) || bits.itemsize() != product.itemsize() ||
        (!half && product.dtype() != nb::dtype<float>()))
        throw nb::value_error("expected product and bits of one shape, both float32 or both bfloat16 (as 16-bit words)");
    if (problems == 0 || rows % problems || static_cast<std::int64_t>(bias.shape(1)) != n ||
        (bias.shape(0) != 1 && static_cast<std::int64_t>(bias.shape(0)) != problems) ||
        (beta.shape(0) != 1 && static_cast<std::int64_t>(beta.shape(0)) != rows))
        throw nb::value_error("expected bias [1 or P, n], beta [1 or P R] and seed [P] beside product [P R, n]");
    std::vector<std::uint32_t> low(n + 16), high(n + 16);
    for (std::int64_t j = 0; j < n; ++j) {
        const std::uint64_t key = counter::visit_key(pass, static_cast<std::uint32_t>(first_spin + j));
        low[j] = static_cast<std::uint32_t>(key), high[j] = static_cast<std::uint32_t>(key >> 32);
    }
    const logits::Job job{n, rows / problems, half, metropolis, beta.shape(0) > 1, product.data(), bits.data(),
                          bias.data(), bias.shape(0) > 1 ? n : 0, beta.data(),
                          reinterpret_cast<const std::uint64_t *>(seed.data()), low.data(), high.data(),
                          first_replica};
    static const logits::Run run = isa::chosen("").logits->run;
    nb::gil_scoped_release release;
    // a draw is some forty operations
    const int parts = pool::worthwhile(40.0 * static_cast<double>(rows) * static_cast<double>(n), threads);
    pool::share(parts, [&](int t) { run(job, rows * t / parts, rows * (t + 1) / parts); });
}

}  // namespace

void bind_logits(nb::module_ &m) {
    m.def("draw_bits", &draw, nb::arg("product"), nb::arg("bits"), nb::arg("bias"), nb::arg("beta"), nb::arg("seed"),
          nb::arg("pass_number"), nb::arg("first_spin"), nb::arg("metropolis"),
          nb::arg("first_replica") = 0, nb::arg("threads") = 1,
          "Bits from matrix products, in one pass: 1 with probability sigmoid(beta (product + bias)).");
}
