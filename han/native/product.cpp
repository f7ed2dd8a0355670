// A product of matrices of any layout, for the inputs and gradients of the GRU.

#include <algorithm>

#include "vectors.h"

namespace {

constexpr int64_t DEPTH = 256;                   // rows of B that are multiplied together,
constexpr int64_t WIDTH = TILE_VECTORS * LANES;  // and columns: together they stay in the cache

}  // namespace

// C = A B (+ bias in every row). Element (i, k) of A is a[i * a_row + k * a_depth], element (k, j)
// of B is b[k * b_depth + j * b_column], and C lies row after row.
extern "C" int han_product(int64_t rows, int64_t columns, int64_t depth, const float *a,
                           int64_t a_row, int64_t a_depth, const float *b, int64_t b_depth,
                           int64_t b_column, const float *bias, float *c, Thread thread) {
  const int64_t from = rows * thread.number / thread.of;
  const int64_t to = rows * (thread.number + 1) / thread.of;
  Scratch panel(DEPTH * WIDTH);
  if (!panel) return 1;
  for (int64_t i = from; i < to; i++) {
    if (bias)
      std::memcpy(c + i * columns, bias, (size_t)columns * 4);
    else
      std::memset(c + i * columns, 0, (size_t)columns * 4);
  }
  for (int64_t k = 0; k < depth; k += DEPTH) {
    const int64_t deep = std::min(DEPTH, depth - k);
    for (int64_t j = 0; j < columns; j += WIDTH) {
      const int64_t wide = std::min(WIDTH, columns - j);
      const float *block = b + k * b_depth + j * b_column;
      const bool as_it_lies = b_column == 1 && wide % LANES == 0;
      if (!as_it_lies)
        for (int64_t l = 0; l < deep; l++)
          for (int64_t i = 0; i < wide; i++)
            panel[l * WIDTH + i] = block[l * b_depth + i * b_column];
      multiply(to - from, wide, deep, a + from * a_row + k * a_depth, a_row, a_depth,
               as_it_lies ? block : panel, as_it_lies ? b_depth : WIDTH, true,
               c + from * columns + j, columns);
    }
  }
  return 0;
}
