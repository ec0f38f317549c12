// y of TILE tokens of a chunk, for heads of a group one after another: pairs of tokens, what the chunk's state gave, and D x. The products
// C_t B_s are the same for all of these heads and stay in registers. blockIdx: (slice of heads, tile), chunk.

constexpr int SLICE = 8;     // heads of a block
constexpr int STEPS = TILE / 16;
constexpr int RESIDENT = 3;  // blocks of a multiprocessor: 168 registers a thread

struct Shared {
  struct {
    Tile x[TILES];
    Line line;
  } of_head[2];              // this head's, and the next one's, which is on its way
};
static_assert(sizeof(Shared) <= SHARED, "more shared memory than is asked for");

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) ssd_forward(
    const void* __restrict__ x, const float* __restrict__ D, const float* __restrict__ steps, const float* __restrict__ logs,
    const int* __restrict__ documents,
    const float* __restrict__ products,        // (n, groups, CHUNK, CHUNK): C_t B_s
    const void* __restrict__ given,            // (n, groups, CHUNK, channels of a group): C_t S
    void* __restrict__ y, int length, int heads, int groups, int chunks, int slices, int x_stride) {
  extern __shared__ __align__(16) unsigned char bytes[];
  Shared& shared = *(Shared*)bytes;
  const int tile = blockIdx.x % TILES, slice = blockIdx.x / TILES % slices, group = blockIdx.x / TILES / slices;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, of_group = heads / groups;
  const u64 number = blockIdx.y;
  const u32 row0 = (u32)(blockIdx.y / chunks) * length;
  const int t0 = blockIdx.y % chunks * CHUNK, column = lane % 4 * 2, own = tile * TILE + warp * 16 + lane / 4;  // and own + 8

  float2 scores[TILES][STEPS][4];
#pragma unroll
  for (int from = 0; from < TILES; from++)
#pragma unroll
    for (int k = 0; k < STEPS; k++)
#pragma unroll
      for (int part = 0; part < 4; part++) {
        const int t = own + part % 2 * 8, s = from * TILE + k * 16 + part / 2 * 8 + column;
        scores[from][k][part] = make_float2(0.f, 0.f);
        if (from <= tile) scores[from][k][part] = *(const float2*)(products + ((number * groups + group) * CHUNK + t) * CHUNK + s);
      }

  auto send = [&](int head, int side) {
    send_line(steps, logs, documents, number, head, heads, shared.of_head[side].line);
    for (int from = 0; from <= tile; from++)
      send_tile(x, row0, x_stride, head * WIDTH, t0 + from * TILE, length, shared.of_head[side].x[from]);
    sent();
  };

  const int first = group * of_group + slice * SLICE, end = at_most((group + 1) * of_group, first + SLICE);
  send(first, 0);
  int side = 0;
  for (int head = first; head < end; head++, side ^= 1) {
    auto& here = shared.of_head[side];
    Pair states[2][WIDTH / 8];
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
      for (int j = 0; j < WIDTH / 8; j++) {
        const u64 from = ((number * groups + group) * CHUNK + own + half * 8) * of_group * WIDTH + head % of_group * WIDTH + column;
        states[half][j] = *(const Pair*)((const unsigned short*)given + from + j * 8);
      }
    arrived();
    __syncthreads();  // also: nobody reads the other side any more
    if (head + 1 < end) send(head + 1, side ^ 1);
    float sum[WIDTH / 8][4] = {};
#pragma unroll
    for (int from = 0; from < TILES; from++) {
      if (from > tile) continue;
#pragma unroll
      for (int k = 0; k < STEPS; k++) {
        if (from == tile && k > warp) continue;  // all of these tokens come later
        u32 a[4];
#pragma unroll
        for (int part = 0; part < 4; part++) {
          const int t = own + part % 2 * 8, s = from * TILE + k * 16 + part / 2 * 8 + column;
          const float2 score = scores[from][k][part];
          a[part] = pack(score.x * between(here.line, t, s) * here.line.steps[s],
                         score.y * between(here.line, t, s + 1) * here.line.steps[s + 1]);
        }
        multiply_rows(sum, a, here.x[from], k * 16);
      }
    }
    const float skip = D[head];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int t = own + half * 8;
      if (t0 + t >= length) continue;
      const float factor = from_start(here.line.logs, here.line.documents, t);
      const u64 to = ((u64)row0 + t0 + t) * heads * WIDTH + head * WIDTH + column;
#pragma unroll
      for (int j = 0; j < WIDTH / 8; j++) {
        const float2 state = unpack(states[half][j]), own_x = unpack(*(const Pair*)&here.x[tile][t % TILE][j * 8 + column]);
        put_two(y, to + j * 8, sum[j][2 * half] + factor * state.x + skip * own_x.x, sum[j][2 * half + 1] + factor * state.y + skip * own_x.y);
      }
    }
  }
}
