// What the kernels of the selective scan share, behind common.cuh.
//
// Given on the compiler's command line, too:
//   STATES    N, states of a channel: 4, 8, 16, 32 or 64 (others are padded by the caller with states that stay 0)
//
// B and C are (batch, length, STATES), and all is contiguous but z, B and C. Quantities of a state are (…, channels, STATES) in fp32.

// The step that stands for a document's beginning: its decay is 0 for any A below 0. Finite, so that 0 times it is 0.
constexpr float FOREVER = 3.402823466e38f;

constexpr int SAVED = 8;  // steps between two saved states: the backward's tile
constexpr int PAIR = 2;   // neighbouring channels of one scanning thread

// ---- sums over lanes
//
// Each of LANES lanes (a power of two, STRIDE apart in the warp; `lane` is the number among them) has COUNT values; wanted are COUNT
// sums. In each round a lane gives half of its values to a partner and keeps the other half, until one is left; what lanes are then
// left over add up the same sum. Afterwards lane l has `left(COUNT, LANES)` sums, the first of which is number `first_left`.

__host__ __device__ constexpr int left(int count, int lanes) { return at_least(1, count / lanes); }
template <int COUNT, int LANES> __device__ __forceinline__ int first_left(int lane) {
  return LANES >= COUNT ? lane / at_least(1, LANES / COUNT) : lane * (COUNT / LANES);
}
template <int COUNT, int LANES, int STRIDE> __device__ __forceinline__ void sum_over_lanes(float (&v)[COUNT], int lane) {
  int rest = COUNT;
#pragma unroll
  for (int bit = LANES / 2; bit >= 1; bit /= 2) {
    if (rest == 1) {
      v[0] += __shfl_xor_sync(~0u, v[0], bit * STRIDE);
      continue;
    }
    rest /= 2;
    const bool upper = lane & bit;
#pragma unroll
    for (int i = 0; i < COUNT / 2; i++)
      if (i < rest) {
        const float given = upper ? v[i] : v[i + rest], kept = upper ? v[i + rest] : v[i];
        v[i] = kept + __shfl_xor_sync(~0u, given, bit * STRIDE);
      }
  }
}

// ---- who does what
//
// A chain is a group of channels of one sequence, scanned by one block after another in chunks of time: unit (chain, chunk). Blocks
// draw units from a counter, chunks of one time before those of the next, so that whatever a unit waits for was drawn before it and
// is under way. The counter behind, one a chain, says how many of its chunks are done; the state that they hand on lies in `carry`.

__device__ __forceinline__ int next_unit(int* counter, int* shared) {
  __syncthreads();
  if (threadIdx.x == 0) *shared = atomicAdd(counter, 1);
  __syncthreads();
  return *shared;
}
__device__ __forceinline__ void wait_for(const int* flag, int count) {
  if (threadIdx.x == 0) {
    int seen;
    do asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory"); while (seen < count);
  }
  __syncthreads();
}
__device__ __forceinline__ void announce(int* flag, int count) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(flag), "r"(count) : "memory");
}
