// One instruction set's sparse kernel: which blocks serve which lanes.
#pragma once

#include "colours.hpp"
#include "fixed.hpp"
#include "lanes.hpp"

namespace sparse {
namespace {

template <class Word, bool own_h, bool own_J>
int go(const Job &job, std::int64_t first, int count) {
    Block<Word, own_h, own_J> block(job, first, count);
    if (!block.ready()) return -1;
    if (job.tables) return block.run(Fixed<Block<Word, own_h, own_J>>(block));
    return block.run(Single<Block<Word, own_h, own_J>>(block));
}

template <class Word>
int run(const Job &job, std::int64_t first, int count) {
    if (job.J_stride) return go<Word, true, true>(job, first, count);
    if (job.problems > 1) return go<Word, true, false>(job, first, count);
    return go<Word, false, false>(job, first, count);
}

}  // namespace
}  // namespace sparse
