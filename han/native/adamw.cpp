// AdamW (Loshchilov & Hutter 2019) on some rows of a parameter, without weight decay.

#include <algorithm>
#include <initializer_list>

#include "vectors.h"

extern "C" int han_adamw_rows(float *parameter, float *mean, float *square, const int64_t *rows,
                              const float *grads, int64_t count, int64_t width, double rate,
                              double beta_mean, double beta_square, double square_correction,
                              double epsilon, Thread thread) {
  const float to_mean = (float)(1.0 - beta_mean);
  const float keep_square = (float)beta_square, to_square = (float)(1.0 - beta_square);
  const float step = (float)rate, correction = (float)(1.0 / square_correction);
  const float floor = (float)epsilon;
  const int64_t end = count * (thread.number + 1) / thread.of;
  for (int64_t i = count * thread.number / thread.of; i < end; i++) {
    const int64_t row = rows[i] * width;
    if (i + 1 < end)
      for (float *values : {parameter, mean, square})
        prefetch(values + rows[i + 1] * width, width);
    for (int64_t j = 0; j < width; j += LANES) {
      const int64_t lanes = std::min<int64_t>(LANES, width - j);
      const Vector g = load(grads + i * width + j, lanes);
      const Vector m = load(mean + row + j, lanes), v = load(square + row + j, lanes);
      const Vector new_m = m + to_mean * (g - m);
      const Vector new_v = keep_square * v + to_square * g * g;
      const Vector p = load(parameter + row + j, lanes);
      store(mean + row + j, new_m, lanes);
      store(square + row + j, new_v, lanes);
      store(parameter + row + j, p - step * new_m / (square_root(new_v) * correction + floor),
            lanes);
    }
  }
  return 0;
}
