// The native kernels checked by themselves, without Python: `make sanitize`, `make cross`. Not installed.
//
//     check                        everything below, at sizes for every day
//     check fuzz [trials]          fuzzed problems; a digest a kernel, the same on every machine
//     check bound [settings]       the filter's bound over all fields of 16 bits
//     check equal [decisions] [threads]
//                                  filtered sweeps against exact ones
//     check planted                a bound made wrong must be noticed by these two
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "checks.hpp"

namespace law {
double margin_scale = 1;
std::atomic<std::int64_t> left_open{0};
}

namespace {

void fuzz(int trials) {
    std::printf("sparse %016llx\n", check::fuzz_sparse(trials));
    std::printf("dense %016llx\n", check::fuzz_dense(trials));
    std::printf("bipartite %016llx\n", check::fuzz_bipartite(trials));
    std::printf("logits %016llx\n", check::fuzz_logits(trials));
    std::printf("products %016llx\n", check::fuzz_products(trials));
    std::printf("philox %016llx\n", check::fuzz_philox(trials));
    check::stops();
}

bool planted(double decisions) {
    law::margin_scale = 0.1;
    const bool noticed = check::bound(4) > 0 && check::equal_sparse(decisions, 1) > 0 &&
                         check::equal_bipartite(decisions, 1) > 0;
    law::margin_scale = 1;
    std::puts(noticed ? "a tenth of the bound: noticed by all" : "a tenth of the bound: NOT noticed");
    return noticed;
}

}  // namespace

int main(int count, char **argument) {
    const std::string what = count > 1 ? argument[1] : "";
    const auto number = [&](int k, double otherwise) { return count > k ? std::atof(argument[k]) : otherwise; };
    bool good = true;
    if (what.empty() || what == "fuzz") fuzz(static_cast<int>(number(2, 200)));
    if (what.empty() || what == "bound") good = check::bound(static_cast<int>(number(2, 12))) == 0 && good;
    if (what.empty() || what == "equal") {
        const double decisions = number(2, 1e7);
        const int threads = static_cast<int>(number(3, 1));
        good = check::equal_sparse(decisions, threads) == 0 && good;
        good = check::equal_bipartite(decisions, threads) == 0 && good;
    }
    if (what.empty() || what == "planted") good = planted(2e6) && good;
    std::puts(good ? "clean" : "NOT clean");
    return good ? 0 : 1;
}
