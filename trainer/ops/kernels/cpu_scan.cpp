// The selective scan on a CPU (arXiv 2312.00752, algorithm 2), with its bias, softplus, skip and gate, forward and backward.
//
//   dt = softplus(delta + bias)    a = exp(dt A), 0 at a reset    h = a h_before + dt u B    out = (C h + D u) SiLU(z)
//
// Lanes of a vector are channels, which lie side by side; states are looped over, time goes one after another. A unit of work is one
// sequence's GROUP channels. The forward keeps the state before every STEPS steps; the backward computes the states inside of such a chunk
// again, into buffers that stay in the cache, and then goes back through it. Gradients of B and C are added up over a unit's channels lane
// by lane, then over lanes, and over units in their order: the same bits for any number of threads.
#include "cpu_math.h"
#include <cstdlib>
#include <vector>

constexpr long GROUP = 128, STEPS = 32;
constexpr long AHEAD = 8;  // steps; rows lie pages apart, where no processor fetches by itself
constexpr long BLOCKS = GROUP / LANES;

struct Rows {  // (sequences, steps, …), the last dimension side by side; strides in elements
  const float* at;
  long sequence, step;
  const float* row(long b, long t) const { return at + b * sequence + t * step; }
  void fetch(long b, long t, long channel) const { __builtin_prefetch(row(b, t) + channel); }
};

struct Scan {
  Rows u, delta, z, B, C;
  const float *A, *D, *bias;  // A: (states, channels)
  const uint8_t* resets;      // (batch, length), or null
  const float* initial;       // (batch, states, channels), or null
  long batch, length, channels, states, threads;
  float *out, *starts, *last;  // starts: (batch, chunks, states, channels); null: not kept

  long groups() const { return (channels + GROUP - 1) / GROUP; }
  long chunks() const { return (length + STEPS - 1) / STEPS; }
  bool begins(long b, long t) const { return resets && resets[b * length + t]; }
};

struct Gradients {
  const float *dout, *d_last;  // contiguous; d_last: (batch, states, channels), or null
  float *du, *ddelta, *dz;     // (batch, length, channels)
  float *dB, *dC;              // (batch, groups, length, states), of each group its share
  float *dA, *dD, *dbias;      // (batch, states, channels), (batch, channels), of each sequence its share
  float* d_initial;            // (batch, states, channels)
};

// Vectors of one thread; aligned, which std::vector<Vec> need not be.
struct Buffer {
  Vec* at;
  explicit Buffer(long size) : at((Vec*)aligned_alloc(sizeof(Vec), sizeof(Vec) * size)) {
    if (!at) abort();
    for (long i = 0; i < size; i++) at[i] = Vec{};
  }
  ~Buffer() { free(at); }
  Buffer(const Buffer&) = delete;
};

static void forward_block(const Scan& s, long b, long first, int count, Vec* h, const Vec* A) {
  const Vec D = load(s.D + first, count), bias = load(s.bias + first, count);
  for (long t = 0; t < s.length; t++) {
    if (s.starts && t % STEPS == 0) {
      float* start = s.starts + (b * s.chunks() + t / STEPS) * s.states * s.channels + first;
      for (long n = 0; n < s.states; n++) store(start + n * s.channels, h[n], count);
    }
    if (t + AHEAD < s.length) s.u.fetch(b, t + AHEAD, first), s.delta.fetch(b, t + AHEAD, first), s.z.fetch(b, t + AHEAD, first);
    const Vec u = load(s.u.row(b, t) + first, count), z = load(s.z.row(b, t) + first, count);
    const Vec dt = softplus(load(s.delta.row(b, t) + first, count) + bias), x = dt * u;
    const float *B = s.B.row(b, t), *C = s.C.row(b, t);
    Vec y = D * u;
    if (s.begins(b, t)) {
      for (long n = 0; n < s.states; n++) y += C[n] * (h[n] = x * B[n]);
    } else {
      for (long n = 0; n < s.states; n++) y += C[n] * (h[n] = exp2(dt * A[n]) * h[n] + x * B[n]);
    }
    store(s.out + (b * s.length + t) * s.channels + first, y * z * sigmoid(z), count);
  }
}

extern "C" void scan_forward(const Scan* scan) {
  const Scan& s = *scan;
#pragma omp parallel num_threads(s.threads)
  {
    Buffer h(s.states), A(s.states);
#pragma omp for schedule(dynamic) collapse(2)
    for (long b = 0; b < s.batch; b++)
      for (long first = 0; first < s.channels; first += LANES) {
        const int count = s.channels - first < LANES ? s.channels - first : LANES;
        const long at = b * s.states * s.channels + first;
        for (long n = 0; n < s.states; n++) {
          A.at[n] = load(s.A + n * s.channels + first, count) * LOG2_E;
          h.at[n] = s.initial ? load(s.initial + at + n * s.channels, count) : Vec{};
        }
        forward_block(s, b, first, count, h.at, A.at);
        for (long n = 0; n < s.states; n++) store(s.last + at + n * s.channels, h.at[n], count);
      }
  }
}

// What a thread needs to go through a chunk of a block of channels; of the first five, step by step.
struct Chunk {
  Buffer a, h, dt, x, y;    // h: (STEPS + 1, states), the first before the chunk
  Buffer dB, dC;            // (STEPS, states), of all blocks of a unit
  Buffer g, dA, dD, dbias;  // (BLOCKS, states), (BLOCKS): g is the gradient of the state, taken on from the chunk behind
  explicit Chunk(long states)
      : a(STEPS * states), h((STEPS + 1) * states), dt(STEPS), x(STEPS), y(STEPS), dB(STEPS * states), dC(STEPS * states),
        g(BLOCKS * states), dA(BLOCKS * states), dD(BLOCKS), dbias(BLOCKS) {}
};

// next, next_begin: where what comes after this block and chunk lies.
static void again(const Scan& s, const Gradients& d, Chunk& c, long b, long begin, long end, long first, int count, long next,
                  long next_begin) {
  const Vec bias = load(s.bias + first, count), D = load(s.D + first, count);
  const float* start = s.starts + (b * s.chunks() + begin / STEPS) * s.states * s.channels + first;
  for (long n = 0; n < s.states; n++) c.h.at[n] = load(start + n * s.channels, count);
  for (long t = begin; t < end; t++) {
    const long i = t - begin, then = next_begin + i;
    s.u.fetch(b, then, next), s.delta.fetch(b, then, next), s.z.fetch(b, then, next);
    __builtin_prefetch(d.dout + (b * s.length + then) * s.channels + next);
    const Vec u = load(s.u.row(b, t) + first, count), dt = softplus(load(s.delta.row(b, t) + first, count) + bias), x = dt * u;
    const Vec *before = c.h.at + i * s.states;
    Vec *h = c.h.at + (i + 1) * s.states, *a = c.a.at + i * s.states, y = D * u;
    const float *B = s.B.row(b, t), *C = s.C.row(b, t);
    if (s.begins(b, t)) {
      for (long n = 0; n < s.states; n++) a[n] = Vec{}, y += C[n] * (h[n] = x * B[n]);
    } else {
      for (long n = 0; n < s.states; n++) {
        a[n] = exp2(dt * (load(s.A + n * s.channels + first, count) * LOG2_E));
        y += C[n] * (h[n] = a[n] * before[n] + x * B[n]);
      }
    }
    c.dt.at[i] = dt, c.x.at[i] = x, c.y.at[i] = y;
  }
}

static void back(const Scan& s, const Gradients& d, Chunk& c, long b, long begin, long end, long first, int count, long block) {
  const Vec bias = load(s.bias + first, count), D = load(s.D + first, count), none{};
  Vec *g = c.g.at + block * s.states, *dA = c.dA.at + block * s.states, dD{}, dbias{};
  for (long t = end - 1; t >= begin; t--) {
    const long i = t - begin, here = (b * s.length + t) * s.channels + first;
    const Vec u = load(s.u.row(b, t) + first, count), z = load(s.z.row(b, t) + first, count), dout = load(d.dout + here, count);
    const Vec open = sigmoid(z), dy = dout * z * open, dt = c.dt.at[i], x = c.x.at[i];
    const Vec *a = c.a.at + i * s.states, *h = c.h.at + (i + 1) * s.states, *before = c.h.at + i * s.states;
    Vec *dB = c.dB.at + i * s.states, *dC = c.dC.at + i * s.states, dx{}, ddt{};
    const float *B = s.B.row(b, t), *C = s.C.row(b, t);
    const bool begins = s.begins(b, t);
    for (long n = 0; n < s.states; n++) {
      const Vec gradient = g[n] + C[n] * dy, earlier = gradient * a[n];
      dC[n] += h[n] * dy;
      dB[n] += gradient * x;
      dx += gradient * B[n];
      if (begins) {
        g[n] = none;  // what lies before this document has no part in it
      } else {
        const Vec through = earlier * before[n];
        ddt += through * load(s.A + n * s.channels + first, count);
        dA[n] += through * dt;
        g[n] = earlier;
      }
    }
    const Vec ddelta = (ddt + dx * u) * sigmoid(load(s.delta.row(b, t) + first, count) + bias);
    dD += dy * u;
    dbias += ddelta;
    store(d.du + here, dx * dt + dy * D, count);
    store(d.ddelta + here, ddelta, count);
    store(d.dz + here, dout * c.y.at[i] * open * (1.0f + z * (1.0f - open)), count);
  }
  c.dD.at[block] += dD;
  c.dbias.at[block] += dbias;
}

static void backward_unit(const Scan& s, const Gradients& d, Chunk& c, long b, long group) {
  const long channel = group * GROUP, blocks = ((s.channels - channel < GROUP ? s.channels - channel : GROUP) + LANES - 1) / LANES;
  auto count = [&](long block) { const long left = s.channels - channel - block * LANES; return int(left < LANES ? left : LANES); };
  auto place = [&](long n, long block) { return (b * s.states + n) * s.channels + channel + block * LANES; };
  for (long block = 0; block < blocks; block++) {
    c.dD.at[block] = c.dbias.at[block] = Vec{};
    for (long n = 0; n < s.states; n++) {
      c.g.at[block * s.states + n] = d.d_last ? load(d.d_last + place(n, block), count(block)) : Vec{};
      c.dA.at[block * s.states + n] = Vec{};
    }
  }
  for (long chunk = s.chunks() - 1; chunk >= 0; chunk--) {
    const long begin = chunk * STEPS, end = begin + STEPS < s.length ? begin + STEPS : s.length;
    for (long i = 0; i < (end - begin) * s.states; i++) c.dB.at[i] = c.dC.at[i] = Vec{};
    for (long block = 0; block < blocks; block++) {
      const long first = channel + block * LANES;
      const bool last = block == blocks - 1;
      again(s, d, c, b, begin, end, first, count(block), last ? channel : first + LANES, last && chunk ? begin - STEPS : begin);
      back(s, d, c, b, begin, end, first, count(block), block);
    }
    const long share = ((b * s.groups() + group) * s.length + begin) * s.states;
    for (long i = 0; i < (end - begin) * s.states; i++) {
      d.dB[share + i] = sum(c.dB.at[i]);
      d.dC[share + i] = sum(c.dC.at[i]);
    }
  }
  for (long block = 0; block < blocks; block++) {
    const long first = b * s.channels + channel + block * LANES;
    store(d.dD + first, c.dD.at[block], count(block));
    store(d.dbias + first, c.dbias.at[block], count(block));
    for (long n = 0; n < s.states; n++) {
      store(d.dA + place(n, block), c.dA.at[block * s.states + n], count(block));
      store(d.d_initial + place(n, block), c.g.at[block * s.states + n], count(block));
    }
  }
}

extern "C" void scan_backward(const Scan* scan, const Gradients* gradients) {
  const Scan& s = *scan;
#pragma omp parallel num_threads(s.threads)
  {
    Chunk chunk(s.states);
#pragma omp for schedule(dynamic) collapse(2)
    for (long b = 0; b < s.batch; b++)
      for (long group = 0; group < s.groups(); group++) backward_unit(s, *gradients, chunk, b, group);
  }
}

// Adds up `parts` contiguous shares of `size` numbers, in their order: out = sum over k of in[k].
extern "C" void add_shares(const float* in, float* out, long sets, long parts, long size, long threads) {
#pragma omp parallel for num_threads(threads) collapse(2)
  for (long set = 0; set < sets; set++)
    for (long i = 0; i < size; i++) {
      float total = 0;
      for (long k = 0; k < parts; k++) total += in[(set * parts + k) * size + i];
      out[set * size + i] = total;
    }
}
