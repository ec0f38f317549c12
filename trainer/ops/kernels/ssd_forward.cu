// y of TILE tokens of a chunk and head: pairs of them, what the chunk's state gave, and D x. blockIdx: (head, tile), chunk.

struct Shared {
  Tile x;
  Line line;
};
static_assert(sizeof(Shared) <= SHARED, "more shared memory than is asked for");

extern "C" __global__ void __launch_bounds__(THREADS) ssd_forward(
    const void* __restrict__ x, const float* __restrict__ D, const float* __restrict__ steps, const float* __restrict__ logs,
    const int* __restrict__ documents,
    const float* __restrict__ products,        // (n, groups, CHUNK, CHUNK): C_t B_s
    const void* __restrict__ given,            // (n, groups, CHUNK, channels of a group): C_t S
    void* __restrict__ y, int length, int heads, int groups, int chunks, int x_stride) {
  extern __shared__ __align__(16) unsigned char bytes[];
  Shared& shared = *(Shared*)bytes;
  const int head = blockIdx.x / TILES, tile = blockIdx.x % TILES, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int of_group = heads / groups, group = head / of_group;
  const u64 number = blockIdx.y;
  const u32 row0 = (u32)(blockIdx.y / chunks) * length;
  const int t0 = blockIdx.y % chunks * CHUNK, column = lane % 4 * 2, own = tile * TILE + warp * 16 + lane / 4;  // and own + 8
  const float* scores = products + (number * groups + group) * CHUNK * CHUNK;
  float sum[WIDTH / 8][4] = {};
  for (int from = 0; from <= tile; from++) {
    __syncthreads();
    if (from == 0) load_line(steps, logs, documents, number, head, heads, shared.line);
    load_tile(x, row0, x_stride, head * WIDTH, t0 + from * TILE, length, shared.x);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < TILE / 16; k++) {
      if (from == tile && k > warp) continue;  // all of these tokens come later
      u32 a[4];
#pragma unroll
      for (int part = 0; part < 4; part++) {
        const int t = own + part % 2 * 8, s = from * TILE + k * 16 + part / 2 * 8 + column;
        const float2 score = *(const float2*)(scores + t * CHUNK + s);
        a[part] = pack(score.x * between(shared.line, t, s) * shared.line.steps[s],
                       score.y * between(shared.line, t, s + 1) * shared.line.steps[s + 1]);
      }
      multiply_rows(sum, a, shared.x, k * 16);
    }
  }
  const float skip = D[head];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int t = own + half * 8;
    if (t0 + t >= length) continue;
    const float factor = from_start(shared.line.logs, shared.line.documents, t);
    const u64 from = ((number * groups + group) * CHUNK + t) * of_group * WIDTH + head % of_group * WIDTH + column;
    const u64 to = ((u64)row0 + t0 + t) * heads * WIDTH + head * WIDTH + column;
#pragma unroll
    for (int j = 0; j < WIDTH / 8; j++) {
      const float2 state = two(given, from + j * 8), here = unpack(*(const Pair*)&shared.x[t % TILE][j * 8 + column]);
      put_two(y, to + j * 8, sum[j][2 * half] + factor * state.x + skip * here.x, sum[j][2 * half + 1] + factor * state.y + skip * here.y);
    }
  }
}
