// RMS norms (arXiv 1910.07467); behind common.cuh. A block has a row at a time, a thread ITEMS quads of it, which stay in registers; it
// goes on to the row gridDim.x further on. Sums over rows (of the weight's gradient) are kept by each block and added up afterwards.
//
//   n = v scale, scale = 1 / sqrt(mean(v^2) + epsilon)        out = n w
//   backward: g = dout w,  dv = scale (g - n mean(g n)),  dw = sum over rows of dout n
//
// Given on the compiler's command line, too:
//   THREADS, ITEMS   a row is at most 4 THREADS ITEMS wide

constexpr int WARPS = THREADS / 32;

__device__ __forceinline__ int quad_of(int item) { return (item * THREADS + threadIdx.x) * 4; }

__device__ __forceinline__ void load4(const void* from, u32 row, u32 stride, int quad, float (&v)[4]) {
  unpack(*(const Quad*)in(from, place(row, stride, quad)), v);
}
__device__ __forceinline__ void store4(void* to, u32 row, u32 stride, int quad, const float (&v)[4]) {
  *quad_in(to, place(row, stride, quad)) = pack(v);
}
