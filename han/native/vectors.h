// What the compiled loops share: vectors of floats, their functions, and a product of matrices
// whose result stays in registers while it is summed, in single precision or of bfloat16.

#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16, TILE_VECTORS = 4;  // 32 registers
#elif defined(__AVX__)
constexpr int LANES = 8, TILE_VECTORS = 2;  // 16 registers
#else
constexpr int LANES = 4, TILE_VECTORS = 2;
#endif
constexpr int TILE_ROWS = 6;

// Floats may start at any address.
typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Integers __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

static inline Vector load(const float *from) { return *(const Vector *)from; }
static inline void store(float *to, Vector value) { *(Vector *)to = value; }

// The first `lanes` floats alone, for the end of a row: nothing beyond it is read or written.
static inline Vector load(const float *from, int64_t lanes) {
  if (lanes >= LANES) return load(from);
#if defined(__AVX512F__)
  return (Vector)_mm512_maskz_loadu_ps((__mmask16)((1 << lanes) - 1), from);
#else
  Vector value = {};
  for (int64_t i = 0; i < lanes; i++) value[i] = from[i];
  return value;
#endif
}

static inline void store(float *to, Vector value, int64_t lanes) {
  if (lanes >= LANES) return store(to, value);
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(to, (__mmask16)((1 << lanes) - 1), (__m512)value);
#else
  for (int64_t i = 0; i < lanes; i++) to[i] = value[i];
#endif
}

static inline Vector all(float value) { return Vector{} + value; }

// The number of floats in the fewest whole vectors that hold `width` of them.
static inline int64_t padded(int64_t width) { return (width + LANES - 1) / LANES * LANES; }

// What is no number stays none.
static inline Vector clamp(Vector x, float lowest, float highest) {
#if defined(__AVX512F__)
  const __m512 above = _mm512_max_ps((__m512)all(lowest), (__m512)x);
  return (Vector)_mm512_min_ps((__m512)all(highest), above);
#else
  x = x < lowest ? all(lowest) : x;
  return x > highest ? all(highest) : x;
#endif
}

// The nearest whole number, for |x| < 2^22.
static inline Vector round(Vector x) {
#if defined(__AVX512F__)
  return (Vector)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT);
#else
  return (x + 12582912.0f) - 12582912.0f;  // 1.5 * 2^23 leaves no room for a fraction
#endif
}

// x 2^k for a whole k of -126 to 126.
static inline Vector scale(Vector x, Vector k) {
#if defined(__AVX512F__)
  return (Vector)_mm512_scalef_ps((__m512)x, (__m512)k);
#else
  return x * (Vector)(((Integers)(k + 12582912.0f) << 23) + 0x3f800000);
#endif
}

// 2^t = 2^k (1 + less_one) with a whole k, where less_one = 2^f - 1 for |f| <= 1/2 comes from a
// polynomial with a relative error of 1.2e-7 (a least-squares fit, reweighted towards the minimax).
struct PowerOfTwo {
  Vector k, less_one;

  explicit PowerOfTwo(Vector t) {
    k = round(t);
    const Vector f = t - k;
    Vector p = all(1.540350786e-4f);
    p = p * f + 1.339073642e-3f;
    p = p * f + 9.618237615e-3f;
    p = p * f + 5.550357327e-2f;
    p = p * f + 2.402264923e-1f;
    p = p * f + 6.931471825e-1f;
    less_one = p * f;
  }
};

constexpr float LOG2_E = 1.44269504f;

static inline Vector exponential(Vector x) {
  const PowerOfTwo e(clamp(x * LOG2_E, -126.0f, 126.0f));
  return scale(e.less_one + 1.0f, e.k);
}

// Both limits below are beyond what a float of the result, or of its use in a sum, can tell.
static inline Vector sigmoid(Vector x) {
  const PowerOfTwo e(clamp(x * -LOG2_E, -60.0f, 60.0f));
  return 1.0f / (1.0f + scale(e.less_one + 1.0f, e.k));
}

// (e^2x - 1) / (e^2x + 1), where e^2x - 1 is computed without the loss of what is small.
static inline Vector hyperbolic_tangent(Vector x) {
  const PowerOfTwo e(clamp(x * (2.0f * LOG2_E), -60.0f, 60.0f));
  const Vector power = scale(all(1.0f), e.k);
  const Vector less_one = e.less_one * power + (power - 1.0f);
  return less_one / (less_one + 2.0f);
}

static inline Vector square_root(Vector x) {
  for (int i = 0; i < LANES; i++) x[i] = __builtin_sqrtf(x[i]);
  return x;
}

static inline void prefetch(const float *from, int64_t floats) {
  for (int64_t i = 0; i < floats; i += 16) __builtin_prefetch(from + i);
}

// Added up in pairs, which can be done side by side.
static inline float sum(Vector x) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)x);
#else
  float parts[LANES];
  store(parts, x);
  for (int width = LANES / 2; width > 0; width /= 2)
    for (int i = 0; i < width; i++) parts[i] += parts[i + width];
  return parts[0];
#endif
}

// Whether `Bfloat16` can be used: this build has it, and this processor its instructions.
extern "C" int han_has_bfloat16();

// What `multiply` multiplies, and how; its sums are in single precision. A matrix lies in lanes of
// four bytes, each of which holds DEPTH numbers: one below the other in B, side by side in A.
struct Float32 {
  static constexpr int64_t DEPTH = 1;
  static Vector multiply_add(Vector a, Vector b, Vector sum) { return sum + a * b; }
  static void put(float *lane, int64_t, float number) { *lane = number; }
};

#if defined(__AVX512F__) && (__GNUC__ >= 10 || __clang_major__ >= 9)
#define HAN_BFLOAT16

// The instructions are spelled out: they are not among those that this is compiled to.
struct Bfloat16 {
  static constexpr int64_t DEPTH = 2;
  typedef uint16_t Numbers __attribute__((vector_size(2 * LANES), aligned(4), may_alias));

  static Vector multiply_add(Vector a, Vector b, Vector sum) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
  }

  // The nearest bfloat16, of two that are as near the even one.
  static Numbers round(Vector x) {
    Numbers rounded;
    asm("vcvtneps2bf16 %1, %0" : "=v"(rounded) : "v"(x));
    return rounded;
  }

  static void put(float *lane, int64_t k, float number) {
    const uint16_t rounded = round(all(number))[0];
    std::memcpy((uint16_t *)lane + k, &rounded, sizeof rounded);
  }

  // Numbers j to j + LANES of a row of A.
  static void store(float *row, int64_t j, Vector numbers) {
    *(Numbers *)(row + j / DEPTH) = round(numbers);
  }
};
#else
using Bfloat16 = Float32;
#endif

// In how many lanes so many numbers are.
template <typename Format>
static inline int64_t lanes_of(int64_t depth) {
  return (depth + Format::DEPTH - 1) / Format::DEPTH;
}

// Lay out W (rows, depth), row after row, as B for `multiply`: its transpose, whose rows are
// `padded(rows)` long. What is beyond its numbers stays as it is: zero.
template <typename Format>
static inline void transpose(const float *w, int64_t rows, int64_t depth, float *b) {
  const int64_t row = padded(rows);
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < depth; j++)
      Format::put(b + j / Format::DEPTH * row + i, j % Format::DEPTH, w[i * depth + j]);
}

// One tile of `multiply`: ROWS x VECTORS registers of sums over the whole depth.
template <typename Format, int ROWS, int VECTORS>
static inline void multiply_tile(int64_t columns, int64_t depth, const float *a, int64_t a_row,
                                 int64_t a_depth, const float *b, int64_t b_depth, bool add,
                                 float *c, int64_t c_row) {
  const int64_t last = columns - (VECTORS - 1) * LANES;
  Vector sums[ROWS][VECTORS];
  for (int i = 0; i < ROWS; i++)
    for (int j = 0; j < VECTORS; j++)
      sums[i][j] = !add ? Vector{}
                        : load(c + i * c_row + j * LANES, j == VECTORS - 1 ? last : LANES);
  for (int64_t k = 0; k < depth; k++) {
    Vector factors[VECTORS];
    for (int j = 0; j < VECTORS; j++) factors[j] = load(b + k * b_depth + j * LANES);
    for (int i = 0; i < ROWS; i++) {
      const Vector factor = all(a[i * a_row + k * a_depth]);
      for (int j = 0; j < VECTORS; j++)
        sums[i][j] = Format::multiply_add(factor, factors[j], sums[i][j]);
    }
  }
  for (int i = 0; i < ROWS; i++)
    for (int j = 0; j < VECTORS; j++)
      store(c + i * c_row + j * LANES, sums[i][j], j == VECTORS - 1 ? last : LANES);
}

template <typename Format, int ROWS, int VECTORS>
static inline void multiply_rows(int64_t rows, int64_t columns, int64_t depth, const float *a,
                                 int64_t a_row, int64_t a_depth, const float *b, int64_t b_depth,
                                 bool add, float *c, int64_t c_row) {
  for (; rows >= ROWS; rows -= ROWS, a += ROWS * a_row, c += ROWS * c_row)
    multiply_tile<Format, ROWS, VECTORS>(columns, depth, a, a_row, a_depth, b, b_depth, add, c,
                                         c_row);
  if constexpr (ROWS > 1)
    if (rows > 0)
      multiply_rows<Format, ROWS - 1, VECTORS>(rows, columns, depth, a, a_row, a_depth, b, b_depth,
                                               add, c, c_row);
}

template <typename Format, int VECTORS>
static inline void multiply_columns(int64_t rows, int64_t columns, int64_t depth, const float *a,
                                    int64_t a_row, int64_t a_depth, const float *b,
                                    int64_t b_depth, bool add, float *c, int64_t c_row) {
  constexpr int64_t WIDTH = VECTORS * LANES;
  for (; columns > WIDTH - LANES; columns -= WIDTH, b += WIDTH, c += WIDTH)
    multiply_rows<Format, TILE_ROWS, VECTORS>(rows, columns < WIDTH ? columns : WIDTH, depth, a,
                                              a_row, a_depth, b, b_depth, add, c, c_row);
  if constexpr (VECTORS > 1)
    if (columns > 0)
      multiply_columns<Format, VECTORS - 1>(rows, columns, depth, a, a_row, a_depth, b, b_depth,
                                            add, c, c_row);
}

// C = A B, or C += A B with `add`. Lane (i, k) of A is a[i * a_row + k * a_depth], row k of B
// starts at b + k * b_depth and is read in whole vectors (`padded(columns)` lanes), row i of C
// starts at c + i * c_row; `depth` is in lanes. Each sum runs over k in order, whatever the shape:
// a row of C does not depend on the other rows.
template <typename Format = Float32>
static inline void multiply(int64_t rows, int64_t columns, int64_t depth, const float *a,
                            int64_t a_row, int64_t a_depth, const float *b, int64_t b_depth,
                            bool add, float *c, int64_t c_row) {
  multiply_columns<Format, TILE_VECTORS>(rows, columns, depth, a, a_row, a_depth, b, b_depth, add,
                                         c, c_row);
}

// One of the threads that share the work of a call.
struct Thread {
  int64_t number, of;
  int64_t *taken;  // how many pieces of work are, counted for all threads together

  // The next piece that nobody has: for work whose result does not depend on who does it.
  int64_t take() const { return __atomic_fetch_add(taken, 1, __ATOMIC_RELAXED); }
};

// Memory for the time of a call: aligned to cache lines, and filled with zeros.
class Scratch {
 public:
  explicit Scratch(int64_t floats)
      : memory_(std::aligned_alloc(64, (size_t)(floats * 4 + 127) / 64 * 64)) {
    if (memory_) std::memset(memory_, 0, (size_t)floats * 4);
  }
  ~Scratch() { std::free(memory_); }
  Scratch(const Scratch &) = delete;
  Scratch &operator=(const Scratch &) = delete;
  operator float *() const { return (float *)memory_; }

 private:
  void *memory_;
};
