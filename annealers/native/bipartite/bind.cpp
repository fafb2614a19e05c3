// Python's way into the bipartite kernel.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <cstdint>
#include <optional>
#include <string>

#include "../run/isa.hpp"
#include "../run/listen.hpp"
#include "run.hpp"

namespace nb = nanobind;

namespace {

template <class T, int d>
using Array = nb::ndarray<T, nb::ndim<d>, nb::c_contig, nb::device::cpu>;

// See annealers/_engine.pyi for the arguments.
class Chains {
  public:
    Chains(Array<std::int8_t, 2> spins, Array<double, 1> energy, Array<std::int32_t, 1> done, Array<const float, 2> h,
           Array<const float, 3> J, Array<const std::int64_t, 1> seed, std::int64_t first_replica, bool metropolis,
           bool palindromic, bool kept, const std::string &set)
        : spins_(spins), energy_(energy), done_(done), h_(h), J_(J), seed_(seed) {
        const auto problems = static_cast<std::int64_t>(h.shape(0)), N = static_cast<std::int64_t>(h.shape(1));
        const auto lanes = static_cast<std::int64_t>(spins.shape(0)), own = static_cast<std::int64_t>(J.shape(0));
        const auto n = static_cast<std::int64_t>(J.shape(1)), m = static_cast<std::int64_t>(J.shape(2));
        if (problems == 0 || lanes % problems || n + m != N || static_cast<std::int64_t>(spins.shape(1)) != N ||
            (own != 1 && own != problems) || static_cast<std::int64_t>(energy.shape(0)) != lanes ||
            done.shape(0) != energy.shape(0) || static_cast<std::int64_t>(seed.shape(0)) != problems)
            throw nb::value_error("expected spins [P R, n + m], energy and done [P R], h [P, n + m], J [1 or P, n, m] "
                                  "and seed [P]");
        if (first_replica < 0 || first_replica + lanes / problems > std::int64_t{1} << 32)
            throw nb::value_error("expected 0 <= first_replica, first_replica + R <= 2**32");
        job_.first_replica = static_cast<std::uint32_t>(first_replica);
        job_.n = n, job_.m = m, job_.problems = problems, job_.replicas = lanes / problems;
        job_.h = h.data(), job_.J = J.data(), job_.J_stride = own > 1 ? n * m : 0;
        job_.metropolis = metropolis, job_.palindromic = palindromic;
        job_.seed = reinterpret_cast<const std::uint64_t *>(seed.data());
        job_.spins = spins.data(), job_.energy = energy.data(), job_.done = done.data();
        const bipartite::Kernel &kernel = *isa::chosen(set).bipartite;
        nb::gil_scoped_release release;
        plan_.emplace(job_, kernel, kept);
    }
    int sweep(Array<const float, 2> beta, std::int64_t first_sweep, bool random_start, int threads, nb::object alive) {
        const auto sweeps = static_cast<std::int64_t>(beta.shape(0));
        const auto columns = static_cast<std::int64_t>(beta.shape(1));
        if ((columns != 1 && columns != job_.lanes()) || threads < 1)
            throw nb::value_error("expected beta [S, 1 or P R] and threads >= 1");
        // Pass 2 s + 1 of the last sweep stays below the pass of the random start.
        if (first_sweep < 0 || first_sweep + sweeps >= std::int64_t{1} << 31)
            throw nb::value_error("expected 0 <= first_sweep, first_sweep + S < 2**31");
        bipartite::Job job = job_;
        job.sweeps = static_cast<int>(sweeps), job.first_sweep = static_cast<std::uint32_t>(first_sweep);
        job.beta = beta.data(), job.beta_stride = columns > 1 ? job.lanes() : 0, job.random_start = random_start;
        Listener listen(std::move(alive));
        int fewest = 0;
        {
            nb::gil_scoped_release release;
            fewest = plan_->sweep(job, threads, std::ref(listen));
        }
        listen.settle(fewest);
        return fewest;
    }
    void write() { plan_->write(); }
    void read() { plan_->read(); }

  private:
    Array<std::int8_t, 2> spins_;
    Array<double, 1> energy_;
    Array<std::int32_t, 1> done_;
    Array<const float, 2> h_;
    Array<const float, 3> J_;
    Array<const std::int64_t, 1> seed_;
    bipartite::Job job_{};
    std::optional<bipartite::Plan> plan_;
};

}  // namespace

void bind_bipartite(nb::module_ &m) {
    nb::class_<Chains>(m, "Bipartite", "Chains of a batch of bipartite problems.")
        .def(nb::init<Array<std::int8_t, 2>, Array<double, 1>, Array<std::int32_t, 1>, Array<const float, 2>,
                      Array<const float, 3>, Array<const std::int64_t, 1>, std::int64_t, bool, bool, bool,
                      const std::string &>(),
             nb::arg("spins").noconvert(), nb::arg("energy").noconvert(), nb::arg("done").noconvert(), nb::arg("h"),
             nb::arg("J"), nb::arg("seed"), nb::arg("first_replica"), nb::arg("metropolis"), nb::arg("palindromic"),
             nb::arg("kept"), nb::arg("isa"))
        .def("sweep", &Chains::sweep, nb::arg("beta"), nb::arg("first_sweep"), nb::arg("random_start"),
             nb::arg("threads"), nb::arg("alive").none(), "Sweeps; the fewest of any replica.")
        .def("write", &Chains::write, "Spins to the array that holds them.")
        .def("read", &Chains::read, "Go on from that array, which has been written to.");
}
