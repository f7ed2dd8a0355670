// The recurrence of a bidirectional GRU over ragged sequences, and its gradient.
//
// With r, z, n the gates, P the inputs times the input weights (with all biases but c_n) and
// m = U_n h + c_n: r = sigmoid(P_r + U_r h), z = sigmoid(P_z + U_z h), n = tanh(P_n + r m),
// h' = n + z (h - n): Yang et al. 2016, eqs. 1-4, with n as in `torch.nn.GRU`.
//
// Sequences are read in blocks of similar length, step by step, so that a step is one small product
// of matrices whose operands stay in the processor's cache. The gates are computed again for the
// gradient: that takes less time than to write them to memory and to read them back.

#include <algorithm>

#include "vectors.h"

namespace {

constexpr int64_t BLOCK = 24;   // sequences that are read together
constexpr int64_t CHUNK = 192;  // steps whose weight gradient is computed together

// Which sequences there are. N steps lie one after the other, sequence after sequence.
struct Sequences {
  const int64_t *order;    // (S,), the longest first; those without a step are left out
  const int64_t *starts;   // by sequence
  const int64_t *lengths;  // by sequence
  int64_t count;           // S
};

// A block of sequences as one direction reads it, longest first.
struct Block {
  int64_t first[BLOCK];   // position of each sequence's first step in reading direction
  int64_t length[BLOCK];  // longest first
  int64_t count, steps, stride;

  Block(const Sequences &sequences, int64_t from, bool backward)
      : count(std::min(BLOCK, sequences.count - from)), stride(backward ? -1 : 1) {
    for (int64_t i = 0; i < count; i++) {
      const int64_t sequence = sequences.order[from + i];
      length[i] = sequences.lengths[sequence];
      first[i] = sequences.starts[sequence] + (backward ? length[i] - 1 : 0);
    }
    steps = length[0];
  }

  int64_t position(int64_t i, int64_t step) const { return first[i] + stride * step; }
};

// What a thread adds up: a direction, or both, and every so many-th block.
struct Share {
  Thread thread;

  bool has(int64_t direction) const { return thread.of == 1 || thread.number % 2 == direction; }
  int64_t first_block() const { return thread.of == 1 ? 0 : thread.number / 2; }
  int64_t next_block() const { return thread.of == 1 ? 1 : thread.of / 2; }
};

struct Gates {
  Vector r, z, n, m;

  // Units j to j + LANES of a step, of which `lanes` exist: from the products with the previous
  // state, from those with the input, and c_n.
  Gates(const float *recurrent, const float *input, const float *c_n, int64_t width, int64_t j,
        int64_t lanes) {
    m = load(recurrent + 2 * width + j) + load(c_n + j, lanes);
    r = sigmoid(load(recurrent + j) + load(input + j, lanes));
    z = sigmoid(load(recurrent + width + j) + load(input + width + j, lanes));
    n = hyperbolic_tangent(load(input + 2 * width + j, lanes) + r * m);
  }
};

}  // namespace

// Put sequences that have a step in order, the longest first, and note where each starts. Returns
// how many they are; -1 if the lengths do not sum to the steps, -2 if a row does not exist, -3
// without memory.
extern "C" int han_gru_order(const int64_t *lengths, int64_t sequences, const int64_t *rows,
                             int64_t steps, int64_t num_rows, int64_t *order, int64_t *starts) {
  int64_t end = 0, longest = 0;
  for (int64_t i = 0; i < sequences; i++) {
    if (lengths[i] < 0 || lengths[i] > steps - end) return -1;
    starts[i] = end;
    end += lengths[i];
    longest = std::max(longest, lengths[i]);
  }
  if (end != steps) return -1;
  bool exist = true;
  for (int64_t i = 0; i < steps; i++) exist &= (uint64_t)rows[i] < (uint64_t)num_rows;
  if (!exist) return -2;

  int64_t *places = (int64_t *)std::calloc((size_t)longest + 1, sizeof(int64_t));  // by length
  if (!places) return -3;
  for (int64_t i = 0; i < sequences; i++) places[lengths[i]]++;
  int64_t place = 0;
  for (int64_t length = longest; length > 0; length--) {
    place += places[length];
    places[length] = place - places[length];
  }
  for (int64_t i = 0; i < sequences; i++)
    if (lengths[i] > 0) order[places[lengths[i]]++] = i;
  std::free(places);
  return (int)place;
}

namespace {

template <typename Format>
int forward(const float *projected, const int64_t *rows, const Sequences &sequences, int64_t width,
            const float *weight, const float *bias, float *states, Thread thread) {
  const int64_t row = padded(width), gate_row = padded(3 * width);
  const int64_t depth = lanes_of<Format>(width), rounded_row = lanes_of<Format>(row);
  Scratch both_transposed(2 * depth * gate_row), hidden(BLOCK * row);
  Scratch rounded(Format::DEPTH > 1 ? BLOCK * rounded_row : 0);  // hidden states, to multiply
  Scratch products(BLOCK * gate_row + LANES);
  if (!both_transposed || !hidden || !rounded || !products) return 1;
  for (int64_t direction = 0; direction < 2; direction++)
    transpose<Format>(weight + direction * 3 * width * width, 3 * width, width,
                      both_transposed + direction * depth * gate_row);

  for (int64_t piece; piece = thread.take(), piece / 2 * BLOCK < sequences.count;) {
    const int64_t direction = piece % 2;
    const float *transposed = both_transposed + direction * depth * gate_row;
    const float *c_n = bias + direction * width;
    const Block block(sequences, piece / 2 * BLOCK, direction == 1);
    int64_t active = block.count;
    std::memset(hidden, 0, (size_t)(active * row) * 4);
    std::memset(products, 0, (size_t)(active * gate_row) * 4);  // before a first step
    for (int64_t step = 0; step < block.steps; step++) {
      while (block.length[active - 1] <= step) active--;
      if (step > 0)
        multiply<Format>(active, 3 * width, depth, Format::DEPTH > 1 ? rounded : hidden,
                         rounded_row, 1, transposed, gate_row, false, products, gate_row);
      for (int64_t i = 0; i < active; i++) {
        const int64_t position = block.position(i, step);
        const float *input = projected + (rows[position] * 2 + direction) * 3 * width;
        if (step + 1 < block.length[i])
          prefetch(projected + (rows[position + block.stride] * 2 + direction) * 3 * width,
                   3 * width);
        float *h = hidden + i * row;
        float *state = states + (position * 2 + direction) * width;
        for (int64_t j = 0; j < width; j += LANES) {
          const int64_t lanes = std::min<int64_t>(LANES, width - j);
          const Gates gates(products + i * gate_row, input, c_n, width, j, lanes);
          const Vector updated = gates.n + gates.z * (load(h + j) - gates.n);
          store(h + j, updated);
          if constexpr (Format::DEPTH > 1) Format::store(rounded + i * rounded_row, j, updated);
          store(state + j, updated, lanes);
        }
      }
    }
  }
  return 0;
}

}  // namespace

// With `bfloat16`, where that can be, hidden states and U are rounded to it where they are
// multiplied.
extern "C" int han_gru_forward(const float *projected, const int64_t *rows, const int64_t *order,
                               const int64_t *starts, const int64_t *lengths, int64_t count,
                               int64_t width, const float *weight, const float *bias,
                               float *states, int64_t bfloat16, Thread thread) {
  const Sequences sequences{order, starts, lengths, count};
  const auto run = bfloat16 && han_has_bfloat16() ? forward<Bfloat16> : forward<Float32>;
  return run(projected, rows, sequences, width, weight, bias, states, thread);
}

extern "C" int han_gru_backward(const float *projected, const int64_t *rows, const int64_t *order,
                                const int64_t *starts, const int64_t *lengths, int64_t count,
                                int64_t num_rows, int64_t width, const float *weight,
                                const float *bias, const float *states, const float *grad_states,
                                float *grad_projected, float *grad_weight, float *grad_bias,
                                Thread thread) {
  const Sequences sequences{order, starts, lengths, count};
  const Share share{thread};
  grad_projected += share.first_block() * num_rows * 6 * width;
  grad_weight += share.first_block() * 6 * width * width;
  grad_bias += share.first_block() * 2 * width;
  const int64_t row = padded(width), gate_row = padded(3 * width);
  Scratch u(3 * width * row), transposed(width * gate_row), carried(BLOCK * row);
  Scratch products(BLOCK * gate_row + LANES), before((CHUNK + BLOCK) * row);
  Scratch grad_gates((CHUNK + BLOCK) * gate_row), grad_transposed(width * gate_row), grad_c(row);
  if (!u || !transposed || !carried || !products || !before || !grad_gates || !grad_transposed ||
      !grad_c)
    return 1;

  for (int64_t direction = 0; direction < 2; direction++) {
    if (!share.has(direction)) continue;
    transpose<Float32>(weight + direction * 3 * width * width, 3 * width, width, transposed);
    for (int64_t i = 0; i < 3 * width; i++)
      std::memcpy(u + i * row, weight + (direction * 3 * width + i) * width, (size_t)width * 4);
    const float *c_n = bias + direction * width;
    std::memset(grad_transposed, 0, (size_t)(width * gate_row) * 4);
    std::memset(grad_c, 0, (size_t)row * 4);
    int64_t collected = 0;  // steps in `grad_gates` and `before`
    const auto add_to_grad_weight = [&] {
      multiply(width, 3 * width, collected, before, 1, row, grad_gates, gate_row, true,
               grad_transposed, gate_row);
      collected = 0;
    };

    for (int64_t from = share.first_block() * BLOCK; from < count;
         from += share.next_block() * BLOCK) {
      const Block block(sequences, from, direction == 1);
      int64_t active = 0;
      std::memset(carried, 0, (size_t)(block.count * row) * 4);
      for (int64_t step = block.steps - 1; step >= 0; step--) {
        while (active < block.count && block.length[active] > step) active++;
        float *previous = before + collected * row, *grads = grad_gates + collected * gate_row;
        for (int64_t i = 0; i < active; i++) {
          const float *h = states + (block.position(i, step - 1) * 2 + direction) * width;
          for (int64_t j = 0; j < width; j += LANES)
            store(previous + i * row + j,
                  step > 0 ? load(h + j, std::min<int64_t>(LANES, width - j)) : Vector{});
        }
        multiply(active, 3 * width, width, previous, row, 1, transposed, gate_row, false, products,
                 gate_row);
        for (int64_t i = 0; i < active; i++) {
          const int64_t position = block.position(i, step);
          const int64_t input = (rows[position] * 2 + direction) * 3 * width;
          if (step > 0) {
            const int64_t next = position - block.stride;
            const int64_t next_input = (rows[next] * 2 + direction) * 3 * width;
            prefetch(projected + next_input, 3 * width);
            prefetch(grad_projected + next_input, 3 * width);
            prefetch(grad_states + (next * 2 + direction) * width, width);
            if (step > 1) prefetch(states + ((next - block.stride) * 2 + direction) * width, width);
          }
          const float *grad_state = grad_states + (position * 2 + direction) * width;
          float *grad_input = grad_projected + input;
          float *g = grads + i * gate_row, *c = carried + i * row;
          for (int64_t j = 0; j < width; j += LANES) {
            const int64_t lanes = std::min<int64_t>(LANES, width - j);
            const Gates gates(products + i * gate_row, projected + input, c_n, width, j, lanes);
            const Vector grad = load(grad_state + j, lanes) + load(c + j);
            const Vector grad_n = grad * (1.0f - gates.z) * (1.0f - gates.n * gates.n);
            const Vector grad_z = grad * (load(previous + i * row + j) - gates.n) * gates.z *
                                  (1.0f - gates.z);
            const Vector grad_r = grad_n * gates.m * gates.r * (1.0f - gates.r);
            const Vector grad_m = grad_n * gates.r;
            store(c + j, grad * gates.z);
            store(grad_c + j, load(grad_c + j) + grad_m);
            store(g + j, grad_r, lanes);
            store(g + width + j, grad_z, lanes);
            store(g + 2 * width + j, grad_m, lanes);
            float *to_r = grad_input + j, *to_z = to_r + width, *to_n = to_z + width;
            store(to_r, load(to_r, lanes) + grad_r, lanes);
            store(to_z, load(to_z, lanes) + grad_z, lanes);
            store(to_n, load(to_n, lanes) + grad_n, lanes);
          }
        }
        if (step == 0) break;  // before a first step the state is zero
        multiply(active, width, 3 * width, grads, gate_row, 1, u, row, true, carried, row);
        collected += active;
        if (collected >= CHUNK) add_to_grad_weight();
      }
    }
    if (collected > 0) add_to_grad_weight();
    float *out = grad_weight + direction * 3 * width * width;
    for (int64_t i = 0; i < 3 * width; i++)
      for (int64_t j = 0; j < width; j++) out[i * width + j] = grad_transposed[j * gate_row + i];
    std::memcpy(grad_bias + direction * width, grad_c, (size_t)width * 4);
  }
  return 0;
}
