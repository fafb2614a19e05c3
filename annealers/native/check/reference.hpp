// The law, lane by lane, spin by spin and sum by sum, with nothing of the kernels' but the rule and the random words.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "../law/random.hpp"
#include "../law/rule.hpp"
#include "../law/unit.hpp"

namespace check {

// One problem; spins by the caller's numbers.
struct Reference {
    std::vector<float> h;
    std::vector<std::vector<std::pair<int, float>>> near;  // neighbours and their couplings
    std::vector<int> order, back;                          // in which a sweep visits; and goes back, where palindromic

    double unit() const {
        double reach = 0, field = 0;
        for (const auto &mine : near) {
            double sum = 0;
            for (const auto &neighbour : mine) sum += std::fabs(static_cast<double>(neighbour.second));
            reach = std::max(reach, sum);
        }
        for (const float one : h) field = std::max(field, std::fabs(static_cast<double>(one)));
        return law::unit(reach, field);
    }

    struct Lane {
        std::uint64_t seed;
        std::uint32_t replica, first_sweep;
        std::vector<float> beta;  // by sweep
        bool metropolis, palindromic, random_start;
    };
    // Energy and, in place, spins.
    double run(const Lane &lane, std::int8_t *spins) const {
        const int n = static_cast<int>(h.size());
        const double u = unit();
        const counter::Halves key(counter::lane_key(lane.seed, lane.replica >> 1));
        const auto word = [&](std::uint32_t pass, int i) {
            const counter::Halves visit(counter::visit_key(pass, static_cast<std::uint32_t>(i)));
            return counter::word(key, visit, lane.replica % 2 ? 16 : 0);
        };
        const auto field = [&](int i) {
            std::int32_t f = law::units(h[i], 1 / u);
            for (const auto &neighbour : near[i]) f += law::units(neighbour.second, 1 / u) * spins[neighbour.first];
            return f;
        };
        if (lane.random_start)
            for (int i = 0; i < n; ++i) spins[i] = word(counter::start_pass, i) >> 31 ? -1 : 1;
        for (std::size_t s = 0; s < lane.beta.size(); ++s) {
            const std::uint32_t number = lane.first_sweep + static_cast<std::uint32_t>(s);
            const law::Rule rule = law::rule_of(lane.metropolis, number);
            const float rate = law::rate(lane.beta[s], u);
            const auto visit = [&](int i, std::uint32_t pass) {
                const float x = rate * static_cast<float>(field(i));
                spins[i] = law::decide(rule, x, word(pass, i), spins[i] > 0) ? 1 : -1;
            };
            for (const int i : order) visit(i, 2 * number);
            if (!lane.palindromic) continue;
            for (const int i : back) visit(i, 2 * number + 1);
        }
        std::int64_t twice = 0;
        for (int i = 0; i < n; ++i)
            twice += std::int64_t{spins[i]} * (law::units(h[i], 1 / u) + std::int64_t{field(i)});
        return u * static_cast<double>(twice) / 2;
    }
};

}  // namespace check
