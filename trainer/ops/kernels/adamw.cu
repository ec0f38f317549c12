// AdamW (arXiv 1711.05101) over all tensors in one launch, the clipping of gradients folded in, and the norm that clipping needs. All is
// fp32. Behind common.cuh. A block has CHUNK elements of one tensor. Sums have one order.
//
// A tensor is a row of `table`: the addresses of weight, gradient and both moments; elements. And a row of `numbers`: step size |
// correction of the second moment, epsilon | rate times decay, two floats in each word, the first one in its low half.

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
constexpr int CHUNK = 32768;
constexpr int COLUMNS = 5;
extern "C" __device__ const int adamw_update_chunk = CHUNK;

__device__ __forceinline__ float low(u64 both) { return __uint_as_float((u32)both); }
__device__ __forceinline__ float high(u64 both) { return __uint_as_float((u32)(both >> 32)); }

// Four elements, or what there is of them.
__device__ __forceinline__ void load(const float* from, int count, bool wide, float (&v)[4]) {
  if (wide) {
    const float4 four = *(const float4*)from;
    v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; i++) v[i] = i < count ? from[i] : 0.f;
}
__device__ __forceinline__ void store(float* to, int count, bool wide, const float (&v)[4]) {
  if (wide) {
    *(float4*)to = make_float4(v[0], v[1], v[2], v[3]);
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; i++)
    if (i < count) to[i] = v[i];
}

// partial: (blocks) sums of squares. of_tensor, of_chunk: which chunk of which tensor is a block's.
extern "C" __global__ void __launch_bounds__(THREADS) square_sums(const u64* __restrict__ table, const int* __restrict__ of_tensor,
                                                                  const int* __restrict__ of_chunk, float* __restrict__ partial) {
  __shared__ float of_warp[WARPS];
  const u64* row = table + (u64)of_tensor[blockIdx.x] * COLUMNS;
  const u64 first = (u64)of_chunk[blockIdx.x] * CHUNK, size = row[4];
  const float* g = (const float*)row[1] + first;
  const int count = size - first < CHUNK ? (int)(size - first) : CHUNK;
  const bool aligned = row[1] % 16 == 0;
  float sum = 0.f;
#pragma unroll 8
  for (int at = threadIdx.x * 4; at < count; at += THREADS * 4) {
    float v[4];
    load(g + at, count - at, aligned && at + 4 <= count, v);
#pragma unroll
    for (int i = 0; i < 4; i++) sum = fmaf(v[i], v[i], sum);
  }
#pragma unroll
  for (int bit = 16; bit >= 1; bit /= 2) sum += __shfl_xor_sync(~0u, sum, bit);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int warp = 1; warp < WARPS; warp++) sum += of_warp[warp];
  partial[blockIdx.x] = sum;
}

// norm[0]: the norm of all gradients; norm[1]: what they are to be multiplied with, at most 1. One block.
extern "C" __global__ void __launch_bounds__(THREADS) finish_norm(const float* __restrict__ partial, int blocks, int most_bits,
                                                                  float* __restrict__ norm) {
  __shared__ double sums[THREADS];
  double sum = 0;
  for (int i = threadIdx.x; i < blocks; i += THREADS) sum += partial[i];
  sums[threadIdx.x] = sum;
  for (int half = THREADS / 2; half >= 1; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (threadIdx.x != 0) return;
  const float found = (float)sqrt(sums[0]), factor = __uint_as_float(most_bits) / (found + 1e-6f);
  norm[0] = found;
  norm[1] = factor > 1.f ? 1.f : factor;  // what is no number stays so
}

// beta1, more1: the share of the old first moment, and 1 - beta1; as bits. norm: as `finish_norm` left it, or null: nothing is clipped.
extern "C" __global__ void __launch_bounds__(THREADS) adamw_update(const u64* __restrict__ table, const u64* __restrict__ numbers,
                                                                   const int* __restrict__ of_tensor, const int* __restrict__ of_chunk,
                                                                   const float* __restrict__ norm, int beta1_bits, int more1_bits, int beta2_bits,
                                                                   int more2_bits) {
  const u64* row = table + (u64)of_tensor[blockIdx.x] * COLUMNS;
  const u64 first = (u64)of_chunk[blockIdx.x] * CHUNK, size = row[4];
  float *p = (float*)row[0] + first, *m = (float*)row[2] + first, *v = (float*)row[3] + first;
  const float* g = (const float*)row[1] + first;
  const int count = size - first < CHUNK ? (int)(size - first) : CHUNK;
  const bool aligned = (row[0] | row[1] | row[2] | row[3]) % 16 == 0;
  const u64 *words = numbers + 2 * of_tensor[blockIdx.x];
  const float step = low(words[0]), correction = high(words[0]), epsilon = low(words[1]), decay = high(words[1]);
  const float beta1 = __uint_as_float(beta1_bits), more1 = __uint_as_float(more1_bits);
  const float beta2 = __uint_as_float(beta2_bits), more2 = __uint_as_float(more2_bits), factor = norm ? norm[1] : 1.f;
#pragma unroll 2
  for (int at = threadIdx.x * 4; at < count; at += THREADS * 4) {
    const int left = count - at;
    const bool wide = aligned && left >= 4;
    float p4[4], g4[4], m4[4], v4[4];
    load(p + at, left, wide, p4);
    load(g + at, left, wide, g4);
    load(m + at, left, wide, m4);
    load(v + at, left, wide, v4);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float gradient = g4[i] * factor, kept = fmaf(-decay, p4[i], p4[i]);
      m4[i] = fmaf(beta1, m4[i], more1 * gradient);
      v4[i] = fmaf(beta2, v4[i], more2 * gradient * gradient);
      p4[i] = kept - step * m4[i] / (sqrtf(v4[i]) / correction + epsilon);
    }
    store(p + at, left, wide, p4);
    store(m + at, left, wide, m4);
    store(v + at, left, wide, v4);
  }
}
