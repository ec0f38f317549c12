// The causal depthwise convolution and its SiLU on a CPU, forward and backward.
//
//   pre_t = bias + sum over k of w_k x_{t-k}, where t-k and t are of one document        y_t = SiLU(pre_t)
//
// Lanes are channels; a unit of work is one sequence's LANES channels, whose last inputs stay in a ring. The backward computes pre again.
#include "cpu_math.h"

constexpr int MOST_TAPS = 8;

struct Conv {
  const float* x;  // (sequences, steps, channels), the last side by side
  long sequence, step;
  const float *taps, *bias;  // taps: (taps, channels), the first of the token itself; bias: (channels), or null
  const uint8_t* resets;     // (batch, length), or null
  long batch, length, channels, count, threads;
  float* y;                // (batch, length, channels)
  const float* dy;         // contiguous; null in the forward
  float *dx, *dtaps, *dbias;  // (batch, length, channels), (batch, taps, channels), (batch, channels)
};

// Tokens of this document before t, at most `most`.
static inline int before(const Conv& c, long b, long t, int known, int most) {
  if (t == 0 || (c.resets && c.resets[b * c.length + t])) return 0;
  return known < most ? known + 1 : most;
}

static inline Vec input(const Conv& c, long b, long t, long first, int lanes) {
  return load(c.x + b * c.sequence + t * c.step + first, lanes);
}

static Vec weighted(const Conv& c, const Vec* w, Vec bias, long b, long t, int inside, long first, int lanes) {
  Vec pre = bias;
  for (int k = 0; k <= inside; k++) pre += w[k] * input(c, b, t - k, first, lanes);
  return pre;
}

static void forward(const Conv& c, const Vec* w, Vec bias, long b, long first, int lanes) {
  int inside = 0;
  for (long t = 0; t < c.length; t++) {
    inside = before(c, b, t, inside, int(c.count) - 1);
    const Vec pre = weighted(c, w, bias, b, t, inside, first, lanes);
    store(c.y + (b * c.length + t) * c.channels + first, pre * sigmoid(pre), lanes);
  }
}

static void backward(const Conv& c, const Vec* w, Vec bias, long b, long first, int lanes) {
  Vec dw[MOST_TAPS]{}, dbias{}, ring[MOST_TAPS]{};  // ring: the gradients of x of the last tokens, which later ones add to
  int inside = 0;
  const int taps = int(c.count);
  for (long t = 0; t < c.length; t++) {
    inside = before(c, b, t, inside, taps - 1);
    const long here = (b * c.length + t) * c.channels + first;
    const Vec pre = weighted(c, w, bias, b, t, inside, first, lanes), open = sigmoid(pre);
    const Vec dpre = load(c.dy + here, lanes) * open * (1.0f + pre * (1.0f - open));
    dbias += dpre;
    ring[t % taps] = Vec{};
    for (int k = 0; k <= inside; k++) {
      dw[k] += dpre * input(c, b, t - k, first, lanes);
      ring[(t - k) % taps] += dpre * w[k];
    }
    if (t >= taps - 1) store(c.dx + here - (taps - 1) * c.channels, ring[(t + 1) % taps], lanes);
  }
  for (long t = c.length < taps - 1 ? 0 : c.length - (taps - 1); t < c.length; t++)
    store(c.dx + (b * c.length + t) * c.channels + first, ring[t % taps], lanes);
  for (int k = 0; k < taps; k++) store(c.dtaps + (b * taps + k) * c.channels + first, dw[k], lanes);
  store(c.dbias + b * c.channels + first, dbias, lanes);
}

extern "C" void conv(const Conv* conv) {
  const Conv& c = *conv;
#pragma omp parallel for num_threads(c.threads) schedule(dynamic) collapse(2)
  for (long b = 0; b < c.batch; b++)
    for (long first = 0; first < c.channels; first += LANES) {
      const int lanes = c.channels - first < LANES ? c.channels - first : LANES;
      Vec w[MOST_TAPS]{};
      for (long k = 0; k < c.count; k++) w[k] = load(c.taps + k * c.channels + first, lanes);
      const Vec bias = c.bias ? load(c.bias + first, lanes) : Vec{};
      if (c.dy) backward(c, w, bias, b, first, lanes);
      else forward(c, w, bias, b, first, lanes);
    }
}
