// qsample.annealers._engine: the native kernels of the annealers.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>

#include <array>
#include <cstdint>
#include <limits>
#include <string>

#include "run/philox.hpp"
#include "run/pool.hpp"

namespace nb = nanobind;

namespace {

std::string shape_of(const nb::ndarray<> &a) {
    std::string text = "[";
    for (std::size_t d = 0; d < a.ndim(); ++d) text += (d ? ", " : "") + std::to_string(a.shape(d));
    return text + "]";
}

bool contiguous(const nb::ndarray<> &a) {
    std::int64_t expected = 1;
    for (std::size_t d = a.ndim(); d-- > 0;) {
        if (a.shape(d) > 1 && a.stride(d) != expected) return false;
        expected *= static_cast<std::int64_t>(a.shape(d));
    }
    return true;
}

// An array of the wanted shape and place, or a one-line error that names the argument.
nb::ndarray<> array(nb::handle value, const char *name, std::size_t ndim, const char *wanted) {
    const std::string expected = std::string("expected ") + name + " to be " + wanted;
    nb::ndarray<> a;
    if (!nb::try_cast(value, a))
        throw nb::type_error((expected + "; got " + nb::type_name(value.type()).c_str() +
                              " that is no array, or a read-only one").c_str());
    if (a.device_type() != nb::device::cpu::value)
        throw nb::value_error((expected + "; got one on another device").c_str());
    if (a.ndim() != ndim) throw nb::value_error((expected + "; got shape " + shape_of(a)).c_str());
    if (a.size() && !contiguous(a))
        throw nb::value_error((expected + "; got one that is not C-contiguous").c_str());
    return a;
}

void fill_uniform(nb::handle out_value, nb::handle seeds_value, nb::handle start_value) {
    constexpr const char *out_wanted = "a C-contiguous CPU float32 array [P, N]";
    constexpr const char *seeds_wanted = "a C-contiguous CPU int64 or uint64 array [P]";
    const nb::ndarray<> out = array(out_value, "out", 2, out_wanted);
    const nb::ndarray<> seeds = array(seeds_value, "seeds", 1, seeds_wanted);
    if (out.dtype() != nb::dtype<float>())
        throw nb::type_error((std::string("expected out to be ") + out_wanted + "; got another dtype").c_str());
    if (seeds.dtype() != nb::dtype<std::int64_t>() && seeds.dtype() != nb::dtype<std::uint64_t>())
        throw nb::type_error((std::string("expected seeds to be ") + seeds_wanted + "; got another dtype").c_str());
    if (seeds.shape(0) != out.shape(0))
        throw nb::value_error(("expected one seed per row of out; got seeds of shape " + shape_of(seeds) +
                               " for out of shape " + shape_of(out)).c_str());
    if (!PyLong_Check(start_value.ptr()))
        throw nb::type_error((std::string("expected start to be an int; got ") +
                              nb::type_name(start_value.type()).c_str()).c_str());
    const std::uint64_t rows = out.shape(0), columns = out.shape(1);
    std::int64_t start = -1;
    constexpr std::uint64_t last = std::numeric_limits<std::int64_t>::max();
    if (!nb::try_cast(start_value, start) || start < 0 || static_cast<std::uint64_t>(start) > last - columns)
        throw nb::value_error((std::string("expected 0 <= start < 2**63 - N; got ") +
                               nb::str(start_value).c_str()).c_str());

    auto *to = static_cast<float *>(out.data());
    const auto *seed = static_cast<const std::uint64_t *>(seeds.data());
    nb::gil_scoped_release release;
    for (std::uint64_t p = 0; p < rows; ++p)
        philox::fill(to + p * columns, columns, seed[p], static_cast<std::uint64_t>(start));
}

nb::tuple philox4x32(std::array<std::uint32_t, 4> c, std::array<std::uint32_t, 2> key) {
    philox::block(c[0], c[1], c[2], c[3], key[0], key[1]);
    return nb::make_tuple(c[0], c[1], c[2], c[3]);
}

}  // namespace

void bind_bipartite(nb::module_ &m);
void bind_dense(nb::module_ &m);
void bind_energies(nb::module_ &m);
void bind_logits(nb::module_ &m);
void bind_products(nb::module_ &m);
void bind_sparse(nb::module_ &m);

NB_MODULE(_engine, m) {
    m.doc() = "Native kernels of the annealers.";
    pool::watch_forks();
    m.attr("NUMBERING") = 2;  // of random numbers and roundings: draws of two numberings differ
    m.def("fill_uniform", &fill_uniform, nb::arg("out"), nb::arg("seeds"), nb::arg("start"),
          "out[p, i] = word start + i of the Philox4x32-10 stream of seeds[p], as a uniform strictly inside (0, 1).");
    m.def("philox4x32", &philox4x32, nb::arg("counter"), nb::arg("key"),
          "One block of four words of Philox4x32-10.");
    bind_bipartite(m);
    bind_dense(m);
    bind_energies(m);
    bind_logits(m);
    bind_products(m);
    bind_sparse(m);
}
