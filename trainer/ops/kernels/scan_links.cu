// Where there are too few channels to fill the chip (batches of one or two), chunks of time are scanned beside one another. For that
// each must know the state that reaches it: a pass over all chunks but the last that keeps only the state (`scan_chunks`), then a
// short chain over the chunks (`link_chunks`). With -DBACKWARD=1 the same in the other direction, for the gradient of the state.
//
//   forward    s = a s + dt u B        backward   s = a (s + dy C), dy = dout SiLU(z)
//
// A thread has one channel with all of its states. What it needs of the next AHEAD steps is on its way while it computes these; B or C
// are the same for all channels and go through shared memory.

constexpr int THREADS = 128;
constexpr int AHEAD = 8;
constexpr int W_ITEMS = parts(AHEAD * STATES, THREADS);

// An element as a number, and as it comes from memory.
#if ELEMENT == 2
typedef float One;
__device__ __forceinline__ float unpack_one(One v) { return v; }
#else
typedef unsigned short One;
__device__ __forceinline__ float unpack_one(One v) { return unpack((Pair)v).x; }
#endif
__device__ __forceinline__ One one_in(const void* base, u64 place) { return *(const One*)in(base, place); }

// sum: (chunks, batch, channels), the time that a chunk takes. carry: (chunks + 1, batch, channels, STATES), of which those from 1
// to chunks - 1 are written: what a chunk that begins with nothing hands on. x is u; backward it is dout, and w is C instead of B.
extern "C" __global__ void __launch_bounds__(THREADS) scan_chunks(
    const void* __restrict__ x, const void* __restrict__ delta, const void* __restrict__ z, const void* __restrict__ w,
    const float* __restrict__ A, const float* __restrict__ bias, const unsigned char* __restrict__ resets, float* __restrict__ carry,
    float* __restrict__ sum, int batch, int length, int channels, int chunk, int chunks, int z_stride, int bc_stride) {
  __shared__ __align__(16) float shared_w[2][AHEAD][STATES];
  const int tid = threadIdx.x, channel = blockIdx.x * THREADS + tid, number = blockIdx.y, sequence = blockIdx.z;
  const int column = at_most(channel, channels - 1);
  const int begin = (BACKWARD ? chunks - 1 - number : number) * chunk, steps = at_most(length, begin + chunk) - begin;
  const u32 row0 = (u32)sequence * length + begin;
  float a[STATES], s[STATES] = {}, time = 0.f;
#pragma unroll
  for (int n = 0; n < STATES; n++) a[n] = A[(u64)column * STATES + n] * LOG2E;
  const float offset = bias[column];

  One next_x[AHEAD], next_delta[AHEAD], next_z[AHEAD], next_w[W_ITEMS];
  unsigned char next_begins[AHEAD];
  auto row_of = [&](int i) { return row0 + (BACKWARD ? steps - 1 - at_most(i, steps - 1) : at_most(i, steps - 1)); };
  auto load = [&](int i0) {
#pragma unroll
    for (int k = 0; k < AHEAD; k++) {
      const u32 row = row_of(i0 + k);
      next_x[k] = one_in(x, place(row, channels, column));
      next_delta[k] = one_in(delta, place(row, channels, column));
      if (BACKWARD) next_z[k] = one_in(z, place(row, z_stride, column));
      next_begins[k] = resets ? resets[row] : 0;
    }
#pragma unroll
    for (int e = 0; e < W_ITEMS; e++) {
      const int item = at_most(tid + e * THREADS, AHEAD * STATES - 1);
      next_w[e] = one_in(w, place(row_of(i0 + item / STATES), bc_stride, item % STATES));
    }
  };

  load(0);
  int buffer = 0;
  for (int i0 = 0; i0 < steps; i0 += AHEAD, buffer ^= 1) {
    float entering[AHEAD], step[AHEAD];
#pragma unroll
    for (int k = 0; k < AHEAD; k++) {
      const bool real = i0 + k < steps;  // a step of 0 changes nothing
      const float dt = real ? softplus(unpack_one(next_delta[k]) + offset) : 0.f;
      entering[k] = real ? unpack_one(next_x[k]) : 0.f;
      if (BACKWARD) {
        const float gate = unpack_one(next_z[k]);
        entering[k] *= gate * sigmoid(gate);
      } else {
        entering[k] *= dt;
      }
      step[k] = next_begins[k] && real ? FOREVER : dt;
      time = smaller(time + step[k], FOREVER);  // finite also behind two documents
    }
#pragma unroll
    for (int e = 0; e < W_ITEMS; e++) {
      const int item = at_most(tid + e * THREADS, AHEAD * STATES - 1);
      shared_w[buffer][item / STATES][item % STATES] = unpack_one(next_w[e]);
    }
    if (i0 + AHEAD < steps) load(i0 + AHEAD);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < AHEAD; k++) {
      float row[STATES];
      read(shared_w[buffer][k], row);
#pragma unroll
      for (int n = 0; n < STATES; n++) {
        const float decay = exp2_fast(step[k] * a[n]);
        s[n] = BACKWARD ? decay * fmaf(entering[k], row[n], s[n]) : fmaf(decay, s[n], entering[k] * row[n]);
      }
    }
  }
  if (channel >= channels) return;
  const u64 at = ((u64)number * batch + sequence) * channels + channel;
  sum[at] = time;
  float* to = carry + (at + (u64)batch * channels) * STATES;
#pragma unroll
  for (int n = 0; n < STATES; n += 4) *(float4*)(to + n) = make_float4(s[n], s[n + 1], s[n + 2], s[n + 3]);
}

// Adds to what each chunk hands on what reached it. A thread has one state of one channel.
extern "C" __global__ void link_chunks(float* __restrict__ carry, const float* __restrict__ sum, const float* __restrict__ A, int batch,
                                       int channels, int chunks) {
  const u64 all = (u64)batch * channels * STATES, at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= all) return;
  const float a = A[at % ((u64)channels * STATES)] * LOG2E;
  float s = carry[at];
  for (int number = 1; number < chunks; number++) {
    s = fmaf(exp2_fast(sum[((u64)(number - 1) * all + at) / STATES] * a), s, carry[number * all + at]);
    carry[number * all + at] = s;
  }
}
