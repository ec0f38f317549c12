// The causal depthwise convolution and its SiLU on a CPU, forward and backward.
//
//   pre_t = bias + sum over k of w_k x_{t-k}, where t-k and t are of one document        y_t = SiLU(pre_t)
//
// Lanes are channels; a unit of work is one sequence's WIDTH channels, side by side, so that a row's part fills cache lines. The backward
// computes pre again.
#include "cpu_math.h"

constexpr int MOST_TAPS = 8, WIDTH = 64, BLOCKS = WIDTH / LANES;
constexpr long AHEAD = 8;  // steps; rows lie pages apart, where no processor fetches by itself

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

// A block of LANES channels of a unit. ring: the gradients of x of the last tokens, which later ones add to.
struct Block {
  long first;
  int lanes;
  Vec w[MOST_TAPS], bias, dw[MOST_TAPS], dbias, ring[MOST_TAPS];
};

static inline Vec before_silu(const Conv& c, const Block& k, long b, long t, int inside) {
  Vec pre = k.bias;
  for (int back = 0; back <= inside; back++) pre += k.w[back] * input(c, b, t - back, k.first, k.lanes);
  return pre;
}

static inline void forward(const Conv& c, const Block& k, long b, long t, int inside) {
  const Vec pre = before_silu(c, k, b, t, inside);
  store(c.y + (b * c.length + t) * c.channels + k.first, pre * sigmoid(pre), k.lanes);
}

static inline void backward(const Conv& c, Block& k, long b, long t, int inside) {
  const int taps = int(c.count);
  const long here = (b * c.length + t) * c.channels + k.first;
  const Vec pre = before_silu(c, k, b, t, inside), open = sigmoid(pre);
  const Vec dpre = load(c.dy + here, k.lanes) * open * (1.0f + pre * (1.0f - open));
  k.dbias += dpre;
  k.ring[t % taps] = Vec{};
  for (int back = 0; back <= inside; back++) {
    k.dw[back] += dpre * input(c, b, t - back, k.first, k.lanes);
    k.ring[(t - back) % taps] += dpre * k.w[back];
  }
  if (t >= taps - 1) store(c.dx + here - (taps - 1) * c.channels, k.ring[(t + 1) % taps], k.lanes);
}

// What no later token adds to any more, and the sums over time.
static void finish(const Conv& c, const Block& k, long b) {
  const long taps = c.count;
  for (long t = c.length < taps - 1 ? 0 : c.length - (taps - 1); t < c.length; t++)
    store(c.dx + (b * c.length + t) * c.channels + k.first, k.ring[t % taps], k.lanes);
  for (long back = 0; back < taps; back++) store(c.dtaps + (b * taps + back) * c.channels + k.first, k.dw[back], k.lanes);
  store(c.dbias + b * c.channels + k.first, k.dbias, k.lanes);
}

static void unit(const Conv& c, long b, long channel) {
  Block blocks[BLOCKS]{};
  int used = 0;
  for (long first = channel; first < c.channels && used < BLOCKS; first += LANES) {
    Block& k = blocks[used++];
    k.first = first;
    k.lanes = c.channels - first < LANES ? c.channels - first : LANES;
    for (long back = 0; back < c.count; back++) k.w[back] = load(c.taps + back * c.channels + first, k.lanes);
    if (c.bias) k.bias = load(c.bias + first, k.lanes);
  }
  int inside = 0;
  for (long t = 0; t < c.length; t++) {
    inside = before(c, b, t, inside, int(c.count) - 1);
    for (int i = 0; i < used; i++) {
      Block& k = blocks[i];
      if (t + AHEAD < c.length) __builtin_prefetch(c.x + b * c.sequence + (t + AHEAD) * c.step + k.first);
      if (!c.dy) {
        forward(c, k, b, t, inside);
      } else {
        if (t + AHEAD < c.length) __builtin_prefetch(c.dy + (b * c.length + t + AHEAD) * c.channels + k.first);
        backward(c, k, b, t, inside);
      }
    }
  }
  for (int i = 0; c.dy && i < used; i++) finish(c, blocks[i], b);
}

extern "C" void conv(const Conv* conv) {
  const Conv& c = *conv;
#pragma omp parallel for num_threads(c.threads) schedule(dynamic) collapse(2)
  for (long b = 0; b < c.batch; b++)
    for (long channel = 0; channel < c.channels; channel += WIDTH) unit(c, b, channel);
}
