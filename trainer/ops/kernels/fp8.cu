// Casts to fp8 (e4m3: 1 sign, 4 exponent and 3 mantissa bits, largest 448) with one scale a row, and the transposition that
// a product's right side wants. Compiled at start by NVRTC: no headers; sm_89 and later, which have the conversion.
//
// Given on the compiler's command line:
//   ELEMENT   0: bf16, 2: fp32: the type that is cast
//   THREADS   of a block, a multiple of 32
//   VECTORS   16-byte loads of a thread; THREADS * VECTORS of them are at least a row

typedef unsigned int u32;
typedef unsigned long long u64;

constexpr float LARGEST = 448.f;
// A row of zeros has a scale too. Gradients of a loss that is a mean over many tokens are as small as 1e-12; this is far below them.
constexpr float SMALLEST_AMAX = 1e-30f;
constexpr int PER = ELEMENT == 0 ? 8 : 4;  // elements in 16 bytes

__device__ __forceinline__ void unpack(uint4 raw, float (&v)[PER]) {
  const u32 words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
#if ELEMENT == 0
    v[2 * i] = __uint_as_float(words[i] << 16);
    v[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
#else
    v[i] = __uint_as_float(words[i]);
#endif
  }
}

// Rounds to nearest, ties to even; what is not a number stays so.
__device__ __forceinline__ u32 fp8_pair(float low, float high) {
  unsigned short pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
  return pair;
}

// A block takes one row: it holds it in registers while it looks for the largest, so memory is read once. A row lies in up to three
// parts, one tensor each: columns 0 to first, first to second, second to width, all multiples of 16. factors (width,) fp32, or null:
// each column is multiplied by its own before.
extern "C" __global__ void __launch_bounds__(THREADS) cast_rows(const uint4* __restrict__ a, const uint4* __restrict__ b,
                                                                const uint4* __restrict__ c, const float4* __restrict__ factors,
                                                                u32* __restrict__ to, float* __restrict__ scales, int first, int second,
                                                                int width) {
  __shared__ float largest[THREADS / 32];
  const int vectors = width / PER, at_b = first / PER, at_c = second / PER;
  const u64 row = blockIdx.x;
  float values[VECTORS][PER];
  float amax = 0.f;
#pragma unroll
  for (int i = 0; i < VECTORS; i++) {
    const int at = threadIdx.x + i * THREADS;
    if (at >= vectors) continue;
    unpack(at < at_b ? a[row * at_b + at] : at < at_c ? b[row * (at_c - at_b) + at - at_b] : c[row * (vectors - at_c) + at - at_c],
           values[i]);
    if (factors) {
#pragma unroll
      for (int j = 0; j < PER / 4; j++) {
        const float4 by = factors[at * (PER / 4) + j];
        float* v = &values[i][4 * j];
        v[0] *= by.x; v[1] *= by.y; v[2] *= by.z; v[3] *= by.w;
      }
    }
#pragma unroll
    for (int j = 0; j < PER; j++) amax = fmaxf(amax, fabsf(values[i][j]));
  }
#pragma unroll
  for (int mask = 16; mask; mask /= 2) amax = fmaxf(amax, __shfl_xor_sync(0xffffffffu, amax, mask));
  if (threadIdx.x % 32 == 0) largest[threadIdx.x / 32] = amax;
  __syncthreads();
  for (int warp = 0; warp < THREADS / 32; warp++) amax = fmaxf(amax, largest[warp]);
  amax = fmaxf(amax, SMALLEST_AMAX);
  const float up = LARGEST / amax;
  if (threadIdx.x == 0) scales[row] = amax / LARGEST;
#pragma unroll
  for (int i = 0; i < VECTORS; i++) {
    const int at = threadIdx.x + i * THREADS;
    if (at >= vectors) continue;
    const float(&v)[PER] = values[i];
    const u32 low = fp8_pair(v[0] * up, v[1] * up) | fp8_pair(v[2] * up, v[3] * up) << 16;
#if ELEMENT == 0  // eight bytes at once
    const u32 high = fp8_pair(v[4] * up, v[5] * up) | fp8_pair(v[6] * up, v[7] * up) << 16;
    ((uint2*)to)[row * vectors + at] = make_uint2(low, high);
#else
    to[row * vectors + at] = low;
#endif
  }
}

// to (columns, rows) = from (rows, columns), single bytes; both sizes are multiples of 16. A block of 256 threads takes 64 x 64.
extern "C" __global__ void transpose_bytes(const uint4* __restrict__ from, uint4* __restrict__ to, int rows, int columns) {
  constexpr int SIDE = 64, PITCH = SIDE / 4 + 1;  // in words: rows of the tile begin in different banks
  __shared__ u32 tile[SIDE * PITCH];
  const int line = threadIdx.x / 4, part = threadIdx.x % 4;  // one of 64 lines, one of its four 16 bytes
  const int row = blockIdx.y * SIDE + line, column = blockIdx.x * SIDE + 16 * part;
  if (row < rows && column < columns) {
    const uint4 raw = from[((u64)row * columns + column) / 16];
    u32* at = tile + line * PITCH + 4 * part;
    at[0] = raw.x; at[1] = raw.y; at[2] = raw.z; at[3] = raw.w;
  }
  __syncthreads();
  const int out_row = blockIdx.x * SIDE + line, out_column = blockIdx.y * SIDE + 16 * part;
  if (out_row >= columns || out_column >= rows) return;
  u32 words[4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    words[i] = 0;
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const u32 word = tile[(16 * part + 4 * i + j) * PITCH + line / 4];
      words[i] |= (word >> line % 4 * 8 & 0xffu) << 8 * j;
    }
  }
  to[((u64)out_row * rows + out_column) / 16] = make_uint4(words[0], words[1], words[2], words[3]);
}
