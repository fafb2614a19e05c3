// What a call gives back, and its digest.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

namespace check {

struct Result {
    std::vector<std::int8_t> spins;  // of exactly the size that a kernel may touch
    std::vector<double> energy;
    std::vector<std::int32_t> done;

    Result(std::int64_t lanes, std::int64_t n) : spins(lanes * n, 1), energy(lanes), done(lanes) {}
    bool operator==(const Result &o) const { return spins == o.spins && energy == o.energy && done == o.done; }
    template <class Job>
    void into(Job &job) {
        job.spins = spins.data(), job.energy = energy.data(), job.done = done.data();
    }
};

// FNV-1a. No pointer and no time goes in: two machines that compute the same print the same.
class Digest {
  public:
    void add(const void *data, std::size_t bytes) {
        for (std::size_t k = 0; k < bytes; ++k)
            value_ = (value_ ^ static_cast<const unsigned char *>(data)[k]) * 0x100000001B3u;
    }
    template <class T>
    void add(const std::vector<T> &all) {
        add(all.data(), all.size() * sizeof(T));
    }
    void add(const Result &result) { add(result.spins), add(result.energy), add(result.done); }
    unsigned long long value() const { return value_; }

  private:
    std::uint64_t value_ = 0xCBF29CE484222325u;
};

}  // namespace check
