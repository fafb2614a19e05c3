#include "dense.hpp"

namespace dense {
const Run plain = run;
}
