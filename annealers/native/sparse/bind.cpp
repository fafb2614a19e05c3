// Python's way into the sparse kernel: arrays checked, the interpreter let go, interrupts listened to.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <cstdint>
#include <string>
#include <vector>

#include "../law/random.hpp"
#include "../run/isa.hpp"
#include "../run/listen.hpp"
#include "run.hpp"

namespace nb = nanobind;

namespace {

template <class T, int d>
using Array = nb::ndarray<T, nb::ndim<d>, nb::c_contig, nb::device::cpu>;
template <class T, int d>
using In = Array<const T, d>;

void expect(bool good, const char *what) {
    if (!good) throw nb::value_error(what);
}

// See annealers/_engine.pyi for the arguments.
int sweep(Array<std::int8_t, 2> spins, Array<double, 1> energy, Array<std::int32_t, 1> done,
          In<std::int32_t, 1> order, In<std::int32_t, 1> place, In<std::int32_t, 1> start, In<std::int32_t, 1> near,
          In<std::int32_t, 1> edge, In<std::int32_t, 1> colour, In<float, 2> h, In<float, 2> J, In<float, 2> beta,
          In<std::int64_t, 1> seed, std::int64_t first_replica, std::int64_t first_sweep, bool metropolis,
          bool palindromic, bool random_start, int threads, const std::string &set, nb::object alive) {
    const auto n = static_cast<std::int64_t>(h.shape(1)), problems = static_cast<std::int64_t>(h.shape(0));
    const auto lanes = static_cast<std::int64_t>(spins.shape(0));
    expect(problems > 0 && lanes % problems == 0, "expected the rows of spins to be a multiple of those of h");
    expect(static_cast<std::int64_t>(spins.shape(1)) == n, "expected spins [P R, n] for h [P, n]");
    expect(static_cast<std::int64_t>(energy.shape(0)) == lanes && done.shape(0) == energy.shape(0),
           "expected one energy and one number of sweeps a row of spins");
    expect(static_cast<std::int64_t>(seed.shape(0)) == problems, "expected one seed a problem");
    expect(static_cast<std::int64_t>(order.shape(0)) == n && place.shape(0) == order.shape(0) &&
               static_cast<std::int64_t>(start.shape(0)) == n + 1 && near.shape(0) == edge.shape(0) && colour.shape(0) > 0 &&
               colour.data()[colour.shape(0) - 1] == n &&
               static_cast<std::size_t>(start.data()[n]) == near.shape(0),
           "expected the structure of a graph of n spins");
    expect(J.shape(0) == 1 || static_cast<std::int64_t>(J.shape(0)) == problems, "expected J [1 or P, k]");
    expect(2 * J.shape(1) == near.shape(0), "expected J with one number an edge of the graph");
    expect(beta.shape(1) == 1 || static_cast<std::int64_t>(beta.shape(1)) == lanes, "expected beta [S, 1 or P R]");
    expect(threads > 0, "expected threads >= 1");
    // Pass 2 s + 1 of the last sweep stays below the pass of the random start; replicas keep to their 32 bits.
    expect(first_sweep >= 0 && first_sweep + static_cast<std::int64_t>(beta.shape(0)) < std::int64_t{1} << 31,
           "expected 0 <= first_sweep, first_sweep + S < 2**31");
    expect(first_replica >= 0 && first_replica + lanes / problems <= std::int64_t{1} << 32,
           "expected 0 <= first_replica, first_replica + R <= 2**32");
    const auto k = static_cast<std::int64_t>(J.shape(1));
    sparse::Job job{};
    job.n = static_cast<int>(n), job.problems = static_cast<int>(problems);
    job.replicas = static_cast<int>(lanes / problems), job.sweeps = static_cast<int>(beta.shape(0));
    job.order = order.data(), job.place = place.data();
    job.start = start.data(), job.near = near.data(), job.edge = edge.data();
    job.colour = colour.data(), job.colours = static_cast<int>(colour.shape(0)) - 1;
    job.h = h.data(), job.J = J.data(), job.J_stride = J.shape(0) > 1 ? k : 0;
    job.beta = beta.data(), job.beta_stride = beta.shape(1) > 1 ? lanes : 0;
    job.metropolis = metropolis, job.palindromic = palindromic;
    job.seed = reinterpret_cast<const std::uint64_t *>(seed.data());
    job.first_replica = static_cast<std::uint32_t>(first_replica);
    job.first_sweep = static_cast<std::uint32_t>(first_sweep);
    job.random_start = random_start;
    job.spins = spins.data(), job.energy = energy.data(), job.done = done.data();
    const sparse::Kernel &kernel = *isa::chosen(set).sparse;
    Listener listen(std::move(alive));
    int fewest = 0;
    {
        nb::gil_scoped_release release;
        fewest = sparse::run(job, kernel, threads, std::ref(listen));
    }
    listen.settle(fewest);
    return fewest;
}

// The numbers that decide the spins, [replicas, passes, spins]: for tests of the generator.
void random_bits(Array<std::uint32_t, 3> out, std::uint64_t seed, std::uint32_t replica, std::uint32_t pass,
                 std::uint32_t spin) {
    std::uint32_t *to = out.data();
    for (std::uint32_t r = 0; r < out.shape(0); ++r) {
        const counter::Halves lane(counter::lane_key(seed, (replica + r) >> 1));
        const int shift = (replica + r) % 2 ? 16 : 0;
        for (std::uint32_t p = 0; p < out.shape(1); ++p)
            for (std::uint32_t i = 0; i < out.shape(2); ++i) {
                const counter::Halves visit(counter::visit_key(pass + p, spin + i));
                *to++ = counter::word(lane, visit, shift);
            }
    }
}

}  // namespace

void bind_sparse(nb::module_ &m) {
    m.def("sweep", &sweep, nb::arg("spins").noconvert(), nb::arg("energy").noconvert(),
          nb::arg("done").noconvert(), nb::arg("order"), nb::arg("place"), nb::arg("start"), nb::arg("near"),
          nb::arg("edge"), nb::arg("colour"), nb::arg("h"), nb::arg("J"), nb::arg("beta"), nb::arg("seed"),
          nb::arg("first_replica"), nb::arg("first_sweep"), nb::arg("metropolis"), nb::arg("palindromic"),
          nb::arg("random_start"), nb::arg("threads"), nb::arg("isa"), nb::arg("alive").none(),
          "Sweeps of a batch of sparse problems, in place; the fewest sweeps that any row did.");
    m.def("random_bits", &random_bits, nb::arg("out").noconvert(), nb::arg("seed"), nb::arg("replica"), nb::arg("pass_"),
          nb::arg("spin"), "The random words of consecutive replicas, passes and spins.");
    m.def("instruction_sets", [] {
        nb::list names;
        for (const isa::Set &set : isa::sets()) names.append(set.name);
        return names;
    }, "The instruction sets the sweeps can use here, the best first.");
}
