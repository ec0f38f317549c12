// Mamba-2's norm of v = x SiLU(z) over each group of channels (arXiv 2405.21060, figure 6). blockIdx.y: the group, `width` channels.

extern "C" __global__ void __launch_bounds__(THREADS) gated_norm_forward(
    const void* __restrict__ x, const void* __restrict__ z, const float* __restrict__ weight, void* __restrict__ out,
    float* __restrict__ scales,                // (rows, groups)
    int rows, int width, int z_stride, int epsilon_bits) {
  __shared__ float partial[2][WARPS];
  const float epsilon = __uint_as_float(epsilon_bits);
  const int first = blockIdx.y * width, channels = gridDim.y * width;
  int turn = 0;
  for (int row = blockIdx.x; row < rows; row += gridDim.x, turn ^= 1) {
    float v[ITEMS][4], gate[ITEMS][4], sum = 0.f;
#pragma unroll
    for (int e = 0; e < ITEMS; e++) {
      if (quad_of(e) >= width) continue;
      load4(x, row, channels, first + quad_of(e), v[e]);
      load4(z, row, z_stride, first + quad_of(e), gate[e]);
    }
#pragma unroll
    for (int e = 0; e < ITEMS; e++) {
      if (quad_of(e) >= width) continue;
#pragma unroll
      for (int i = 0; i < 4; i++) {
        v[e][i] *= gate[e][i] * sigmoid(gate[e][i]);
        sum = fmaf(v[e][i], v[e][i], sum);
      }
    }
    const float scale = 1.f / sqrtf(sum_over_block<WARPS>(sum, partial[turn]) / width + epsilon);
    if (threadIdx.x == 0) scales[(u64)row * gridDim.y + blockIdx.y] = scale;
#pragma unroll
    for (int e = 0; e < ITEMS; e++) {
      if (quad_of(e) >= width) continue;
      float w[4];
      read(weight + first + quad_of(e), w);
#pragma unroll
      for (int i = 0; i < 4; i++) v[e][i] = v[e][i] * scale * w[i];
      store4(out, row, channels, first + quad_of(e), v[e]);
    }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS) gated_norm_backward(
    const void* __restrict__ dout, const void* __restrict__ x, const void* __restrict__ z, const float* __restrict__ weight,
    const float* __restrict__ scales, void* __restrict__ dx, void* __restrict__ dz,
    float* __restrict__ dweight,               // (gridDim.x, channels)
    int rows, int width, int z_stride) {
  __shared__ float partial[2][WARPS];
  const int first = blockIdx.y * width, channels = gridDim.y * width;
  float dw[ITEMS][4] = {};
  // The next row is on its way while the block agrees on this one's sum.
  Quad next_x[ITEMS] = {}, next_z[ITEMS] = {}, next_dout[ITEMS] = {};
  auto load = [&](int row) {
#pragma unroll
    for (int e = 0; e < ITEMS; e++) {
      const int quad = first + quad_of(e);
      if (quad_of(e) >= width) continue;
      next_x[e] = *(const Quad*)in(x, place(row, channels, quad));
      next_z[e] = *(const Quad*)in(z, place(row, z_stride, quad));
      next_dout[e] = *(const Quad*)in(dout, place(row, channels, quad));
    }
  };
  int turn = 0;
  load(blockIdx.x);
  for (int row = blockIdx.x; row < rows; row += gridDim.x, turn ^= 1) {
    const float scale = scales[(u64)row * gridDim.y + blockIdx.y];
    Quad raw_x[ITEMS], raw_z[ITEMS];
    float g[ITEMS][4], sum = 0.f;
#pragma unroll
    for (int e = 0; e < ITEMS; e++) {
      raw_x[e] = next_x[e], raw_z[e] = next_z[e];
      unpack(next_dout[e], g[e]);
    }
    if (row + gridDim.x < rows) load(row + gridDim.x);
#pragma unroll
    for (int e = 0; e < ITEMS; e++) {
      if (quad_of(e) >= width) continue;
      float w[4], x4[4], z4[4];
      read(weight + first + quad_of(e), w);
      unpack(raw_x[e], x4);
      unpack(raw_z[e], z4);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float n = x4[i] * z4[i] * sigmoid(z4[i]) * scale;
        dw[e][i] = fmaf(g[e][i], n, dw[e][i]);
        g[e][i] *= w[i];
        sum = fmaf(g[e][i], n, sum);
      }
    }
    const float mean = sum_over_block<WARPS>(sum, partial[turn]) / width;
#pragma unroll
    for (int e = 0; e < ITEMS; e++) {
      const int quad = first + quad_of(e);
      if (quad_of(e) >= width) continue;
      float x4[4], z4[4], dx4[4], dz4[4];
      unpack(raw_x[e], x4);
      unpack(raw_z[e], z4);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float open = sigmoid(z4[i]), gate = z4[i] * open, n = x4[i] * gate * scale;
        const float dv = scale * fmaf(-n, mean, g[e][i]);
        dx4[i] = dv * gate;
        dz4[i] = dv * x4[i] * open * fmaf(z4[i], 1.f - open, 1.f);
      }
      store4(dx, row, channels, quad, dx4);
      store4(dz, row, channels, quad, dz4);
    }
  }
#pragma unroll
  for (int e = 0; e < ITEMS; e++)
    if (quad_of(e) < width) write(dweight + (u64)blockIdx.x * channels + first + quad_of(e), dw[e]);
}
