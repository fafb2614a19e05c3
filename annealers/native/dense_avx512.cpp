#include "dense.hpp"

namespace dense {
const Run avx512 = run;
}
