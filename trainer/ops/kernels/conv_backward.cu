// With d_t the gradient of pre_t, dy_t SiLU'(pre_t), pre being computed again:
//
//   dx_t = sum over k of w_k d_{t+k}, where t and t+k are of one document        dw_k = sum over t of d_t x_{t-k}        dbias = sum of d_t
//
// The gradient of row t is whole when row t + BACK is known, so the walk goes BACK rows beyond the segment's end; those rows count for dx
// only. Sums over a segment's time are written apart, one for each segment, and added up afterwards in one order.

constexpr int AHEAD = 4;

extern "C" __global__ void __launch_bounds__(THREADS) conv_backward(
    const void* __restrict__ dy, const void* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias,
    const unsigned char* __restrict__ resets,  // (batch, length) or null
    void* __restrict__ dx,
    float* __restrict__ sums,                  // (batch, segments, TAPS + 1, channels): of each tap, k back; of the bias
    int length, int channels, int segments, int steps, int x_stride) {
  const Part part = part_of(length, channels, segments, steps);
  if (part.quad >= channels) return;
  const u32 row0 = (u32)part.sequence * length;
  const int beyond = at_most(length, part.end + BACK);
  // Rows t0 - BACK to t0 + AHEAD - 1.
  float tap[TAPS][4], offset[4], seen[BACK + AHEAD][4], d[BACK + AHEAD][4] = {};
  u32 beginnings = 0;  // bit j: a document begins at row j of these
  float sum_tap[TAPS][4] = {}, sum_bias[4] = {};
  read_taps(weight, part.quad, tap);
#pragma unroll
  for (int i = 0; i < 4; i++) offset[i] = bias[part.quad + i];

  Quad coming_x[AHEAD], coming_dy[AHEAD];
  u32 begins;
  auto load = [&](int t0) {
    begins = 0;
#pragma unroll
    for (int e = 0; e < AHEAD; e++) {
      const bool valid = t0 + e < beyond;
      coming_x[e] = coming_dy[e] = Quad{};
      if (valid) {
        coming_x[e] = *(const Quad*)in(x, place(row0 + t0 + e, x_stride, part.quad));
        coming_dy[e] = *(const Quad*)in(dy, place(row0 + t0 + e, channels, part.quad));
        if (resets && resets[row0 + t0 + e]) begins |= 1u << (BACK + e);
      }
    }
  };

  load(part.begin);
  read_before(x, resets, row0, x_stride, part, seen);
  for (int t0 = part.begin; t0 < part.end + BACK; t0 += AHEAD) {
#pragma unroll
    for (int e = 0; e < AHEAD; e++) unpack(coming_x[e], seen[BACK + e]), unpack(coming_dy[e], d[BACK + e]);
    beginnings |= begins;
    if (t0 + AHEAD < beyond) {
      load(t0 + AHEAD);
    } else {
      begins = 0;
#pragma unroll
      for (int e = 0; e < AHEAD; e++) coming_x[e] = coming_dy[e] = Quad{};
    }
#pragma unroll
    for (int e = 0; e < AHEAD; e++) {
      const int now = BACK + e, whole = t0 + e - BACK;  // whole: the row whose gradient this row completes
      if (beginnings >> now & 1) forget_before(seen, now);
      float pre[4], found[4];
      convolve(seen, now, tap, offset, pre);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float open = sigmoid(pre[i]);
        d[now][i] *= open * fmaf(pre[i], 1.f - open, 1.f);
      }
      if (t0 + e < part.end) {
#pragma unroll
        for (int i = 0; i < 4; i++) sum_bias[i] += d[now][i];
#pragma unroll
        for (int k = 0; k < TAPS; k++)
#pragma unroll
          for (int i = 0; i < 4; i++) sum_tap[k][i] = fmaf(d[now][i], seen[now - k][i], sum_tap[k][i]);
      }
#pragma unroll
      for (int i = 0; i < 4; i++) found[i] = tap[0][i] * d[e][i];
#pragma unroll
      for (int k = 1; k < TAPS; k++)
        if (!(beginnings >> (e + 1) & ((1u << k) - 1)))
#pragma unroll
          for (int i = 0; i < 4; i++) found[i] = fmaf(tap[k][i], d[e + k][i], found[i]);
      if (whole >= part.begin && whole < part.end) *quad_in(dx, place(row0 + whole, channels, part.quad)) = pack(found);
    }
    beginnings >>= AHEAD;
#pragma unroll
    for (int j = 0; j < BACK; j++)
#pragma unroll
      for (int i = 0; i < 4; i++) seen[j][i] = seen[AHEAD + j][i], d[j][i] = d[AHEAD + j][i];
  }

  float* to = sums + (u64)(part.sequence * segments + part.segment) * (TAPS + 1) * channels + part.quad;
#pragma unroll
  for (int k = 0; k < TAPS; k++) write(to + (u64)k * channels, sum_tap[k]);
  write(to + (u64)TAPS * channels, sum_bias);
}
