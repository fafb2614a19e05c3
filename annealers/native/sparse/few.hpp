// The sparse kernel for a few replicas of one problem.
#pragma once

#include "exact.hpp"

namespace sparse {
namespace {

int run_few(const Job &job, std::int64_t first, int count) { return run_exact<std::uint32_t>(job, first, count); }

}  // namespace
}  // namespace sparse
