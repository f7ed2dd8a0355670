// Whether this library's functions have the arguments that the caller knows, and this processor the
// instructions that the library was compiled to, and perhaps those of bfloat16.

#include "vectors.h"

constexpr int64_t INTERFACE = 2;  // as in han/native/__init__.py; other arguments, another number

extern "C" int han_runs_here(int64_t interface) {
  if (interface != INTERFACE) return 0;
#if defined(__AVX512F__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
#elif defined(__AVX2__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") &&
         __builtin_cpu_supports("fma");
#else
  return 1;
#endif
}

extern "C" int han_has_bfloat16() {
#if defined(HAN_BFLOAT16)
  return __builtin_cpu_supports("avx512bf16");
#else
  return 0;
#endif
}
