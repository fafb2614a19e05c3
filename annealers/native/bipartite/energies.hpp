// Energies of the filter's blocks, from the exact fields of the side that is visited last:
//
//     E = u (sum of s f over that side + sum of s H over the other side)
//
// The last pass of a call makes them on its way: what its tables leave out of a field lies in tables of remainders
// (tables.hpp), of a third of their size. Sums are of integers: a number of 32 bits is added up as 2^16 upper + lower,
// which 32 bits hold for 2^12 spins.
#pragma once

#include "../vec/array.hpp"
#include "exact.hpp"
#include "tables.hpp"

#if defined(HAS_BYTES)
namespace bipartite {
namespace {

// Of the blocks of `Filter` (filter.hpp).
template <class Filter>
struct Energies {
    typedef Wide::V V;
    static constexpr int numbers = Wide::size / 2, vectors = filter_lanes / Wide::size, pairs = filter_lanes / 2;

    // A spin in the lanes of a block: floor(Y / 16), the rest of Y, and all ones where it is +1, else 0.
    struct Seen {
        alignas(64) std::int16_t field[filter_lanes], rest[filter_lanes], up[filter_lanes];
    };

    static constexpr std::int64_t most_at_once = 512;

    const Filter &filter;
    const Job &job;
    const int side;
    const std::int64_t row, groups, bytes;     // couplings of a spin of the side, in fours, of an exact table
    Array<std::uint8_t> memory;
    std::uint8_t *tables = nullptr;            // two
    Array<std::int32_t> fields;                // [2, row]: of the other side, see `make_fields`
    Array<std::int32_t> upper, lower;          // [blocks, 2, pairs]: of the sums of -s f, in even lanes and in odd ones
    bool ready = false;

    explicit Energies(const Filter &of)
        : filter(of), job(of.job), side(of.job.last()), row(job.rounded.row[side]), groups(of.groups[1 - side]),
          bytes(table_bytes(exact_planes, row)) {
        const std::int64_t lanes = of.blocks * filter_lanes;
        if (!memory.resize(2 * bytes + 64) || !fields.resize(2 * row) || !upper.resize(lanes) || !lower.resize(lanes))
            return;
        tables = memory.data + (64 - reinterpret_cast<std::uintptr_t>(memory.data) % 64) % 64;
        ready = true;
    }

    // Of the 16-bit numbers of a pair of lanes, with sign or without.
    static I number(U both, int odd) { return (I)(odd ? both : both << 16) >> 16; }
    static U count(U both, int odd) { return odd ? both >> 16 : both & 0xFFFFu; }

    // Of spin i of the side in a block: base + 2^drop Y + the remainders that its inputs look up.
    struct Fields {
        U f[2][pairs / W];  // of even lanes and of odd ones
        Fields(const Energies &of, std::int64_t i, std::int64_t block, const Seen &seen, std::int32_t base, int drop) {
            for (int p = 0; p < pairs; p += W)
                for (int odd = 0; odd < 2; ++odd) {
                    const U field = (U)number(load<U>(&seen.field[2 * p]), odd);
                    const U Y = (field << 4) + count(load<U>(&seen.rest[2 * p]), odd);
                    f[odd][p / W] = usplat(static_cast<std::uint32_t>(base)) + (Y << drop);
                }
            for (int part = 0; part < 1 + (drop > 8); ++part)
                for (std::int64_t from = 0; from < of.groups; from += most_at_once)
                    look_up(of, of.job.tables.remainders[part] + 4 * of.row * i, from, block, drop, part);
        }
        std::int32_t of(int l) const { return static_cast<std::int32_t>(f[l % 2][l / 2 / W][l / 2 % W]); }

        // Remainders, upper parts or lower ones, of some of a block's inputs.
        __attribute__((always_inline)) void look_up(const Energies &of, const std::uint8_t *table, std::int64_t from,
                                                    std::int64_t block, int drop, int part) {
            constexpr int at_once = vectors < 2 ? 1 : 2;
            const std::int64_t some = of.groups - from < most_at_once ? of.groups - from : most_at_once;
            for (int v = 0; v < vectors; v += at_once) {
                V sums[at_once][2];
                const std::uint8_t *state = of.filter.at(1 - of.side, block, from) + v * Wide::size;
                add_remainders<Wide, at_once>(table + 16 * from, state, some, sums);
                const auto *both = reinterpret_cast<const char *>(sums);
                for (int p = 0; p < at_once * numbers; p += W, both += 4 * W)
                    for (int odd = 0; odd < 2; ++odd) {
                        const U sum = count(load<U>(both), odd) << (part ? 0 : 5);
                        f[odd][(v * numbers + p) / W] += sum >> (most_drop - drop);
                    }
            }
        }
    };
    // s f of a spin in a block.
    void add(std::int64_t block, const Fields &fields, const Seen &seen) {
        std::int32_t *high = &upper[block * filter_lanes], *low = &lower[block * filter_lanes];
        for (int p = 0; p < pairs; p += W)
            for (int odd = 0; odd < 2; ++odd) {
                const I up = number(load<U>(&seen.up[2 * p]), odd), x = ((I)fields.f[odd][p / W] ^ up) - up;
                const int at = odd * pairs + p;
                store(high + at, load<I>(high + at) + (x >> 16));
                store(low + at, load<I>(low + at) + (x & 0xFFFF));
            }
    }
    void clear() {
        const auto size = static_cast<std::size_t>(filter.blocks) * filter_lanes * sizeof(std::int32_t);
        std::memset(&upper[0], 0, size), std::memset(&lower[0], 0, size);
    }

    // The fields H of the other side are two rows of couplings more, of their lower halves and of their upper ones: the
    // sum of s H is 2 (sum of H where s is +1) - sum of H.
    std::int64_t make_fields(std::int64_t block) {
        std::int64_t sum = 0;
        for (std::int64_t j = 0; j < filter.n[1 - side]; ++j) {
            const std::int32_t H = filter.field_of(block, (side ? 0 : job.n) + j);
            fields[j] = H & 0xFFFF, fields[row + j] = H >> 16, sum += H;
        }
        for (int half = 0; half < 2; ++half) make_exact_table(&fields[half * row], row, tables + half * bytes);
        return sum;
    }
    // What chains of a block look up in an exact table.
    void sum_up(const std::uint8_t *table, std::int64_t block, std::int32_t *number) const {
        std::uint16_t plane[exact_planes][filter_lanes];
        for (int v = 0; v < vectors; ++v) {
            PlaneSums<Wide, exact_planes, 1> sums;
            const std::uint32_t none = 0;
            add_up(table, filter.at(1 - side, block, 0) + v * Wide::size, 0, groups, &none, sums);
            for (int odd = 0; odd < 2; ++odd) {
                const int lane = (2 * v + odd) * numbers;
                for (int p = 0; p + 1 < exact_planes; ++p) Wide::store(&plane[p][lane], sums.plane[p][0][odd]);
                const V top = odd ? Wide::right16<8>(sums.top[0]) : Wide::bit_and(sums.top[0], Wide::all16(0xFF));
                Wide::store(&plane[exact_planes - 1][lane], top);
            }
        }
        for (int l = 0; l < filter_lanes; ++l) {
            std::uint32_t x = 0;
            for (int p = exact_planes; p-- > 0;) x = (x << 6) + plane[p][l];
            number[l] = static_cast<std::int32_t>(x);
        }
    }
    void write() {
        std::int64_t sum = 0;
        for (std::int64_t block = 0; block < filter.blocks; ++block) {
            if (!block || filter.problem(block) != filter.problem(block - 1)) sum = make_fields(block);
            std::int32_t half[2][filter_lanes];
            for (int k = 0; k < 2; ++k) sum_up(tables + k * bytes, block, half[k]);
            for (int l = 0; l < filter.count(block); ++l) {
                const std::int64_t at = block * filter_lanes + l % 2 * pairs + l / 2;
                const std::int64_t f = -(upper[at] * std::int64_t{65536} + lower[at]);
                const std::int64_t H = half[1][l] * std::int64_t{65536} + half[0][l];
                job.energy[filter.lane(block) + l] = static_cast<double>(f + 2 * H - sum) * job.unit[0];
            }
        }
    }
};

}  // namespace
}  // namespace bipartite
#endif
