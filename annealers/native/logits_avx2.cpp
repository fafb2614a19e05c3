#include "logits.hpp"

namespace logits {
const Run avx2 = run;
}
