// Products of tiles for pairs of tokens; behind ssd_common.cuh. A tile is TILE tokens x WIDTH channels in shared memory, a block is four
// warps, of which each has 16 rows of the result.
//
// In a fragment of 16 rows a thread has rows `lane / 4` and 8 below it; of 16 columns it has 2 (lane % 4), the one beside, and both 8 on.

constexpr int TILE = 64;
constexpr int TILES = CHUNK / TILE;
constexpr int PITCH = WIDTH + 8;  // elements from row to row: eight rows beside one another lie in other banks
constexpr int THREADS = 128;
typedef unsigned short Tile[TILE][PITCH];

// Tokens `first` and on of one head; zeros beyond the sequence. They are there after `sent`, `arrived` and a barrier.
__device__ __forceinline__ void send_tile(const void* x, u32 row0, u32 stride, int channel, int first, int length, Tile& tile) {
  constexpr int QUADS = WIDTH / 4, ITEMS = TILE * QUADS / THREADS;
#pragma unroll
  for (int e = 0; e < ITEMS; e++) {
    const int item = threadIdx.x + e * THREADS, t = first + item / QUADS;
    copy_async<sizeof(Quad)>(&tile[item / QUADS][item % QUADS * 4], in(x, place(row0 + t, stride, channel + item % QUADS * 4)), t < length);
  }
}

// Four matrices of 8 x 8, each lane naming a row of 8; and their transposes. What they read is there since the last barrier.
__device__ __forceinline__ void load_matrices(const unsigned short* row, u32 (&m)[4]) {
  const u32 address = (u32)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3]) : "r"(address));
}
__device__ __forceinline__ void load_transposed(const unsigned short* row, u32 (&m)[4]) {
  const u32 address = (u32)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3]) : "r"(address));
}

// c += a b, 16 x 16 times 16 x 8.
__device__ __forceinline__ void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if ELEMENT == 0
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};" : "=f"(c[0]), "=f"(c[1]), "=f"(c[2]), "=f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
#else
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};" : "=f"(c[0]), "=f"(c[1]), "=f"(c[2]), "=f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
#endif
}

// c += a times tile rows `first` to `first + 15`: 16 tokens x WIDTH channels, eight columns a fragment.
__device__ __forceinline__ void multiply_rows(float (&c)[WIDTH / 8][4], const u32 (&a)[4], Tile& tile, int first) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int pair = 0; pair < WIDTH / 16; pair++) {
    u32 b[4];
    load_transposed(&tile[first + lane % 16][pair * 16 + lane / 16 * 8], b);
    multiply(c[2 * pair], a, b[0], b[1]);
    multiply(c[2 * pair + 1], a, b[2], b[3]);
  }
}

// Decays of one chunk and head; documents of the chunk.
struct Line {
  float steps[CHUNK], logs[CHUNK];
  int documents[CHUNK];
};
__device__ __forceinline__ void send_line(const float* steps, const float* logs, const int* documents, u64 number, int head, int heads,
                                          Line& line) {
  const u64 at = (number * heads + head) * CHUNK + threadIdx.x;
  copy_async<4>(&line.steps[threadIdx.x], steps + at, true);
  copy_async<4>(&line.logs[threadIdx.x], logs + at, true);
  copy_async<4>(&line.documents[threadIdx.x], documents + number * CHUNK + threadIdx.x, true);
}

// What token s gives to token t, but for C_t B_s and dt_s.
__device__ __forceinline__ float between(const Line& line, int t, int s) {
  return t >= s && line.documents[t] == line.documents[s] ? decay(line.logs[t] - line.logs[s]) : 0.f;
}
