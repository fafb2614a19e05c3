// Memory that a call hands on to the next one: tables of megabytes, which to get afresh costs as much as to fill.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <utility>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace bipartite {

class Kept {
  public:
    Kept() = default;
    Kept(const Kept &) = delete;
    ~Kept() {
        const std::lock_guard<std::mutex> lock(mutex());
        if (mine_.size <= most_kept && mine_.size > kept().size) std::swap(mine_, kept());
        std::free(mine_.data);
    }

    // Room for so many bytes in all, with those that `take` skips. Throws std::bad_alloc.
    void need(std::size_t bytes) {
        {
            const std::lock_guard<std::mutex> lock(mutex());
            std::swap(mine_, kept());
        }
        if (mine_.size >= bytes) return;
        std::free(mine_.data);
        mine_ = {};
        const std::size_t align = bytes < page / 2 ? 64 : page, size = (bytes + align - 1) / align * align;
        mine_.data = static_cast<std::uint8_t *>(std::aligned_alloc(align, size));
        if (!mine_.data) throw std::bad_alloc();
        mine_.size = size;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
        // A fifth of the time of a sweep; an error changes nothing.
        if (align == page) madvise(mine_.data, size, MADV_HUGEPAGE);
#endif
    }
    template <class T>
    T *take(std::int64_t count) {
        T *const at = reinterpret_cast<T *>(mine_.data + taken_);
        taken_ += (static_cast<std::size_t>(count) * sizeof(T) + 63) / 64 * 64;
        return at;
    }

  private:
    static constexpr std::size_t page = std::size_t{2} << 20, most_kept = std::size_t{64} << 20;
    struct Memory {
        std::uint8_t *data = nullptr;
        std::size_t size = 0;
    };
    Memory mine_;
    std::size_t taken_ = 0;

    static Memory &kept() {
        static Memory memory;
        return memory;
    }
    static std::mutex &mutex() {
        static std::mutex lock;
        return lock;
    }
};

}  // namespace bipartite
