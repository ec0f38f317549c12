// What pairs of tokens of a chunk give to gradients, and the gradient of x in whole. A block has TILE tokens s, which are rows here, and
// goes over heads of a group. With u_st = x_s dy_t, m_st = (C_t B_s) exp(l_t - l_s), G the gradient of the state behind the chunk:
//
//   dx_s = dt_s (sum over t of m_st dy_t + to_end_s B_s G) + D dy_s        d(C_t B_s) = sum over heads of u_st exp(l_t - l_s) dt_s
//
// and of each token and head, for `ssd_finish`, `sums`: 0, 1: sum over s of u_st m_st dt_s, the tokens s of the first tile, of the second;
// 2: sum over t of u_st m_st; 3: to_end_s x_s B_s G; 4: from_start_t dy_t C_t S; 5: x_s dy_s.
//
// blockIdx: (slice of heads, tile), chunk.

constexpr int SLICE = 16;  // heads of a block
constexpr int STEPS = TILE / 16;
constexpr int RESIDENT = 3;  // blocks of a multiprocessor: 168 registers a thread, so x is read again and again from shared memory

// TILE tokens x WIDTH channels without room between rows: groups of eight channels stand in another order in each of eight rows, so that
// eight rows beside one another lie in other banks.
typedef unsigned short Dense[TILE][WIDTH];
__device__ __forceinline__ int shuffled(int row, int channel) { return channel ^ row % 8 * 8; }

struct Shared {
  Tile x, dy[TILES];         // dy: of tokens t, from this tile on
  Dense given, coming;       // of this tile; then dx in place of `coming`
  Line line;
  float of_warp[4][CHUNK];   // sums over a warp's tokens s
};
static_assert(sizeof(Shared) <= SHARED, "more shared memory than is asked for");

// The sum over the four lanes that have the same row.
__device__ __forceinline__ float over_columns(float v) {
  v += __shfl_xor_sync(~0u, v, 1);
  return v + __shfl_xor_sync(~0u, v, 2);
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) ssd_backward(
    const void* __restrict__ dy, const void* __restrict__ x, const float* __restrict__ D, const float* __restrict__ steps,
    const float* __restrict__ logs, const int* __restrict__ documents,
    const float* __restrict__ products,        // (n, groups, CHUNK, CHUNK): C_t B_s in row s
    const void* __restrict__ given,            // (n, groups, CHUNK, channels of a group): C_t S
    const void* __restrict__ coming,           // the same of B_s G
    void* __restrict__ dx,
    float* __restrict__ dproducts,             // (n, groups, slices, CHUNK, CHUNK), zeros where t is in a tile before that of s
    float* __restrict__ sums,                  // (6, n, heads, CHUNK)
    int length, int heads, int groups, int chunks, int slices, int x_stride) {
  extern __shared__ __align__(16) unsigned char bytes[];
  Shared& shared = *(Shared*)bytes;
  const int tile = blockIdx.x % TILES, slice = blockIdx.x / TILES % slices, group = blockIdx.x / TILES / slices;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, of_group = heads / groups;
  const u64 number = blockIdx.y, each = (u64)gridDim.y * heads * CHUNK;
  const u32 row0 = (u32)(blockIdx.y / chunks) * length;
  const int t0 = blockIdx.y % chunks * CHUNK, column = lane % 4 * 2, own = tile * TILE + warp * 16 + lane / 4;  // and own + 8
  const float* scores = products + (number * groups + group) * CHUNK * CHUNK;
  float dscores[TILES][STEPS][8] = {};
  for (int head = group * of_group + slice * SLICE; head < at_most((group + 1) * of_group, group * of_group + (slice + 1) * SLICE); head++) {
    __syncthreads();
    send_line(steps, logs, documents, number, head, heads, shared.line);
    send_tile(x, row0, x_stride, head * WIDTH, t0 + tile * TILE, length, shared.x);
    for (int j = 0; tile + j < TILES; j++)
      send_tile(dy, row0, heads * WIDTH, head * WIDTH, t0 + (tile + j) * TILE, length, shared.dy[j]);
    sent();
    const u64 of_states = (number * groups + group) * CHUNK + tile * TILE;  // and of dx, for the same places of a tile
    constexpr int QUADS = WIDTH / 4, ITEMS = TILE * QUADS / THREADS;
#pragma unroll 1  // registers are scarce
    for (int e = 0; e < ITEMS; e++) {
      const int row = (threadIdx.x + e * THREADS) / QUADS, channel = threadIdx.x % QUADS * 4;
      const u64 from = (of_states + row) * of_group * WIDTH + head % of_group * WIDTH + channel;
      copy_async<sizeof(Quad)>(&shared.given[row][shuffled(row, channel)], (const unsigned short*)given + from, true);
      copy_async<sizeof(Quad)>(&shared.coming[row][shuffled(row, channel)], (const unsigned short*)coming + from, true);
    }
    sent();
    all_but_the_last_arrived();
    __syncthreads();
    float found[WIDTH / 8][4] = {}, over_t[2] = {};
#pragma unroll
    for (int j = 0; j < TILES; j++) {
      if (tile + j >= TILES) continue;
#pragma unroll
      for (int k = 0; k < STEPS; k++) {
        const int first = (tile + j) * TILE + k * 16;
        float over_s[4] = {};
        if (j > 0 || k >= warp) {  // else all of these tokens t come before all of the warp's
          float u[2][4] = {};
#pragma unroll
          for (int p = 0; p < WIDTH / 16; p++) {
            u32 a[4], b[4];
            load_matrices(&shared.x[warp * 16 + lane % 16][p * 16 + lane / 16 * 8], a);
            load_matrices(&shared.dy[j][k * 16 + lane / 16 * 8 + lane % 8][p * 16 + lane / 8 % 2 * 8], b);
            multiply(u[0], a, b[0], b[1]);
            multiply(u[1], a, b[2], b[3]);
          }
          u32 m[4];
#pragma unroll
          for (int part = 0; part < 4; part++) {
            const int half = part % 2, right = part / 2, s = own + half * 8, t = first + right * 8 + column;
            const float2 score = *(const float2*)(scores + s * CHUNK + t);
            const float decay0 = between(shared.line, t, s), decay1 = between(shared.line, t + 1, s), step = shared.line.steps[s];
            const float u0 = u[right][2 * half] * decay0, u1 = u[right][2 * half + 1] * decay1;
            dscores[j][k][part * 2] = fmaf(u0, step, dscores[j][k][part * 2]);
            dscores[j][k][part * 2 + 1] = fmaf(u1, step, dscores[j][k][part * 2 + 1]);
            over_t[half] += u0 * score.x + u1 * score.y;
            over_s[2 * right] = fmaf(u0 * score.x, step, over_s[2 * right]);
            over_s[2 * right + 1] = fmaf(u1 * score.y, step, over_s[2 * right + 1]);
            m[part] = pack(score.x * decay0, score.y * decay1);
          }
          multiply_rows(found, m, shared.dy[j], k * 16);
        }
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
          for (int bit = 4; bit <= 16; bit *= 2) over_s[i] += __shfl_xor_sync(~0u, over_s[i], bit);
        if (lane < 4)
#pragma unroll
          for (int i = 0; i < 4; i++) shared.of_warp[warp][first + i / 2 * 8 + column + i % 2] = over_s[i];
      }
    }
    arrived();
    __syncthreads();
    const float skip = D[head];
    const u64 line = (number * heads + head) * CHUNK;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int s = own + half * 8;
      const int row = s % TILE;
      const float end = to_end(shared.line.logs, shared.line.documents, s), start = from_start(shared.line.logs, shared.line.documents, s);
      const float step = shared.line.steps[s];
      float of_end = 0.f, of_start = 0.f, of_skip = 0.f;
#pragma unroll
      for (int i = 0; i < WIDTH / 8; i++) {
        const int channel = i * 8 + column;
        Pair* place_of_dx = (Pair*)&shared.coming[row][shuffled(row, channel)];
        const float2 behind = unpack(*place_of_dx), before = unpack(*(const Pair*)&shared.given[row][shuffled(row, channel)]);
        const float2 here = unpack(*(const Pair*)&shared.x[row][channel]), out = unpack(*(const Pair*)&shared.dy[0][row][channel]);
        of_end += here.x * behind.x + here.y * behind.y;
        of_start += out.x * before.x + out.y * before.y;
        of_skip += out.x * here.x + out.y * here.y;
        *place_of_dx = pack(step * (found[i][2 * half] + end * behind.x) + skip * out.x,
                            step * (found[i][2 * half + 1] + end * behind.y) + skip * out.y);
      }
      of_end = over_columns(of_end), of_start = over_columns(of_start), of_skip = over_columns(of_skip);
      const float pairs = over_columns(over_t[half]);
      if (lane % 4 == 0) {
        sums[2 * each + line + s] = pairs;
        sums[3 * each + line + s] = end * of_end;
        sums[4 * each + line + s] = start * of_start;
        sums[5 * each + line + s] = of_skip;
      }
    }
    __syncthreads();
    const int t = threadIdx.x;
    float total = 0.f;
    if (t >= tile * TILE)
      for (int w = 0; w < 4; w++) total += shared.of_warp[w][t];
    sums[tile * each + line + t] = total;
#pragma unroll 1  // registers are scarce
    for (int e = 0; e < ITEMS; e++) {
      const int row = (threadIdx.x + e * THREADS) / QUADS, channel = threadIdx.x % QUADS * 4, s = t0 + tile * TILE + row;
      if (s < length) *quad_in(dx, place(row0 + s, heads * WIDTH, head * WIDTH + channel)) = *(const Quad*)&shared.coming[row][shuffled(row, channel)];
    }
  }
  float* to = dproducts + ((number * groups + group) * slices + slice) * CHUNK * CHUNK;
#pragma unroll
  for (int j = 0; j < TILES; j++) {
    if (tile + j >= TILES) continue;
#pragma unroll
    for (int k = 0; k < STEPS; k++)
#pragma unroll
      for (int part = 0; part < 4; part++)
        *(float2*)(to + (own + part % 2 * 8) * CHUNK + (tile + j) * TILE + k * 16 + part / 2 * 8 + column) =
            make_float2(dscores[j][k][part * 2], dscores[j][k][part * 2 + 1]);
  }
}
