// Python's way into the dense kernel.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <string>

#include "../run/isa.hpp"
#include "../run/listen.hpp"
#include "../run/team.hpp"

namespace nb = nanobind;

namespace {

template <class T, int d>
using Array = nb::ndarray<T, nb::ndim<d>, nb::c_contig, nb::device::cpu>;

// See annealers/_engine.pyi for the arguments.
int sweep(Array<std::int8_t, 2> spins, Array<double, 1> energy, Array<std::int32_t, 1> done_by, Array<const float, 2> h,
          Array<const float, 3> J, Array<const float, 2> beta, Array<const std::int64_t, 1> seed, std::int64_t first_sweep,
          bool metropolis, bool palindromic, bool random_start, int threads, const std::string &set, nb::object alive) {
    const auto problems = static_cast<std::int64_t>(h.shape(0)), n = static_cast<std::int64_t>(h.shape(1));
    const auto lanes = static_cast<std::int64_t>(spins.shape(0)), row = static_cast<std::int64_t>(J.shape(2));
    const auto own = static_cast<std::int64_t>(J.shape(0)), columns = static_cast<std::int64_t>(beta.shape(1));
    if (problems == 0 || lanes % problems || static_cast<std::int64_t>(spins.shape(1)) != n || (own != 1 && own != problems) ||
        static_cast<std::int64_t>(J.shape(1)) != n || row < n || row % 16 || (columns != 1 && columns != lanes) ||
        static_cast<std::int64_t>(energy.shape(0)) != lanes || done_by.shape(0) != energy.shape(0) || static_cast<std::int64_t>(seed.shape(0)) != problems)
        throw nb::value_error("expected spins [P R, n], energy and done [P R], h [P, n], J [1 or P, n, n padded to a multiple of "
                              "16], beta [S, 1 or P R] and seed [P]");
    // Pass 2 s + 1 of the last sweep stays below the pass of the random start.
    if (first_sweep < 0 || first_sweep + static_cast<std::int64_t>(beta.shape(0)) >= std::int64_t{1} << 31)
        throw nb::value_error("expected 0 <= first_sweep, first_sweep + S < 2**31");
    std::atomic<bool> stop{false};
    const dense::Job job{n, row, problems, lanes / problems, static_cast<int>(beta.shape(0)), h.data(), J.data(),
                         own > 1 ? n * row : 0, beta.data(), columns > 1 ? lanes : 0, metropolis, palindromic, random_start,
                         reinterpret_cast<const std::uint64_t *>(seed.data()), static_cast<std::uint32_t>(first_sweep),
                         spins.data(), energy.data(), done_by.data(), &stop};
    const dense::Run run = isa::chosen(set).dense->run;
    Listener listen(std::move(alive));
    // Blocks of lanes with the same J are the fast ones; problems of a J each share blocks where they have few lanes.
    const std::int64_t alone = own > 1 && job.replicas >= 4 ? own : 1, rows = lanes / alone;
    const std::int64_t width = team::block_width(rows, dense::lanes, alone > 1 ? 1 : threads, 16);
    const std::int64_t blocks = (rows + width - 1) / width;
    const auto piece = [&](std::size_t k) {
        const std::int64_t first = static_cast<std::int64_t>(k) % blocks * width, count = std::min(width, rows - first);
        return run(job, static_cast<std::int64_t>(k) / blocks * rows + first, static_cast<int>(count));
    };
    int done = 0;
    {
        nb::gil_scoped_release release;
        const double updates = static_cast<double>(lanes) * n * job.sweeps * 20;  // dearer than a sparse one
        done = team::share(alone * blocks, threads, updates, job.sweeps, stop, std::ref(listen), piece);
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
