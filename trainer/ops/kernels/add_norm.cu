// The residual stream in fp32: stream = residual + x, and its norm. Rows are contiguous.

extern "C" __global__ void __launch_bounds__(THREADS) add_norm_forward(
    const void* __restrict__ x,                // or null: the stream is `residual`, and is not written
    const float* __restrict__ residual, const float* __restrict__ weight, void* __restrict__ out, float* __restrict__ stream,
    float* __restrict__ scales,                // (rows)
    int rows, int width, int epsilon_bits) {
  __shared__ float partial[2][WARPS];
  const float epsilon = __uint_as_float(epsilon_bits);
  int turn = 0;
  for (int row = blockIdx.x; row < rows; row += gridDim.x, turn ^= 1) {
    float v[ITEMS][4], sum = 0.f;
#pragma unroll
    for (int e = 0; e < ITEMS; e++) {
      const int quad = quad_of(e);
      if (quad >= width) continue;
      read(residual + (u64)row * width + quad, v[e]);
      if (x) {
        float more[4];
        load4(x, row, width, quad, more);
#pragma unroll
        for (int i = 0; i < 4; i++) v[e][i] += more[i];
      }
    }
#pragma unroll
    for (int e = 0; e < ITEMS; e++) {
      const int quad = quad_of(e);
      if (quad >= width) continue;
      if (x) write(stream + (u64)row * width + quad, v[e]);
#pragma unroll
      for (int i = 0; i < 4; i++) sum = fmaf(v[e][i], v[e][i], sum);
    }
    const float scale = 1.f / sqrtf(sum_over_block<WARPS>(sum, partial[turn]) / width + epsilon);
    if (threadIdx.x == 0) scales[row] = scale;
#pragma unroll
    for (int e = 0; e < ITEMS; e++) {
      const int quad = quad_of(e);
      if (quad >= width) continue;
      float w[4];
      read(weight + quad, w);
#pragma unroll
      for (int i = 0; i < 4; i++) v[e][i] = v[e][i] * scale * w[i];
      store4(out, row, width, quad, v[e]);
    }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS) add_norm_backward(
    const void* __restrict__ dout,
    const float* __restrict__ dstream,         // what reaches the stream from behind; or null
    const float* __restrict__ stream, const float* __restrict__ weight, const float* __restrict__ scales,
    void* __restrict__ dx,                     // or null
    float* __restrict__ dresidual,
    float* __restrict__ dweight,               // (gridDim.x, width)
    int rows, int width) {
  __shared__ float partial[2][WARPS];
  float dw[ITEMS][4] = {};
  int turn = 0;
  for (int row = blockIdx.x; row < rows; row += gridDim.x, turn ^= 1) {
    const float scale = scales[row];
    float n[ITEMS][4], g[ITEMS][4], behind[ITEMS][4] = {}, sum = 0.f;
#pragma unroll
    for (int e = 0; e < ITEMS; e++) {
      const int quad = quad_of(e);
      if (quad >= width) continue;
      read(stream + (u64)row * width + quad, n[e]);
      load4(dout, row, width, quad, g[e]);
      if (dstream) read(dstream + (u64)row * width + quad, behind[e]);
    }
#pragma unroll
    for (int e = 0; e < ITEMS; e++) {
      const int quad = quad_of(e);
      if (quad >= width) continue;
      float w[4];
      read(weight + quad, w);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        n[e][i] *= scale;
        dw[e][i] = fmaf(g[e][i], n[e][i], dw[e][i]);
        g[e][i] *= w[i];
        sum = fmaf(g[e][i], n[e][i], sum);
      }
    }
    const float mean = sum_over_block<WARPS>(sum, partial[turn]) / width;
#pragma unroll
    for (int e = 0; e < ITEMS; e++) {
      const int quad = quad_of(e);
      if (quad >= width) continue;
#pragma unroll
      for (int i = 0; i < 4; i++) behind[e][i] = fmaf(scale, fmaf(-n[e][i], mean, g[e][i]), behind[e][i]);
      write(dresidual + (u64)row * width + quad, behind[e]);
      if (dx) store4(dx, row, width, quad, behind[e]);
    }
  }
#pragma unroll
  for (int e = 0; e < ITEMS; e++)
    if (quad_of(e) < width) write(dweight + (u64)blockIdx.x * width + quad_of(e), dw[e]);
}
