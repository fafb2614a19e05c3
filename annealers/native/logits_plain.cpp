#include "logits.hpp"

namespace logits {
const Run plain = run;
}
