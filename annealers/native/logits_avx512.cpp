#include "logits.hpp"

namespace logits {
const Run avx512 = run;
}
