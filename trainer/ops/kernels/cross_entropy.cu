// Losses of logits in the type that the matrix product left them in, and their gradients; all sums in fp32. A block has a row, which is
// read once in each direction. Behind common.cuh; the vocabulary is a multiple of 4.
//
//   loss = log sum over v of exp(l_v) - l_target        dl_v = dloss (exp(l_v - log sum) - 1 at the target)
//
// A thread keeps the largest logit that it has seen and the sum of exponentials below it, which it rescales when a larger one comes.

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
constexpr int AHEAD = 8;                       // quads that a thread has on their way
constexpr float LOWEST = -3.402823466e38f;

struct Sum {
  float top, sum;                              // sum of exp(l - top)
};
__device__ __forceinline__ Sum together(Sum a, Sum b) {
  const float top = larger(a.top, b.top);
  return {top, a.sum * exp2_fast((a.top - top) * LOG2E) + b.sum * exp2_fast((b.top - top) * LOG2E)};
}

extern "C" __global__ void __launch_bounds__(THREADS) cross_entropy_forward(
    const void* __restrict__ logits, const long long* __restrict__ targets, float* __restrict__ losses, float* __restrict__ logsums,
    int vocabulary) {
  __shared__ Sum of_warp[WARPS];
  const u32 row = blockIdx.x;
  Sum mine = {LOWEST, 0.f};
  for (int first = threadIdx.x * 4; first < vocabulary; first += AHEAD * THREADS * 4) {
    Quad raw[AHEAD];
#pragma unroll
    for (int e = 0; e < AHEAD; e++)
      if (first + e * THREADS * 4 < vocabulary) raw[e] = *(const Quad*)in(logits, place(row, vocabulary, first + e * THREADS * 4));
    float top = mine.top, values[AHEAD][4];
#pragma unroll
    for (int e = 0; e < AHEAD; e++) {
      if (first + e * THREADS * 4 >= vocabulary) continue;
      unpack(raw[e], values[e]);
#pragma unroll
      for (int i = 0; i < 4; i++) top = larger(top, values[e][i]);
    }
    float sum = mine.sum * exp2_fast((mine.top - top) * LOG2E);
#pragma unroll
    for (int e = 0; e < AHEAD; e++) {
      if (first + e * THREADS * 4 >= vocabulary) continue;
#pragma unroll
      for (int i = 0; i < 4; i++) sum += exp2_fast((values[e][i] - top) * LOG2E);
    }
    mine = {top, sum};
  }
#pragma unroll
  for (int bit = 16; bit >= 1; bit /= 2) {
    const float top = __shfl_xor_sync(~0u, mine.top, bit), sum = __shfl_xor_sync(~0u, mine.sum, bit);
    mine = together(mine, {top, sum});
  }
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = mine;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int warp = 1; warp < WARPS; warp++) mine = together(mine, of_warp[warp]);
  const float logsum = fmaf(log2_fast(mine.sum), LN2, mine.top);
  const long long target = targets[row];
  float of_target = __uint_as_float(0x7fc00000u);  // not a number: there is no such word
  if (target >= 0 && target < vocabulary) {
    float four[4];
    unpack(*(const Quad*)in(logits, place(row, vocabulary, (u32)target / 4 * 4)), four);
#pragma unroll
    for (int i = 0; i < 4; i++)
      if ((int)target % 4 == i) of_target = four[i];
  }
  logsums[row] = logsum;
  losses[row] = logsum - of_target;
}

extern "C" __global__ void __launch_bounds__(THREADS) cross_entropy_backward(
    const void* logits, const long long* __restrict__ targets, const float* __restrict__ logsums,
    const float* __restrict__ dlosses,
    void* dlogits,                             // may be the same memory
    int vocabulary) {
  const u32 row = blockIdx.x;
  const float logsum = logsums[row], share = dlosses[row];
  const int target = (int)targets[row];
  for (int first = threadIdx.x * 4; first < vocabulary; first += AHEAD * THREADS * 4) {
    Quad raw[AHEAD];
#pragma unroll
    for (int e = 0; e < AHEAD; e++)
      if (first + e * THREADS * 4 < vocabulary) raw[e] = *(const Quad*)in(logits, place(row, vocabulary, first + e * THREADS * 4));
#pragma unroll
    for (int e = 0; e < AHEAD; e++) {
      const int quad = first + e * THREADS * 4;
      if (quad >= vocabulary) continue;
      float v[4];
      unpack(raw[e], v);
#pragma unroll
      for (int i = 0; i < 4; i++) v[i] = share * (exp2_fast((v[i] - logsum) * LOG2E) - (quad + i == target ? 1.f : 0.f));
      *quad_in(dlogits, place(row, vocabulary, quad)) = pack(v);
    }
  }
}
