// qsample.annealers._engine: the native kernels of the annealers.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>

#include "philox.hpp"

namespace nb = nanobind;

// One copy per instruction set, chosen when the module is loaded: the wheel runs everywhere, at each machine's
// speed. Needs the loader's ifunc, hence glibc on x86-64 only; elsewhere the plain copy.
#if defined(__x86_64__) && defined(__ELF__) && defined(__GLIBC__)
#define QSAMPLE_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define QSAMPLE_CLONES
#endif

namespace {

// Words start .. start + n - 1 of the stream of one seed.
QSAMPLE_CLONES void fill_row(float *out, std::uint64_t n, std::uint64_t seed, std::uint64_t start) {
    constexpr std::uint64_t group = 4 * philox::lanes;
    std::uint64_t block = start / 4, skip = start % 4, done = 0;
    while (done < n) {
        const std::uint64_t take = std::min(n - done, group - skip);
        if (take == group) {
            philox::uniforms(out + done, seed, block);
        } else {  // the ragged ends go through a buffer
            float buffer[group];
            philox::uniforms(buffer, seed, block);
            std::memcpy(out + done, buffer + skip, take * sizeof(float));
        }
        done += take;
        block += philox::lanes;
        skip = 0;
    }
}

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
    if (!nb::try_cast(start_value, start) || start < 0 ||
        static_cast<std::uint64_t>(start) > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()) - columns)
        throw nb::value_error((std::string("expected 0 <= start < 2**63 - N; got ") +
                               nb::str(start_value).c_str()).c_str());

    auto *to = static_cast<float *>(out.data());
    const auto *seed = static_cast<const std::uint64_t *>(seeds.data());
    nb::gil_scoped_release release;
    for (std::uint64_t p = 0; p < rows; ++p)
        fill_row(to + p * columns, columns, seed[p], static_cast<std::uint64_t>(start));
}

std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key) {
    philox::block(counter[0], counter[1], counter[2], counter[3], key[0], key[1]);
    return counter;
}

}  // namespace

NB_MODULE(_engine, m) {
    m.doc() = "Native kernels of the annealers.";
    m.def("fill_uniform", &fill_uniform, nb::arg("out"), nb::arg("seeds"), nb::arg("start"),
          "out[p, i] = word start + i of the Philox4x32-10 stream of seeds[p], as a uniform strictly inside (0, 1).");
    m.def("philox4x32", [](std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key) {
              const auto word = philox4x32(counter, key);
              return nb::make_tuple(word[0], word[1], word[2], word[3]);
          },
          nb::arg("counter"), nb::arg("key"), "One block of four words of Philox4x32-10.");
}
