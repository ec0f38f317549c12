constexpr int AHEAD = 8;

extern "C" __global__ void __launch_bounds__(THREADS) conv_forward(
    const void* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias,
    const unsigned char* __restrict__ resets,  // (batch, length) or null
    void* __restrict__ y, int length, int channels, int segments, int steps, int x_stride) {
  const Part part = part_of(length, channels, segments, steps);
  if (part.quad >= channels) return;
  const u32 row0 = (u32)part.sequence * length;
  float tap[TAPS][4], offset[4], seen[BACK + AHEAD][4];
  read_taps(weight, part.quad, tap);
#pragma unroll
  for (int i = 0; i < 4; i++) offset[i] = bias[part.quad + i];

  Quad coming[AHEAD];
  bool begins[AHEAD];
  auto load = [&](int t0) {
#pragma unroll
    for (int e = 0; e < AHEAD; e++) {
      const bool valid = t0 + e < part.end;
      coming[e] = Quad{};
      if (valid) coming[e] = *(const Quad*)in(x, place(row0 + t0 + e, x_stride, part.quad));
      begins[e] = valid && resets && resets[row0 + t0 + e];
    }
  };

  load(part.begin);
  read_before(x, resets, row0, x_stride, part, seen);
  for (int t0 = part.begin; t0 < part.end; t0 += AHEAD) {
    bool first[AHEAD];
#pragma unroll
    for (int e = 0; e < AHEAD; e++) unpack(coming[e], seen[BACK + e]), first[e] = begins[e];
    if (t0 + AHEAD < part.end) load(t0 + AHEAD);
#pragma unroll
    for (int e = 0; e < AHEAD; e++) {
      if (first[e]) forget_before(seen, BACK + e);
      float pre[4];
      convolve(seen, BACK + e, tap, offset, pre);
#pragma unroll
      for (int i = 0; i < 4; i++) pre[i] *= sigmoid(pre[i]);
      if (t0 + e < part.end) *quad_in(y, place(row0 + t0 + e, channels, part.quad)) = pack(pre);
    }
#pragma unroll
    for (int j = 0; j < BACK; j++)
#pragma unroll
      for (int i = 0; i < 4; i++) seen[j][i] = seen[AHEAD + j][i];
  }
}
