// Python's way into the sparse kernel: arrays checked, the interpreter let go, interrupts listened to.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "dispatch.hpp"

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
int sweep(Array<std::int8_t, 2> spins, Array<double, 1> energy, In<std::int32_t, 1> order, In<std::int32_t, 1> place,
          In<std::int32_t, 1> start, In<std::int32_t, 1> near, In<std::int32_t, 1> edge, In<float, 2> h, In<float, 2> J,
          In<float, 2> beta, In<std::int64_t, 1> seed, std::uint32_t first_replica, std::uint32_t first_sweep,
          bool metropolis, bool palindromic, bool random_start, int threads, const std::string &isa, nb::object alive) {
    const auto n = static_cast<std::int64_t>(h.shape(1)), problems = static_cast<std::int64_t>(h.shape(0));
    const auto lanes = static_cast<std::int64_t>(spins.shape(0));
    expect(problems > 0 && lanes % problems == 0, "expected the rows of spins to be a multiple of those of h");
    expect(static_cast<std::int64_t>(spins.shape(1)) == n, "expected spins [P R, n] for h [P, n]");
    expect(static_cast<std::int64_t>(energy.shape(0)) == lanes, "expected one energy a row of spins");
    expect(static_cast<std::int64_t>(seed.shape(0)) == problems, "expected one seed a problem");
    expect(static_cast<std::int64_t>(order.shape(0)) == n && place.shape(0) == order.shape(0) &&
               static_cast<std::int64_t>(start.shape(0)) == n + 1 && near.shape(0) == edge.shape(0) &&
               static_cast<std::size_t>(start.data()[n]) == near.shape(0),
           "expected the structure of a graph of n spins");
    expect(J.shape(0) == 1 || static_cast<std::int64_t>(J.shape(0)) == problems, "expected J [1 or P, k]");
    expect(2 * J.shape(1) == near.shape(0), "expected J with one number an edge of the graph");
    expect(beta.shape(1) == 1 || static_cast<std::int64_t>(beta.shape(1)) == lanes, "expected beta [S, 1 or P R]");
    expect(threads > 0, "expected threads >= 1");
    // Pass 2 s + 1 of the last sweep stays below the pass of the random start; replicas keep to their 32 bits.
    expect(first_sweep + std::uint64_t{beta.shape(0)} < 1u << 31, "expected first_sweep + S < 2**31");
    expect(std::uint64_t{first_replica} + lanes / problems <= std::uint64_t{1} << 32,
           "expected first_replica + R <= 2**32");
    const auto k = static_cast<std::int64_t>(J.shape(1));
    sparse::Job job{};
    job.n = static_cast<int>(n), job.problems = static_cast<int>(problems);
    job.replicas = static_cast<int>(lanes / problems), job.sweeps = static_cast<int>(beta.shape(0));
    job.order = order.data(), job.place = place.data();
    job.start = start.data(), job.near = near.data(), job.edge = edge.data();
    job.h = h.data(), job.J = J.data(), job.J_stride = J.shape(0) > 1 ? k : 0;
    job.beta = beta.data(), job.beta_stride = beta.shape(1) > 1 ? lanes : 0;
    job.rule = metropolis ? sparse::Rule::metropolis : sparse::Rule::heat_bath;
    job.palindromic = palindromic;
    job.seed = reinterpret_cast<const std::uint64_t *>(seed.data());
    job.first_replica = first_replica, job.first_sweep = first_sweep;
    job.random_start = random_start;
    job.spins = spins.data(), job.energy = energy.data();
    const sparse::Kernel *kernel = nullptr;
    for (const sparse::Kernel *one : sparse::kernels())
        if (!kernel && (isa.empty() || isa == one->name)) kernel = one;
    if (!kernel) throw nb::value_error(("this machine has no instruction set '" + isa + "'").c_str());
    bool failed = false;  // a signal's handler or `alive` raised: the error is Python's to show
    const auto listen = [&] {
        nb::gil_scoped_acquire hold;
        if (PyErr_CheckSignals() != 0) return failed = true, false;
        if (alive.is_none()) return true;
        PyObject *answer = PyObject_CallNoArgs(alive.ptr());
        if (!answer) return failed = true, false;
        const bool go_on = PyObject_IsTrue(answer) == 1;
        Py_DECREF(answer);
        return go_on;
    };
    int done = 0;
    {
        nb::gil_scoped_release release;
        done = sparse::run(job, *kernel, threads, listen);
    }
    if (failed) throw nb::python_error();
    if (done < 0) throw std::bad_alloc();
    return done;
}

}  // namespace

void bind_sparse(nb::module_ &m) {
    m.def("sweep", &sweep, nb::arg("spins"), nb::arg("energy"), nb::arg("order"), nb::arg("place"), nb::arg("start"),
          nb::arg("near"), nb::arg("edge"), nb::arg("h"), nb::arg("J"), nb::arg("beta"), nb::arg("seed"),
          nb::arg("first_replica"), nb::arg("first_sweep"), nb::arg("metropolis"), nb::arg("palindromic"),
          nb::arg("random_start"), nb::arg("threads"), nb::arg("isa"), nb::arg("alive").none(),
          "Sweeps of a batch of sparse problems, in place; the number of sweeps done.");
    m.def("instruction_sets", [] {
        nb::list names;
        for (const sparse::Kernel *one : sparse::kernels()) names.append(one->name);
        return names;
    }, "The instruction sets the sweeps can use here, the best first.");
}
