// The filter's bound, exhaustively: all 2^16 fields of 16 bits, against every real field that rounds to them.
#include <algorithm>
#include <cmath>
#include <vector>

#include "../law/filter.hpp"
#include "../law/unit.hpp"
#include "../run/isa.hpp"
#include "chance.hpp"
#include "checks.hpp"
#include "probe.hpp"

namespace probe {

#if defined(__x86_64__)
extern const Answer plain, sse41, avx2, avx512;
#elif defined(__aarch64__)
extern const Answer plain, neon;
#else
extern const Answer plain;
#endif

Answer of(const std::string &name) {
#if defined(__x86_64__)
    if (name == "avx512") return avx512;
    if (name == "avx2") return avx2;
    if (name == "sse41") return sse41;
#elif defined(__aarch64__)
    if (name == "neon") return neon;
#endif
    return plain;
}

}  // namespace probe

namespace check {

namespace {

using law::Rule;

struct Setting {
    double unit;  // of fields in 16 bits, as single precision has it
    int rounded;
    float beta[probe::lanes];
    bool own_beta;
    double law_unit;
};

// The largest beta, one in two; smaller ones of any size; and 0.
Setting random_setting(int number) {
    Setting setting{};
    setting.rounded = number % 4 ? 1 + below(8) : 1 + below(80);
    setting.unit = static_cast<double>(static_cast<float>(std::ldexp(1 + uniform(), below(81) - 50)));
    setting.own_beta = number % 3 == 2;
    // The largest field is of some 32766 units, and 2^26 to 2^27 units of the law, or up to 2^30 where h is large.
    setting.law_unit = law::unit(setting.unit * 32760, 0) * std::ldexp(1.0, -below(4));
    const double largest = law::widest / law::field_error(1, setting.unit, setting.rounded);
    float coldest = static_cast<float>(largest);
    while (law::field_error(static_cast<double>(coldest), setting.unit, setting.rounded) > law::widest)
        coldest = std::nextafter(coldest, 0.0f);
    const int kind = below(8);
    if (kind > 3) coldest = static_cast<float>(coldest * std::exp(-10 * uniform()));
    if (kind == 6) coldest = static_cast<float>(std::ldexp(coldest, -40));
    if (kind == 7) coldest = 0;
    for (float &beta : setting.beta) {
        const int size = below(4);
        const double part = uniform();
        beta = !setting.own_beta || size == 0 ? coldest : size == 1 ? 0.0f : static_cast<float>(coldest * part);
    }
    setting.beta[0] = coldest;
    return setting;
}

// By this logit the spin becomes +1 (heat bath) or is flipped (Metropolis) where 16 bits, less 2^15, are below this.
double exact_threshold(Rule rule, bool up, double x) {
    if (rule == Rule::heat_bath) return 65536 / (1 + std::exp(x)) - 32768;
    return 65536 * std::exp(std::fmin(0.0, up ? x : -x)) - 32768;
}

// Whether the law does so at a field of f of its units.
bool does(Rule rule, bool up, float rate, double f, std::int64_t upper, std::uint32_t lower) {
    const std::uint32_t word = static_cast<std::uint32_t>(upper + 32768) << 16 | lower;
    const float x = rate * static_cast<float>(static_cast<std::int32_t>(f));
    return law::decide(rule, x, word, up) != (rule == Rule::metropolis && up);
}

struct Count {
    std::int64_t fields = 0, loose = 0, wrong = 0;  // thresholds beyond the margin, decisions against the law
    double margin = 0;                              // the part of it that was ever needed
};

void examine(const Setting &setting, Rule rule, bool up, probe::Answer answer, Count &count) {
    constexpr int all = 65536;
    static std::vector<std::int16_t> field(all), threshold(all), margin(all);
    // But for -2^15, which no field reaches: the largest is 32766 less the roundings (`Shared::filters`).
    for (int k = 0; k < all; ++k) field[k] = static_cast<std::int16_t>(std::max(k - 32768, -32767));
    // Fields meet lanes of other betas each time.
    if (setting.own_beta)
        for (int k = all - 1; k > 0; --k) std::swap(field[k], field[below(k + 1)]);
    const probe::Question question{rule, up, setting.own_beta, setting.beta, setting.unit, setting.rounded};
    answer(question, field.data(), all, threshold.data(), margin.data());
    const double off = 0.51 * setting.rounded, steps = setting.unit / setting.law_unit;
    for (int k = 0; k < all; ++k) {
        const float beta = setting.beta[setting.own_beta ? k % probe::lanes : 0];
        const double scale = 2 * static_cast<double>(beta) * setting.unit;
        const float rate = law::rate(beta, setting.law_unit);
        ++count.fields;
        for (const double end : {field[k] - off, field[k] + off}) {
            const double distance = std::fabs(exact_threshold(rule, up, scale * end) - threshold[k]);
            count.loose += distance > margin[k] - 1;
            count.margin = std::fmax(count.margin, distance / (margin[k] - 1));
            // The nearest words that the filter decides.
            const double f = end < field[k] ? std::ceil(end * steps) : std::floor(end * steps);
            const int last = threshold[k] - margin[k], first = threshold[k] + margin[k];
            if (last >= -32768) count.wrong += !does(rule, up, rate, f, last, 0xFFFF);
            if (first <= 32767) count.wrong += does(rule, up, rate, f, first, 0);
        }
    }
}

}  // namespace

std::int64_t bound(int settings) {
    std::int64_t bad = 0;
    for (const isa::Set &set : isa::sets()) {
        const probe::Answer answer = probe::of(set.name);
        if (!answer) continue;
        rng().seed(7);
        Count count;
        for (int number = 0; number < settings; ++number) {
            const Setting setting = random_setting(number);
            examine(setting, Rule::heat_bath, true, answer, count);
            examine(setting, Rule::metropolis, number % 2, answer, count);
        }
        std::printf("bound, %s: %lld fields at %d settings, %lld thresholds beyond it (%.2f of it used), "
                    "%lld decisions against the law\n", set.name, static_cast<long long>(count.fields), settings,
                    static_cast<long long>(count.loose), count.margin, static_cast<long long>(count.wrong));
        bad += count.loose + count.wrong;
    }
    return bad;
}

}  // namespace check
