// See probe.hpp; compiled for each instruction set, which QSAMPLE_ISA names.
#include "probe.hpp"

#include "../sparse/filter.hpp"

namespace probe {

extern const Answer QSAMPLE_ISA;

#if defined(HAS_BYTES)
namespace {

template <bool own_beta, law::Rule rule>
void ask(const Question &question, const std::int16_t *field, int count, std::int16_t *threshold,
         std::int16_t *margin) {
    using vec::Wide;
    sparse::Decisions<Wide, lanes, own_beta> decisions;
    decisions.heat(question.beta, [&](int) { return question.unit; }, question.rounded);
    const auto constants = decisions.template constants<rule>();
    const Wide::V down = Wide::all8(question.up ? 0 : -1), half = Wide::all16(-1);
    for (int at = 0; at < count; at += decisions.numbers) {
        const int q = at % lanes / decisions.numbers;
        const auto outcome = decisions.template decide<rule>(q, Wide::load(field + at), half, down, constants);
        // below = -1 - threshold, which never is cut; open = |below| - margin.
        Wide::store(threshold + at, Wide::sub16(half, outcome.below));
        Wide::store(margin + at, Wide::sub16(Wide::size16(outcome.below), outcome.open));
    }
}
template <bool own_beta>
void ask(const Question &question, const std::int16_t *field, int count, std::int16_t *threshold,
         std::int16_t *margin) {
    if (question.rule == law::Rule::heat_bath)
        ask<own_beta, law::Rule::heat_bath>(question, field, count, threshold, margin);
    else
        ask<own_beta, law::Rule::metropolis>(question, field, count, threshold, margin);
}
void answer(const Question &question, const std::int16_t *field, int count, std::int16_t *threshold,
            std::int16_t *margin) {
    question.own_beta ? ask<true>(question, field, count, threshold, margin)
                      : ask<false>(question, field, count, threshold, margin);
}

}  // namespace
const Answer QSAMPLE_ISA = answer;
#else
const Answer QSAMPLE_ISA = nullptr;
#endif

}  // namespace probe
