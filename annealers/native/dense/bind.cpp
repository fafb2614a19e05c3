// Python's way into the dense kernel.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <cstdint>
#include <string>

#include "../run/isa.hpp"
#include "../run/listen.hpp"
#include "run.hpp"

namespace nb = nanobind;

namespace {

template <class T, int d>
using Array = nb::ndarray<T, nb::ndim<d>, nb::c_contig, nb::device::cpu>;

// See annealers/_engine.pyi for the arguments.
int sweep(Array<std::int8_t, 2> spins, Array<double, 1> energy, Array<std::int32_t, 1> done_by,
          Array<const float, 2> h, Array<const float, 3> J, Array<const float, 2> beta,
          Array<const std::int64_t, 1> seed, std::int64_t first_sweep, bool metropolis, bool palindromic,
          bool random_start, int threads, const std::string &set, nb::object alive) {
    const auto problems = static_cast<std::int64_t>(h.shape(0)), n = static_cast<std::int64_t>(h.shape(1));
    const auto lanes = static_cast<std::int64_t>(spins.shape(0)), row = static_cast<std::int64_t>(J.shape(2));
    const auto own = static_cast<std::int64_t>(J.shape(0)), columns = static_cast<std::int64_t>(beta.shape(1));
    if (problems == 0 || lanes % problems || static_cast<std::int64_t>(spins.shape(1)) != n ||
        (own != 1 && own != problems) || static_cast<std::int64_t>(J.shape(1)) != n || row < n || row % 16 ||
        (columns != 1 && columns != lanes) || static_cast<std::int64_t>(energy.shape(0)) != lanes ||
        done_by.shape(0) != energy.shape(0) || static_cast<std::int64_t>(seed.shape(0)) != problems || threads < 1)
        throw nb::value_error("expected spins [P R, n], energy and done [P R], h [P, n], J [1 or P, n, n padded to a "
                              "multiple of 16], beta [S, 1 or P R], seed [P] and threads >= 1");
    // Pass 2 s + 1 of the last sweep stays below the pass of the random start.
    if (first_sweep < 0 || first_sweep + static_cast<std::int64_t>(beta.shape(0)) >= std::int64_t{1} << 31)
        throw nb::value_error("expected 0 <= first_sweep, first_sweep + S < 2**31");
    dense::Job job{};
    job.n = n, job.row = row, job.problems = problems, job.replicas = lanes / problems;
    job.sweeps = static_cast<int>(beta.shape(0));
    job.h = h.data(), job.J = J.data(), job.J_stride = own > 1 ? n * row : 0;
    job.beta = beta.data(), job.beta_stride = columns > 1 ? lanes : 0;
    job.metropolis = metropolis, job.palindromic = palindromic, job.random_start = random_start;
    job.seed = reinterpret_cast<const std::uint64_t *>(seed.data());
    job.first_sweep = static_cast<std::uint32_t>(first_sweep);
    job.spins = spins.data(), job.energy = energy.data(), job.done = done_by.data();
    const dense::Kernel &kernel = *isa::chosen(set).dense;
    Listener listen(std::move(alive));
    int done = 0;
    {
        nb::gil_scoped_release release;
        done = dense::run(job, kernel, threads, std::ref(listen));
    }
    listen.settle(done);
    return done;
}

}  // namespace

void bind_dense(nb::module_ &m) {
    m.def("sweep_dense", &sweep, nb::arg("spins"), nb::arg("energy"), nb::arg("done"), nb::arg("h"), nb::arg("J"),
          nb::arg("beta"), nb::arg("seed"), nb::arg("first_sweep"), nb::arg("metropolis"), nb::arg("palindromic"),
          nb::arg("random_start"), nb::arg("threads"), nb::arg("isa"),
          nb::arg("alive").none(), "Sweeps of a batch of dense problems, in place; the number of sweeps done.");
}
