// Random graphs with given colours, as the sparse kernel takes them.
#pragma once

#include <algorithm>
#include <utility>

#include "../sparse/job.hpp"
#include "chance.hpp"

namespace check {

// Spins i and j of different colours are neighbours with probability `density`.
struct Graph {
    std::vector<std::int32_t> order, place, start, near, edge, colour{0};
    int n, k = 0;

    Graph(int spins, int largest_colour, double density) : n(spins) {
        std::vector<int> paint(n);
        for (int at = 0; at < n;) {
            const int end = std::min(n, at + 1 + below(largest_colour));
            for (; at < end; ++at) paint[at] = static_cast<int>(colour.size());
            colour.push_back(end);
        }
        for (int i = 0; i < n; ++i) order.push_back(i);
        for (int i = n - 1; i > 0; --i) std::swap(order[i], order[below(i + 1)]);
        place.resize(n);
        for (int i = 0; i < n; ++i) place[order[i]] = i;
        std::vector<std::vector<std::pair<int, int>>> to(n);
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < i; ++j)
                if (paint[i] != paint[j] && uniform() < density) {
                    to[i].emplace_back(j, k), to[j].emplace_back(i, k);
                    ++k;
                }
        start.push_back(0);
        for (const auto &ends : to) {
            for (const auto &end : ends) near.push_back(end.first), edge.push_back(end.second);
            start.push_back(static_cast<std::int32_t>(near.size()));
        }
    }

    void into(sparse::Job &job) const {
        job.n = n, job.order = order.data(), job.place = place.data();
        job.start = start.data(), job.near = near.data(), job.edge = edge.data();
        job.colour = colour.data(), job.colours = static_cast<int>(colour.size()) - 1;
    }
};

}  // namespace check
