// Memory for one instruction set's code.
#pragma once

#include <cstdint>
#include <cstdlib>

namespace vec {
namespace {

// Zeros. No std::vector: one instruction set's copy of its functions might be linked into another.
template <class T>
struct Array {
    T *data = nullptr;
    Array() = default;
    Array(const Array &) = delete;
    ~Array() { std::free(data); }
    bool resize(std::int64_t n) {
        data = static_cast<T *>(std::calloc(static_cast<std::size_t>(n) + 1, sizeof(T)));
        return data != nullptr;
    }
    T &operator[](std::int64_t i) const { return data[i]; }
};

}  // namespace
}  // namespace vec
