// Memory for one instruction set's code.
#pragma once

#include <cstdint>
#include <cstdlib>

namespace vec {
namespace {

// Zeros, from the beginning of a cache's line on. No std::vector: one instruction set's copy of its functions might be
// linked into another.
template <class T>
struct Array {
    static constexpr std::size_t line = 64;
    T *data = nullptr;
    Array() = default;
    Array(const Array &) = delete;
    ~Array() { std::free(all); }
    bool resize(std::int64_t n) {
        std::free(all);
        all = std::calloc(static_cast<std::size_t>(n) * sizeof(T) + sizeof(T) + line, 1);
        data = reinterpret_cast<T *>((reinterpret_cast<std::uintptr_t>(all) + line - 1) / line * line);
        return all != nullptr;
    }
    T &operator[](std::int64_t i) const { return data[i]; }

  private:
    void *all = nullptr;
};

}  // namespace
}  // namespace vec
