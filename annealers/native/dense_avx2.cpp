#include "dense.hpp"

namespace dense {
const Run avx2 = run;
}
