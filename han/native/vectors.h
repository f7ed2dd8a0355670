// What the compiled loops share: vectors of floats, their functions, and a product of matrices
// whose result stays in registers while it is summed.

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

static inline Vector clamp(Vector x, float lowest, float highest) {
  x = x < lowest ? all(lowest) : x;
  return x > highest ? all(highest) : x;
}

// x = k ln 2 + r with a whole k and a small r: 2^k, and e^r - 1 to 2 units in the last place (the
// polynomial of Cephes' expf). x must lie within -87 and 88.
struct Exponent {
  Vector scale, less_one;

  explicit Exponent(Vector x) {
    const Vector shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23 leaves no fraction
    const Vector k = shifted - 12582912.0f;
    const Vector r = (x - k * 0.693359375f) - k * -2.12194440e-4f;
    Vector p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    less_one = p * (r * r) + r;
    scale = (Vector)(((Integers)shifted << 23) + 0x3f800000);
  }
};

static inline Vector exponential(Vector x) {
  const Exponent e(clamp(x, -87.0f, 88.0f));
  return e.less_one * e.scale + e.scale;
}

static inline Vector sigmoid(Vector x) { return 1.0f / (1.0f + exponential(-x)); }

// (e^2x - 1) / (e^2x + 1), where e^2x - 1 is computed without the loss of what is small.
static inline Vector hyperbolic_tangent(Vector x) {
  const Exponent e(clamp(x + x, -30.0f, 30.0f));
  const Vector less_one = e.less_one * e.scale + (e.scale - 1.0f);
  return less_one / (less_one + 2.0f);
}

static inline Vector square_root(Vector x) {
  for (int i = 0; i < LANES; i++) x[i] = __builtin_sqrtf(x[i]);
  return x;
}

static inline void prefetch(const float *from, int64_t floats) {
  for (int64_t i = 0; i < floats; i += 16) __builtin_prefetch(from + i);
}

static inline float sum(Vector x) {
  float total = 0;
  for (int i = 0; i < LANES; i++) total += x[i];
  return total;
}

// One tile of `multiply`: ROWS x VECTORS registers of sums over the whole depth.
template <int ROWS, int VECTORS>
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
      for (int j = 0; j < VECTORS; j++) sums[i][j] += factor * factors[j];
    }
  }
  for (int i = 0; i < ROWS; i++)
    for (int j = 0; j < VECTORS; j++)
      store(c + i * c_row + j * LANES, sums[i][j], j == VECTORS - 1 ? last : LANES);
}

template <int ROWS, int VECTORS>
static inline void multiply_rows(int64_t rows, int64_t columns, int64_t depth, const float *a,
                                 int64_t a_row, int64_t a_depth, const float *b, int64_t b_depth,
                                 bool add, float *c, int64_t c_row) {
  for (; rows >= ROWS; rows -= ROWS, a += ROWS * a_row, c += ROWS * c_row)
    multiply_tile<ROWS, VECTORS>(columns, depth, a, a_row, a_depth, b, b_depth, add, c, c_row);
  if constexpr (ROWS > 1)
    if (rows > 0)
      multiply_rows<ROWS - 1, VECTORS>(rows, columns, depth, a, a_row, a_depth, b, b_depth, add, c,
                                       c_row);
}

template <int VECTORS>
static inline void multiply_columns(int64_t rows, int64_t columns, int64_t depth, const float *a,
                                    int64_t a_row, int64_t a_depth, const float *b,
                                    int64_t b_depth, bool add, float *c, int64_t c_row) {
  constexpr int64_t WIDTH = VECTORS * LANES;
  for (; columns > WIDTH - LANES; columns -= WIDTH, b += WIDTH, c += WIDTH)
    multiply_rows<TILE_ROWS, VECTORS>(rows, columns < WIDTH ? columns : WIDTH, depth, a, a_row,
                                      a_depth, b, b_depth, add, c, c_row);
  if constexpr (VECTORS > 1)
    if (columns > 0)
      multiply_columns<VECTORS - 1>(rows, columns, depth, a, a_row, a_depth, b, b_depth, add, c,
                                    c_row);
}

// C = A B, or C += A B with `add`. Element (i, k) of A is a[i * a_row + k * a_depth], row k of B
// starts at b + k * b_depth and is read in whole vectors (`padded(columns)` floats), row i of C
// starts at c + i * c_row. Each sum runs over k in order, whatever the shape: a row of C does not
// depend on the other rows.
static inline void multiply(int64_t rows, int64_t columns, int64_t depth, const float *a,
                            int64_t a_row, int64_t a_depth, const float *b, int64_t b_depth,
                            bool add, float *c, int64_t c_row) {
  multiply_columns<TILE_VECTORS>(rows, columns, depth, a, a_row, a_depth, b, b_depth, add, c,
                                 c_row);
}

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
