// CUDA C++ on a CPU, so that kernels can be tried without a GPU: each thread of a block is a fiber, and runs until it waits for others,
// at a barrier, in a shuffle or for a flag of another block. Given by `cuda_on_cpu.py`: no launch, no memory of its own.
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#define __global__
#define __device__ __attribute__((visibility("default")))
#define __host__
#define __shared__ static  // blocks with memory of this kind are run one after another
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define threadIdx (on_cpu::self->thread)
#define blockIdx (on_cpu::self->block->index)
#define blockDim (on_cpu::block_size)
#define gridDim (on_cpu::grid_size)

struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct uint3 { unsigned x, y, z; };
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline float __uint_as_float(unsigned x) { float y; memcpy(&y, &x, 4); return y; }
inline unsigned __float_as_uint(float x) { unsigned y; memcpy(&y, &x, 4); return y; }
template <typename T> T __ldcg(const T* from) { return *from; }

namespace on_cpu {

constexpr size_t STACK = 128 << 10;
struct Warp {
  float values[2][32];
  size_t places[2][32];
  unsigned words[2][32][6];
  int arrived = 0;
  long turn = 0;
};
struct Block {
  uint3 index;
  char* shared;
  std::vector<Warp> warps;
  int arrived = 0;
  long turn = 0;
};
struct Fiber { uint3 thread; Block* block; jmp_buf at; ucontext_t first; bool begun = false, done = false; };

inline Fiber* self;
inline uint3 block_size, grid_size;
inline jmp_buf scheduler;
inline bool moved;  // something happened in this round over all fibers: else all wait for ever
inline void (*kernel)(...);
inline const uint64_t* given;

inline void others() {
  if (!_setjmp(self->at)) _longjmp(scheduler, 1);
}
inline void wait(int& arrived, long& turn, int of) {
  moved = true;
  if (++arrived == of) { arrived = 0; turn++; return; }
  for (const long mine = turn; turn == mine;) others();
}

}  // namespace on_cpu

inline void __syncthreads() {
  on_cpu::Block& block = *on_cpu::self->block;
  on_cpu::wait(block.arrived, block.turn, on_cpu::block_size.x);
}
inline float __shfl_xor_sync(unsigned, float value, int mask) {
  on_cpu::Warp& warp = on_cpu::self->block->warps[threadIdx.x / 32];
  float* values = warp.values[warp.turn % 2];  // the buffer of the turn before may still be read
  values[threadIdx.x % 32] = value;
  on_cpu::wait(warp.arrived, warp.turn, 32);
  return values[threadIdx.x % 32 ^ mask];
}
inline int atomicAdd(int* to, int more) { on_cpu::moved = true; const int before = *to; *to += more; return before; }
inline void __threadfence() {}
inline size_t __cvta_generic_to_shared(const void* at) { return (char*)at - on_cpu::self->block->shared; }

// ---- PTX: `asm("NAME …" : outputs : inputs)` has become ptx_NAME(outputs, inputs)

inline float flushed(float x) { return std::fabs(x) < 1.17549435e-38f ? std::copysign(0.f, x) : x; }
inline void ptx_ex2_approx_ftz_f32(float& y, float x) { y = flushed(exp2f(flushed(x))); }
inline void ptx_lg2_approx_ftz_f32(float& y, float x) { y = flushed(log2f(flushed(x))); }
inline void ptx_rcp_approx_ftz_f32(float& y, float x) { y = flushed(1.f / flushed(x)); }
inline void ptx_min_NaN_f32(float& y, float a, float b) { y = std::isnan(a) || std::isnan(b) ? NAN : fminf(a, b); }
inline void ptx_max_NaN_f32(float& y, float a, float b) { y = std::isnan(a) || std::isnan(b) ? NAN : fmaxf(a, b); }
template <typename To> unsigned bits_of(float x) { To y = (To)x; uint16_t bits; memcpy(&bits, &y, 2); return bits; }
template <typename From> float number_of(unsigned bits) { uint16_t low = bits; From x; memcpy(&x, &low, 2); return (float)x; }
inline unsigned bf16_of(float x) {
  unsigned bits = __float_as_uint(x);
  return std::isnan(x) ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
inline void ptx_cvt_rn_bf16x2_f32(unsigned& p, float high, float low) { p = bf16_of(high) << 16 | bf16_of(low); }
// The nearest number of e4m3 (ties to even), in steps of an eighth of its power of two, and of 2^-9 below 2^-6.
inline unsigned e4m3_of(float x) {
  const unsigned sign = std::signbit(x) ? 0x80 : 0;
  const float size = fminf(std::fabs(x), 448.f);
  if (std::isnan(x)) return 0x7f;
  int exponent = size < 0.015625f ? -6 : std::ilogb(size);
  const int steps = (int)std::nearbyint(std::ldexp(size, 3 - exponent));  // 8 to 16, of 2^-6 and below 0 to 8
  return sign | (unsigned)(steps + 8 * (exponent + 6));
}
inline void ptx_cvt_rn_satfinite_e4m3x2_f32(unsigned short& p, float high, float low) { p = e4m3_of(high) << 8 | e4m3_of(low); }
inline void ptx_cvt_rn_f16x2_f32(unsigned& p, float high, float low) { p = bits_of<_Float16>(high) << 16 | bits_of<_Float16>(low); }
inline void ptx_halves(float& low, float& high, unsigned p) { low = number_of<_Float16>(p); high = number_of<_Float16>(p >> 16); }
inline void ptx_cp_async_ca_shared_global(unsigned to, const void* from, int bytes, int given) {
  memset(on_cpu::self->block->shared + to, 0, bytes);
  memcpy(on_cpu::self->block->shared + to, from, given);
}
inline void ptx_cp_async_commit_group() {}
inline void ptx_cp_async_wait_group() {}
inline void ptx_ld_acquire_gpu_global_s32(int& value, const int* from) { value = *from; on_cpu::others(); }
inline void ptx_st_release_gpu_global_s32(int* to, int value) { *to = value; on_cpu::moved = true; }

// Matrices of 8 x 8 halves: lanes 8m to 8m + 7 say where the rows of matrix m lie.
inline void matrices(unsigned (&found)[4], unsigned address, bool transposed) {
  on_cpu::Warp& warp = on_cpu::self->block->warps[threadIdx.x / 32];
  size_t* places = warp.places[warp.turn % 2];
  const unsigned lane = threadIdx.x % 32;
  places[lane] = address;
  on_cpu::wait(warp.arrived, warp.turn, 32);
  for (unsigned m = 0; m < 4; m++) {
    const unsigned short* rows[8];
    for (int r = 0; r < 8; r++) rows[r] = (const unsigned short*)__builtin_assume_aligned(on_cpu::self->block->shared + places[8 * m + r], 1);
    if (places[8 * m + lane % 8] % 16) __builtin_trap();
    const unsigned a = lane / 4, b = lane % 4 * 2;
    const unsigned low = transposed ? rows[b][a] : rows[a][b], high = transposed ? rows[b + 1][a] : rows[a][b + 1];
    found[m] = high << 16 | low;
  }
}
inline void ptx_ldmatrix_sync_aligned_m8n8_x4_shared_b16(unsigned& a, unsigned& b, unsigned& c, unsigned& d, unsigned address) {
  unsigned found[4];
  matrices(found, address, false);
  a = found[0], b = found[1], c = found[2], d = found[3];
}
inline void ptx_ldmatrix_sync_aligned_m8n8_x4_trans_shared_b16(unsigned& a, unsigned& b, unsigned& c, unsigned& d, unsigned address) {
  unsigned found[4];
  matrices(found, address, true);
  a = found[0], b = found[1], c = found[2], d = found[3];
}
inline float half_of(unsigned bits, bool bf16) {
  return bf16 ? __uint_as_float(bits << 16) : number_of<_Float16>(bits & 0xffff);
}
inline void product(float (&d)[4], const unsigned (&mine)[6], const float (&c)[4], bool bf16) {
  on_cpu::Warp& warp = on_cpu::self->block->warps[threadIdx.x / 32];
  auto& words = warp.words[warp.turn % 2];
  const unsigned lane = threadIdx.x % 32;
  memcpy(words[lane], mine, sizeof mine);
  on_cpu::wait(warp.arrived, warp.turn, 32);
  for (unsigned i = 0; i < 4; i++) {
    const unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    float sum = 0;
    for (unsigned k = 0; k < 16; k++) {
      const unsigned a = words[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2], b = words[column * 4 + k % 8 / 2][4 + k / 8];
      sum += half_of(a >> k % 2 * 16, bf16) * half_of(b >> k % 2 * 16, bf16);
    }
    d[i] = c[i] + sum;
  }
}
#define PRODUCT(name, bf16)                                                                                                          \
  inline void name(float& d0, float& d1, float& d2, float& d3, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0,    \
                   unsigned b1, float c0, float c1, float c2, float c3) {                                                            \
    const unsigned mine[6] = {a0, a1, a2, a3, b0, b1};                                                                               \
    const float c[4] = {c0, c1, c2, c3};                                                                                             \
    float d[4];                                                                                                                      \
    product(d, mine, c, bf16);                                                                                                       \
    d0 = d[0], d1 = d[1], d2 = d[2], d3 = d[3];                                                                                      \
  }
PRODUCT(ptx_mma_sync_aligned_m16n8k16_row_col_f32_bf16_bf16_f32, true)
PRODUCT(ptx_mma_sync_aligned_m16n8k16_row_col_f32_f16_f16_f32, false)

namespace on_cpu {

inline void begin() {
  const uint64_t* v = given;
  kernel(v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8], v[9], v[10], v[11], v[12], v[13], v[14], v[15], v[16], v[17], v[18], v[19],
         v[20], v[21], v[22], v[23], v[24], v[25], v[26], v[27], v[28], v[29], v[30], v[31]);
  self->done = moved = true;
  _longjmp(scheduler, 1);
}
// Runs these blocks at once. False: they wait for one another, for ever.
inline bool run(std::vector<Block>& blocks, char* stacks) {
  std::vector<Fiber> fibers(blocks.size() * block_size.x);
  for (size_t i = 0; i < fibers.size(); i++) {
    Fiber& fiber = fibers[i];
    fiber.thread = {unsigned(i % block_size.x), 0, 0};
    fiber.block = &blocks[i / block_size.x];
    getcontext(&fiber.first);
    fiber.first.uc_stack.ss_sp = stacks + i * STACK;
    fiber.first.uc_stack.ss_size = STACK;
    makecontext(&fiber.first, begin, 0);
  }
  for (volatile size_t left = fibers.size(); left;) {
    moved = false;
    for (volatile size_t i = 0; i < fibers.size(); i = i + 1) {
      self = &fibers[i];
      if (self->done) continue;
      if (!_setjmp(scheduler)) {
        if (self->begun) _longjmp(self->at, 1);
        self->begun = true;
        setcontext(&self->first);
      }
      if (fibers[i].done) left = left - 1;
    }
    if (!moved) return false;
  }
  return true;
}

}  // namespace on_cpu

// side_by_side: blocks that run at once. 0: done; 1: the blocks wait for ever.
extern "C" int launch(void (*kernel)(...), unsigned x, unsigned y, unsigned z, unsigned threads, size_t shared, unsigned side_by_side,
                      const uint64_t* arguments) {
  using namespace on_cpu;
  on_cpu::kernel = kernel;
  given = arguments;
  block_size = {threads, 1, 1};
  grid_size = {x, y, z};
  const size_t all = (size_t)x * y * z, room = side_by_side * threads * STACK;
  char* stacks = (char*)mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  bool fine = stacks != MAP_FAILED;
  for (size_t first = 0; fine && first < all; first += side_by_side) {
    const size_t count = all - first < side_by_side ? all - first : side_by_side;
    std::vector<Block> blocks(count);
    std::vector<std::vector<uint4>> memory(count, std::vector<uint4>(shared / 16 + 8, uint4{~0u, ~0u, ~0u, ~0u}));  // NaN
    for (size_t i = 0; i < count; i++) {
      const size_t number = first + i;
      blocks[i].index = {unsigned(number % x), unsigned(number / x % y), unsigned(number / x / y)};
      blocks[i].shared = (char*)memory[i].data();
      blocks[i].warps.resize(threads / 32);
    }
    fine = run(blocks, stacks);
  }
  munmap(stacks, room);
  return fine ? 0 : 1;
}
