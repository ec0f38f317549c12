// What all kernels share. Compiled at start by NVRTC: no headers, and nothing special to one architecture (sm_80 and later).
//
// Given on the compiler's command line:
//   ELEMENT   0: bf16, 1: fp16, 2: fp32: the type of activations and of their gradients
//
// Sequences are (batch, length, channels), channels lie beside one another, and rows may be further apart than they are long. Channels are
// a multiple of 4 and each row begins at a multiple of 4 elements, so that four neighbours ("a quad") move at once.

typedef unsigned int u32;
typedef unsigned long long u64;

constexpr float LOG2E = 1.4426950408889634f;
constexpr float LN2 = 0.6931471805599453f;

__host__ __device__ constexpr int at_most(int a, int b) { return a < b ? a : b; }
__host__ __device__ constexpr int at_least(int a, int b) { return a < b ? b : a; }
__host__ __device__ constexpr int parts(int whole, int part) { return (whole + part - 1) / part; }

// ---- the special-function unit: relative errors of about 2^-22

__device__ __forceinline__ float exp2_fast(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
__device__ __forceinline__ float log2_fast(float x) { float y; asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
__device__ __forceinline__ float reciprocal(float x) { float y; asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }

// As fminf and fmaxf, but what is not a number stays so: a weight that has gone wrong must show in the loss.
__device__ __forceinline__ float smaller(float x, float y) { float z; asm("min.NaN.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y)); return z; }
__device__ __forceinline__ float larger(float x, float y) { float z; asm("max.NaN.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y)); return z; }

__device__ __forceinline__ float sigmoid(float x) { return reciprocal(1.f + exp2_fast(-x * LOG2E)); }

// Softplus and its derivative. log(1 + e) loses the digits of a small e, so a polynomial takes over (relative error 1e-8): Mamba begins
// with steps of 1e-3. Beyond 80 the exponential would leave fp32, and softplus is its argument.
__device__ __forceinline__ float softplus(float x, float& slope) {
  const float e = exp2_fast(smaller(x, 80.f) * LOG2E), more = 1.f + e;
  float p = -0.09234832f;
  p = fmaf(p, e, 0.18170917f);
  p = fmaf(p, e, -0.24778119f);
  p = fmaf(p, e, 0.33320826f);
  p = fmaf(p, e, -0.49999738f);
  p = fmaf(p, e, 1.f);
  slope = e * reciprocal(more);
  return larger(x, e < 0.25f ? p * e : log2_fast(more) * LN2);
}
__device__ __forceinline__ float softplus(float x) {
  float slope;
  return softplus(x, slope);
}

// ---- elements: four in a Quad, two in a Pair

#if ELEMENT == 2
typedef uint4 Quad;
typedef uint2 Pair;
constexpr int ELEMENT_BYTES = 4;
__device__ __forceinline__ void unpack(Quad q, float (&v)[4]) {
  v[0] = __uint_as_float(q.x); v[1] = __uint_as_float(q.y); v[2] = __uint_as_float(q.z); v[3] = __uint_as_float(q.w);
}
__device__ __forceinline__ Quad pack(const float (&v)[4]) {
  return make_uint4(__float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]), __float_as_uint(v[3]));
}
__device__ __forceinline__ float2 unpack(Pair p) { return make_float2(__uint_as_float(p.x), __uint_as_float(p.y)); }
#else
typedef uint2 Quad;
typedef u32 Pair;
constexpr int ELEMENT_BYTES = 2;
#if ELEMENT == 0
__device__ __forceinline__ float2 unpack(Pair p) { return make_float2(__uint_as_float(p << 16), __uint_as_float(p & 0xffff0000u)); }
__device__ __forceinline__ Pair pack(float a, float b) { Pair p; asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(p) : "f"(b), "f"(a)); return p; }
#else
__device__ __forceinline__ float2 unpack(Pair p) {
  float2 v;
  asm("{.reg .f16 a, b; mov.b32 {a, b}, %2; cvt.f32.f16 %0, a; cvt.f32.f16 %1, b;}" : "=f"(v.x), "=f"(v.y) : "r"(p));
  return v;
}
__device__ __forceinline__ Pair pack(float a, float b) { Pair p; asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(p) : "f"(b), "f"(a)); return p; }
#endif
__device__ __forceinline__ void unpack(Quad q, float (&v)[4]) {
  const float2 a = unpack(q.x), b = unpack(q.y);
  v[0] = a.x; v[1] = a.y; v[2] = b.x; v[3] = b.y;
}
__device__ __forceinline__ Quad pack(const float (&v)[4]) { return make_uint2(pack(v[0], v[1]), pack(v[2], v[3])); }
#endif

// Where element `column` of row `row` lies, in bytes, rows being `stride` elements apart.
__device__ __forceinline__ u64 place(u32 row, u32 stride, u32 column) { return (u64)row * (stride * ELEMENT_BYTES) + column * ELEMENT_BYTES; }
__device__ __forceinline__ const char* in(const void* base, u64 place) { return (const char*)base + place; }
__device__ __forceinline__ Quad* quad_in(void* base, u64 place) { return (Quad*)((char*)base + place); }

// ---- copies into shared memory that nobody waits for until `arrived`. A thread reads only what it copied itself: no barrier needed.

template <int BYTES> __device__ __forceinline__ void copy_async(void* to, const void* from, bool valid) {  // zeros where not valid
  const u32 address = (u32)__cvta_generic_to_shared(to);
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(from), "n"(BYTES), "r"(valid ? BYTES : 0) : "memory");
}
__device__ __forceinline__ void sent() { asm volatile("cp.async.commit_group;" ::: "memory"); }
__device__ __forceinline__ void arrived() { asm volatile("cp.async.wait_group 0;" ::: "memory"); }
__device__ __forceinline__ void all_but_the_last_arrived() { asm volatile("cp.async.wait_group 1;" ::: "memory"); }

// ---- floats in shared memory, as wide as they go

template <int COUNT> __device__ __forceinline__ void read(const float* from, float (&to)[COUNT]) {
  if constexpr (COUNT % 4 == 0) {
#pragma unroll
    for (int i = 0; i < COUNT; i += 4) {
      const float4 v = *(const float4*)(from + i);
      to[i] = v.x; to[i + 1] = v.y; to[i + 2] = v.z; to[i + 3] = v.w;
    }
  } else {
    const float2 v = *(const float2*)from;
    to[0] = v.x; to[1] = v.y;
  }
}
__device__ __forceinline__ void write(float* to, const float (&v)[4]) { *(float4*)to = make_float4(v[0], v[1], v[2], v[3]); }
__device__ __forceinline__ void write(float* to, const float (&v)[2]) { *(float2*)to = make_float2(v[0], v[1]); }

// ---- sums over a block of WARPS warps

// Every thread gets the sum, in one order. `partial`: WARPS floats of shared memory, which may be written again behind the next barrier.
template <int WARPS> __device__ __forceinline__ float sum_over_block(float v, float* partial) {
#pragma unroll
  for (int bit = 16; bit >= 1; bit /= 2) v += __shfl_xor_sync(~0u, v, bit);
  if constexpr (WARPS == 1) return v;
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = v;
  __syncthreads();
  v = partial[0];
#pragma unroll
  for (int warp = 1; warp < WARPS; warp++) v += partial[warp];
  return v;
}
