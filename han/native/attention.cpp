// Additive attention over ragged segments, and its gradient (Yang et al. 2016, eqs. 5-7):
// u_t = tanh(W h_t + b), weight_t = softmax over the segment of u_t . c, pooled = sum weight_t h_t.

#include <algorithm>

#include "vectors.h"

namespace {

constexpr int64_t CHUNK = 96;  // hidden states that are multiplied together
constexpr int64_t PARTS = 4;   // for each thread

// One of several parts of the segments: neighbours, which hold about as many steps as another's.
struct Share {
  int64_t first_segment, last_segment, first_step, last_step;  // half-open

  Share(const int64_t *lengths, int64_t segments, int64_t steps, int64_t part, int64_t parts) {
    const int64_t from = steps * part / parts, to = steps * (part + 1) / parts;
    int64_t segment = 0, step = 0;
    for (; segment < segments && step < from; segment++) step += lengths[segment];
    first_segment = segment, first_step = step;
    for (; segment < segments && step < to; segment++) step += lengths[segment];
    last_step = step;
    last_segment = part == parts - 1 ? segments : segment;  // empty ones may end the row
  }
};

// Returns -1 if the lengths do not sum to the steps.
template <typename Format>
int forward(const float *hidden, const int64_t *lengths, int64_t segments, int64_t steps,
            int64_t width, int64_t attention, const float *weight, const float *bias,
            const float *context, float *pooled, float *weights, float *activations,
            Thread thread) {
  int64_t sum_of_lengths = 0;
  for (int64_t i = 0; i < segments; i++) {
    if (lengths[i] < 0 || lengths[i] > steps - sum_of_lengths) return -1;
    sum_of_lengths += lengths[i];
  }
  if (sum_of_lengths != steps) return -1;
  const int64_t row = padded(attention), depth = lanes_of<Format>(width);
  const int64_t rounded_row = lanes_of<Format>(padded(width));
  Scratch transposed(depth * row), projected(CHUNK * row);
  Scratch rounded(Format::DEPTH > 1 ? CHUNK * rounded_row : 0);  // hidden states, to multiply
  if (!transposed || !projected || !rounded) return 1;
  transpose<Format>(weight, attention, width, transposed);

  const int64_t parts = PARTS * thread.of;
  for (int64_t part; (part = thread.take()) < parts;) {
    const Share share(lengths, segments, steps, part, parts);
    int64_t start = share.first_step, scored = start;
    for (int64_t segment = share.first_segment; segment < share.last_segment; segment++) {
      const int64_t end = start + lengths[segment];
      // Scores come in chunks of steps, whatever their segments.
      while (scored < end) {
        const int64_t count = std::min(CHUNK, share.last_step - scored);
        const float *chunk = hidden + scored * width;
        int64_t chunk_row = width;
        if constexpr (Format::DEPTH > 1) {
          for (int64_t i = 0; i < count; i++)
            for (int64_t j = 0; j < width; j += LANES)
              Format::store(rounded + i * rounded_row, j,
                            load(chunk + i * width + j, std::min<int64_t>(LANES, width - j)));
          chunk = rounded, chunk_row = rounded_row;
        }
        multiply<Format>(count, attention, depth, chunk, chunk_row, 1, transposed, row, false,
                         projected, row);
        for (int64_t i = 0; i < count; i++) {
          Vector score = {};
          for (int64_t j = 0; j < attention; j += LANES) {
            const int64_t lanes = std::min<int64_t>(LANES, attention - j);
            const Vector u =
                hyperbolic_tangent(load(projected + i * row + j) + load(bias + j, lanes));
            score += u * load(context + j, lanes);
            if (activations) store(activations + (scored + i) * attention + j, u, lanes);
          }
          weights[scored + i] = sum(score);
        }
        scored += count;
      }
      if (end == start) {
        std::memset(pooled + segment * width, 0, (size_t)width * 4);
        continue;
      }
      float highest = weights[start], total = 0;
      for (int64_t t = start; t < end; t++) highest = std::max(highest, weights[t]);
      for (int64_t t = start; t < end; t += LANES) {
        const int64_t lanes = std::min<int64_t>(LANES, end - t);
        const Vector e = exponential(load(weights + t, lanes) - highest);
        store(weights + t, e, lanes);
        for (int64_t i = 0; i < lanes; i++) total += e[i];
      }
      const float scale = 1.0f / total;
      for (int64_t t = start; t < end; t++) weights[t] *= scale;
      constexpr int SIDE_BY_SIDE = 4;  // vectors of the average, so that none waits for itself
      for (int64_t j = 0; j < width; j += SIDE_BY_SIDE * LANES) {
        Vector average[SIDE_BY_SIDE] = {};
        for (int64_t t = start; t < end; t++)
          for (int k = 0; k < SIDE_BY_SIDE; k++)
            average[k] += weights[t] * load(hidden + t * width + j + k * LANES,
                                            std::max<int64_t>(0, width - j - k * LANES));
        for (int k = 0; k < SIDE_BY_SIDE; k++)
          store(pooled + segment * width + j + k * LANES, average[k],
                std::max<int64_t>(0, width - j - k * LANES));
      }
      start = end;
    }
  }
  return 0;
}

}  // namespace

// With `bfloat16`, where that can be, h and W are rounded to it where they are multiplied.
extern "C" int han_attention_forward(const float *hidden, const int64_t *lengths,
                                     int64_t segments, int64_t steps, int64_t width,
                                     int64_t attention, const float *weight, const float *bias,
                                     const float *context, float *pooled, float *weights,
                                     float *activations, int64_t bfloat16, Thread thread) {
  const auto run = bfloat16 && han_has_bfloat16() ? forward<Bfloat16> : forward<Float32>;
  return run(hidden, lengths, segments, steps, width, attention, weight, bias, context, pooled,
             weights, activations, thread);
}

extern "C" int han_attention_backward(const float *hidden, const int64_t *lengths,
                                      int64_t segments, int64_t steps, int64_t width,
                                      int64_t attention, const float *weight,
                                      const float *context, const float *weights,
                                      const float *activations, const float *grad_pooled,
                                      const float *grad_weights, float *grad_hidden,
                                      float *grad_weight, float *grad_bias, float *grad_context,
                                      Thread thread) {
  const Share share(lengths, segments, steps, thread.number, thread.of);
  const int64_t row = padded(attention), hidden_row = padded(width);
  Scratch padded_weight(attention * hidden_row), grad_transposed(width * row);
  Scratch grad_projected(CHUNK * row), grad_scores(share.last_step - share.first_step + 1);
  Scratch grad_b(row), grad_c(row);
  if (!padded_weight || !grad_transposed || !grad_projected || !grad_scores || !grad_b || !grad_c)
    return 1;
  grad_weight += thread.number * attention * width;
  grad_bias += thread.number * attention;
  grad_context += thread.number * attention;
  for (int64_t i = 0; i < attention; i++)
    std::memcpy(padded_weight + i * hidden_row, weight + i * width, (size_t)width * 4);

  int64_t start = share.first_step, done = start;
  for (int64_t segment = share.first_segment; segment < share.last_segment; segment++) {
    const int64_t end = start + lengths[segment];
    const float *grad = grad_pooled + segment * width;
    float mean = 0;
    for (int64_t t = start; t < end; t++) {
      Vector product = {};
      for (int64_t j = 0; j < width; j += LANES) {
        const int64_t lanes = std::min<int64_t>(LANES, width - j);
        const Vector g = load(grad + j, lanes);
        product += g * load(hidden + t * width + j, lanes);
        store(grad_hidden + t * width + j, weights[t] * g, lanes);
      }
      const float grad_t = sum(product) + (grad_weights ? grad_weights[t] : 0.0f);
      grad_scores[t - share.first_step] = grad_t;
      mean += weights[t] * grad_t;
    }
    for (int64_t t = start; t < end; t++) {
      float &grad_score = grad_scores[t - share.first_step];
      grad_score = weights[t] * (grad_score - mean);
    }
    start = end;

    while (start - done >= CHUNK || (start == share.last_step && done < start)) {
      const int64_t count = std::min(CHUNK, start - done);
      for (int64_t i = 0; i < count; i++) {
        const float grad_score = grad_scores[done + i - share.first_step];
        for (int64_t j = 0; j < attention; j += LANES) {
          const int64_t lanes = std::min<int64_t>(LANES, attention - j);
          const Vector u = load(activations + (done + i) * attention + j, lanes);
          const Vector g = grad_score * load(context + j, lanes) * (1.0f - u * u);
          store(grad_projected + i * row + j, g);
          store(grad_b + j, load(grad_b + j) + g);
          store(grad_c + j, load(grad_c + j) + grad_score * u);
        }
      }
      multiply(count, width, attention, grad_projected, row, 1, padded_weight, hidden_row, true,
               grad_hidden + done * width, width);
      multiply(width, attention, count, hidden + done * width, 1, width, grad_projected, row, true,
               grad_transposed, row);
      done += count;
    }
  }
  for (int64_t i = 0; i < attention; i++)
    for (int64_t j = 0; j < width; j++) grad_weight[i * width + j] = grad_transposed[j * row + i];
  std::memcpy(grad_bias, grad_b, (size_t)attention * 4);
  std::memcpy(grad_context, grad_c, (size_t)attention * 4);
  return 0;
}
