// Mamba-2's state-space duality (arXiv 2405.21060, section 6) in chunks of CHUNK tokens; behind common.cuh. ELEMENT is bf16 or fp16.
//
// With l_t the sum of dt A from the chunk's beginning to t, S the state before the chunk, and all only between tokens of one document:
//
//   y_t = sum over s <= t of exp(l_t - l_s) (C_t B_s) dt_s x_s  +  exp(l_t) C_t S  +  D x_t
//   S'  = sum over s of exp(l_end - l_s) dt_s x_s B_s  +  exp(l_end) S
//
// What does not depend on pairs of tokens (states, and what they give to tokens) goes through torch's batched products, with factors of
// tokens multiplied in before or behind (`ssd_scale`); pairs inside a chunk are products of 16 x 16 x 8 in these kernels.
//
// Layouts, n chunks in all: x and y (batch, length, heads WIDTH). Of tokens and heads: (n, heads, CHUNK) fp32. For the products
// (n, groups, CHUNK, channels of a group); states (n, groups, channels of a group, STATES), which is (n, heads, WIDTH, STATES).
// `documents`, (n, CHUNK) int32: how many documents have begun in the chunk, up to the token and with it. Tokens beyond the sequence have
// dt = 0.

constexpr int CHUNK = 128;
constexpr int WIDTH = 64;  // channels of a head
constexpr int LAST = CHUNK - 1;

__device__ __forceinline__ float decay(float exponent) { return exp2_fast(exponent * LOG2E); }

// What reaches a token from before its chunk, and the chunk's end from a token; 0 where a document begins in between.
__device__ __forceinline__ float from_start(const float* logs, const int* documents, int t) {
  return documents[t] == 0 ? decay(logs[t]) : 0.f;
}
__device__ __forceinline__ float to_end(const float* logs, const int* documents, int t) {
  return documents[t] == documents[LAST] ? decay(logs[LAST] - logs[t]) : 0.f;
}

// Sums over the tokens up to this thread's one, which is token `at`; CHUNK threads.
__device__ __forceinline__ float prefix_sum(float v, int at, float (&room)[2][CHUNK]) {
  int side = 0;
  room[0][at] = v;
  __syncthreads();
  for (int back = 1; back < CHUNK; back *= 2, side ^= 1) {
    room[side ^ 1][at] = room[side][at] + (at >= back ? room[side][at - back] : 0.f);
    __syncthreads();
  }
  return room[side][at];
}

__device__ __forceinline__ float one(const void* base, u64 element) { return unpack((Pair)((const unsigned short*)base)[element]).x; }
__device__ __forceinline__ float2 two(const void* base, u64 element) { return unpack(*(const Pair*)((const unsigned short*)base + element)); }
__device__ __forceinline__ void put_two(void* base, u64 element, float a, float b) {
  *(Pair*)((unsigned short*)base + element) = pack(a, b);
}
