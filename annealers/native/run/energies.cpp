// Energies of sparse problems in double precision, for problems that are given in it: one pass over the couplings for a
// block of reads, whose spins lie side by side. Sums have one order for any batch and any number of threads.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <new>

#include "listen.hpp"
#include "team.hpp"

namespace nb = nanobind;

namespace {

template <class T, int d>
using Array = nb::ndarray<T, nb::ndim<d>, nb::c_contig, nb::device::cpu>;

constexpr int reads = 16;  // of a block

// P problems on one graph, R reads each: read l is of problem l / R.
struct Job {
    std::int64_t n, lanes, replicas;
    const std::int32_t *start, *near, *edge;  // neighbours by CSR, in the caller's order
    const double *h, *J;                      // [P, n] and [P or 1, k]
    std::int64_t J_stride;
    const std::int8_t *spins;                 // [P R, n]
    double *energy;                           // [P R]
};

// E = sum_i s_i (h_i + sum over the neighbours j < i of J_ij s_j), of the reads first, ..., of one problem.
bool block(const Job &job, std::int64_t first, int count) {
    const std::unique_ptr<double[]> spin(new (std::nothrow) double[job.n * reads]);
    if (!spin) return false;
    for (int l = 0; l < reads; ++l) {
        const std::int8_t *from = job.spins + (first + (l < count ? l : 0)) * job.n;  // idle ones repeat the first
        for (std::int64_t i = 0; i < job.n; ++i) spin[i * reads + l] = from[i];
    }
    const std::int64_t problem = first / job.replicas;
    const double *h = job.h + problem * job.n, *J = job.J + problem * job.J_stride;
    double total[reads] = {};
    for (std::int64_t i = 0; i < job.n; ++i) {
        double field[reads];
        for (double &f : field) f = h[i];
        for (std::int32_t e = job.start[i]; e < job.start[i + 1] && job.near[e] < i; ++e) {
            const double coupling = J[job.edge[e]], *other = spin.get() + job.near[e] * std::int64_t{reads};
            for (int l = 0; l < reads; ++l) field[l] += coupling * other[l];
        }
        for (int l = 0; l < reads; ++l) total[l] += spin[i * reads + l] * field[l];
    }
    for (int l = 0; l < count; ++l) job.energy[first + l] = total[l];
    return true;
}

// See annealers/_engine.pyi for the arguments.
void energies(Array<const std::int8_t, 2> spins, Array<double, 1> energy, Array<const std::int32_t, 1> start,
              Array<const std::int32_t, 1> near, Array<const std::int32_t, 1> edge, Array<const double, 2> h,
              Array<const double, 2> J, int threads) {
    const auto problems = static_cast<std::int64_t>(h.shape(0)), n = static_cast<std::int64_t>(h.shape(1));
    const auto lanes = static_cast<std::int64_t>(spins.shape(0)), own = static_cast<std::int64_t>(J.shape(0));
    if (problems == 0 || lanes % problems || static_cast<std::int64_t>(spins.shape(1)) != n || threads < 1 ||
        static_cast<std::int64_t>(energy.shape(0)) != lanes || (own != 1 && own != problems) ||
        static_cast<std::int64_t>(start.shape(0)) != n + 1 || near.shape(0) != edge.shape(0) ||
        near.shape(0) != 2 * J.shape(1) || static_cast<std::size_t>(start.data()[n]) != near.shape(0))
        throw nb::value_error("expected spins [P R, n], energy [P R], the CSR of a graph of n spins "
                              "and k edges, h [P, n], J [1 or P, k] and threads >= 1");
    const std::int64_t replicas = lanes / problems, blocks = (replicas + reads - 1) / reads;
    const Job job{n, lanes, replicas, start.data(), near.data(), edge.data(), h.data(), J.data(),
                  own > 1 ? static_cast<std::int64_t>(J.shape(1)) : 0, spins.data(), energy.data()};
    Halt halt;
    Listener listen{nb::none()};
    int done = 0;
    {
        nb::gil_scoped_release release;
        const double updates = static_cast<double>(lanes) * (n + near.shape(0) / 2.0);
        done = team::share(problems * blocks, threads, updates, 1, halt, std::ref(listen), [&](std::size_t k) {
            if (stopped(&halt)) return 0;
            const std::int64_t from = static_cast<std::int64_t>(k) % blocks * reads;
            const std::int64_t first = static_cast<std::int64_t>(k) / blocks * replicas + from;
            return block(job, first, static_cast<int>(std::min<std::int64_t>(reads, replicas - from))) ? 1 : -1;
        });
    }
    listen.settle(done);
}

}  // namespace

void bind_energies(nb::module_ &m) {
    m.def("energies", &energies, nb::arg("spins"), nb::arg("energy").noconvert(), nb::arg("start"), nb::arg("near"),
          nb::arg("edge"), nb::arg("h"), nb::arg("J"), nb::arg("threads"),
          "Energies of reads of a batch of sparse problems in double precision, without the offset.");
}
