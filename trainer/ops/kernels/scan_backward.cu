// Backward of the selective scan. With g_t the gradient that reaches h_t and a_t = exp(dt_t A):
//
//   g_t = C_t dy_t + a_{t+1} g_{t+1}            dy = dout SiLU(z)
//   dC = sum over d of dy h      dB = sum over d of g dt u      d(dt A) = g_t a_t h_{t-1}      d(dt u) = sum over n of g B
//
// Tiles of SAVED steps go from the end to the beginning. In each, a thread computes the states again from the saved one before the
// tile, keeps all SAVED of them in registers, and walks back. Threads have the two roles of the forward: preparing, four channels of a
// row; scanning, two channels x HELD states. There is one buffer, so that little shared memory is taken: scan tile k, barrier, write out
// what was found of k and prepare k - 1 in its place (a preparing thread reads and writes its own row only), barrier. Nothing is added
// atomically; each sum has one order, so equal inputs give equal bits.
//
// Sums over channels (dB, dC: 2 x HELD values of a thread) go over the 32 / LANES lanes that have the same states. A lane's states lie
// in an order of its own, slot i having state i ^ order, and lanes that exchange differ in `order`: so in the first rounds all lanes
// give away the same slots, and no instruction has to choose. B and C lie in shared memory once for each order.

constexpr int TILE = SAVED;
constexpr int HELD = 4;                             // states of a thread
constexpr int LANES = STATES / HELD;
constexpr int COLUMNS = 32 / LANES;                 // lanes of a warp that have the same states of other channels
constexpr int ORDERS = at_most(HELD, COLUMNS);
constexpr int ALIKE = COLUMNS / ORDERS;             // neighbouring lanes that read the same B and C, which halves what that costs
constexpr int WARPS = at_most(4, at_least(1, STATES / 4));
constexpr int THREADS = 32 * WARPS;
constexpr int WARP_CHANNELS = COLUMNS * PAIR;
constexpr int CHANNELS = WARP_CHANNELS * WARPS;
constexpr int QUADS = CHANNELS / 4;
constexpr int PREPARERS = at_most(THREADS, TILE * QUADS);  // threads that prepare; in each block other warps, where not all do
constexpr int ROWS = PREPARERS / QUADS;
constexpr int ITEMS = TILE / ROWS;
constexpr int BC_ITEMS = parts(TILE * STATES, THREADS);
constexpr int SUM_ITEMS = parts(TILE * STATES, THREADS);
// Blocks of a multiprocessor. BLOCKS, given by the caller: 3 (168 registers a thread), or 2 (255) where there are not as many. With few
// states a thread prepares several rows at once, for which 168 are too few.
constexpr int RESIDENT = (STATES < 16 ? 2 : BLOCKS) * 4 / WARPS;
static_assert(LANES <= 16 && PREPARERS % QUADS == 0 && TILE % ROWS == 0, "a layout that does not exist");

struct Shared {
  struct {
    float dt[TILE][CHANNELS];            // FOREVER where a document begins
    float dt_u[TILE][CHANNELS];
    float dy[TILE][CHANNELS];
    float slope[TILE][CHANNELS];         // of softplus
    float B[TILE][ORDERS][STATES];
    float apart[16];                     // B and C are written together, so to other banks
    float C[TILE][ORDERS][STATES];
  } tile;
  struct {
    float d_dt_u[TILE * CHANNELS + 16];  // sums over states: of g B; 16 floats more, as they are written together with
    float d_dt[TILE * CHANNELS];         // those of d(dt A) A log2(e)
    float state[WARPS][TILE][2 * STATES];  // sums over a warp's channels: dB, then dC
  } sums;
  Quad rows[ITEMS][5][PREPARERS];        // u, delta, dout, y, z
  Pair bc[BC_ITEMS][THREADS];
  alignas(16) float start[PAIR][THREADS][HELD];
  alignas(16) float sum_D[PREPARERS][4], sum_bias[PREPARERS][4];  // of dD and dbias, over all tiles: registers are scarcer
  float bias[CHANNELS], D[CHANNELS];
  int unit;
};
static_assert(sizeof(Shared) <= 99 * 1024, "more shared memory than a block may have on sm_86, sm_89 and sm_120");
extern "C" __device__ const int scan_backward_shared = sizeof(Shared);
extern "C" __device__ const int scan_backward_threads = THREADS;
extern "C" __device__ const int scan_backward_channels = CHANNELS;
extern "C" __device__ const int scan_backward_time = TILE;

// Four states between their natural order and a lane's; it is its own inverse.
__device__ __forceinline__ void reorder(const float (&v)[HELD], int order, float (&to)[HELD]) {
  float half[HELD];
#pragma unroll
  for (int i = 0; i < HELD; i++) half[i] = order & 1 ? v[i ^ 1] : v[i];
#pragma unroll
  for (int i = 0; i < HELD; i++) to[i] = order & 2 ? half[i ^ 2] : half[i];
}

// Sums dB and dC of a thread's states over the lanes of other channels, and writes them to `to` (dB of all states, then dC).
__device__ __forceinline__ void sum_over_channels(float (&dB)[HELD], float (&dC)[HELD], int column, int own, float* to) {
  constexpr int BIT0 = ALIKE * LANES, BIT1 = 2 * BIT0;  // of the lane: the lowest bits of `column`
  const int order = column % ORDERS;
  if constexpr (ORDERS == 4) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      dB[i] += __shfl_xor_sync(~0u, dB[i + 2], BIT1);
      dC[i] += __shfl_xor_sync(~0u, dC[i + 2], BIT1);
    }
  }
#pragma unroll
  for (int i = 0; i < HELD; i += ORDERS) {
    dB[i] += __shfl_xor_sync(~0u, dB[i + 1], BIT0);
    dC[i] += __shfl_xor_sync(~0u, dC[i + 1], BIT0);
  }
  if constexpr (ALIKE > 1) {
    const bool upper = column & ORDERS;
    float sum = (upper ? dC[0] : dB[0]) + __shfl_xor_sync(~0u, upper ? dB[0] : dC[0], 1);
#pragma unroll
    for (int bit = 2; bit < ALIKE; bit *= 2) sum += __shfl_xor_sync(~0u, sum, bit);
    to[(upper ? STATES : 0) + own + order] = sum;
  } else {
#pragma unroll
    for (int i = 0; i < HELD; i += ORDERS) {
      to[own + (i ^ order)] = dB[i];
      to[STATES + own + (i ^ order)] = dC[i];
    }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) scan_backward(
    const void* __restrict__ u, const void* __restrict__ delta, const void* __restrict__ z, const void* __restrict__ B,
    const void* __restrict__ C, const float* __restrict__ A, const float* __restrict__ D, const float* __restrict__ bias,
    const unsigned char* __restrict__ resets,  // (batch, length) or null
    const void* __restrict__ dout,
    const void* __restrict__ y,                // C h + D u
    const float* __restrict__ states,          // (batch, length / SAVED, channels, STATES): before each SAVED steps
    float* carry,                              // (chunks + 1, batch, channels, STATES): 0 the last state's gradient, `chunks` the first's
    void* __restrict__ du, void* __restrict__ ddelta, void* __restrict__ dz,
    float* __restrict__ dBC,                   // (batch, groups, length, 2 STATES): dB and dC, each group's part
    float* __restrict__ dA,                    // (batch, chunks, channels, STATES)
    float* __restrict__ dD, float* __restrict__ dbias,  // (batch, chunks, channels)
    int* counters,                             // zeros: the units drawn, then the chunks done of each chain
    int batch, int length, int channels, int chunk, int chunks,  // chunk: steps, a multiple of TILE
    int linked,                                // the carries of all chunks are there already
    int z_stride, int bc_stride) {
  extern __shared__ __align__(16) unsigned char bytes[];
  Shared& shared = *(Shared*)bytes;
  const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32;
  const int order = lane / (ALIKE * LANES), column = lane % ALIKE * ORDERS + order, part = lane / ALIKE % LANES;
  const int own = part * HELD, channel = warp * WARP_CHANNELS + column * PAIR;  // scanning
  // Where not all prepare, a hash says which warps do: others than in the blocks beside this one.
  const int preparer = PREPARERS == THREADS ? tid : (tid + (blockIdx.x * 0x9E3779B1u >> 16) * PREPARERS) % THREADS;
  const bool prepares = PREPARERS == THREADS || preparer < PREPARERS;
  const int quad = preparer % QUADS * 4, first_row = preparer / QUADS;  // preparing
  const int groups = parts(channels, CHANNELS), chains = groups * batch;
  for (;;) {
    const int unit = next_unit(counters, &shared.unit);
    if (unit >= chains * chunks) return;
    // Chunks are numbered from the end.
    const int chain = unit % chains, number = unit / chains, sequence = chain / groups, group = chain % groups * CHANNELS;
    const int begin = (chunks - 1 - number) * chunk, end = at_most(length, begin + chunk);
    const int last = begin + (end - begin - 1) / TILE * TILE;
    const bool real = group + quad < channels, mine = group + channel < channels;
    const u32 row0 = (u32)sequence * length;
    const u32 state_in_row = (group + channel) * STATES + own;
    const u64 state0 = (u64)sequence * channels * STATES + state_in_row;
    const u64 all_states = (u64)batch * channels * STATES;

    if (prepares) {
      const float none[4] = {};
      write(shared.sum_D[preparer], none);
      write(shared.sum_bias[preparer], none);
    }
    for (int c = tid; c < CHANNELS; c += THREADS) {
      shared.bias[c] = group + c < channels ? bias[group + c] : 0.f;
      shared.D[c] = group + c < channels ? D[group + c] : 0.f;
    }
    __syncthreads();

    unsigned char begins[ITEMS] = {};
    auto send = [&](int t0) {
      if (prepares) {
#pragma unroll
        for (int e = 0; e < ITEMS; e++) {
          const int t = t0 + first_row + e * ROWS;
          const bool valid = real && t < end;
          const u64 at = place(row0 + t, channels, group + quad);
          copy_async<sizeof(Quad)>(&shared.rows[e][0][preparer], in(u, at), valid);
          copy_async<sizeof(Quad)>(&shared.rows[e][1][preparer], in(delta, at), valid);
          copy_async<sizeof(Quad)>(&shared.rows[e][2][preparer], in(dout, at), valid);
          copy_async<sizeof(Quad)>(&shared.rows[e][3][preparer], in(y, at), valid);
          copy_async<sizeof(Quad)>(&shared.rows[e][4][preparer], in(z, place(row0 + t, z_stride, group + quad)), valid);
          begins[e] = resets && valid ? resets[row0 + t] : 0;
        }
      }
#pragma unroll
      for (int e = 0; e < BC_ITEMS; e++) {
        const int item = tid + e * THREADS, t = item / STATES, n = item % (STATES / 2) * 2;
        const bool is_C = item % STATES >= STATES / 2, valid = t < TILE && t0 + t < end;
        const char* from = in(is_C ? C : B, place(row0 + t0 + t, bc_stride, n));
        copy_async<sizeof(Pair)>(&shared.bc[e][tid], from, valid);
      }
      const float* start = states + (u64)(sequence * parts(length, SAVED) + t0 / SAVED) * channels * STATES + state_in_row;
#pragma unroll
      for (int j = 0; j < PAIR; j++) copy_async<16>(shared.start[j][tid], start + j * STATES, mine);
      sent();
    };

    float h[PAIR][HELD];
    Quad u_here[ITEMS];
    auto prepare = [&](int t0) {
      arrived();
      if (prepares) {
#pragma unroll
        for (int e = 0; e < ITEMS; e++) {
          const int row = first_row + e * ROWS;
          u_here[e] = shared.rows[e][0][preparer];
          float u4[4], delta4[4], z4[4], dout4[4], y4[4], dz4[4], dy4[4], bias4[4], dt4[4], dt_u4[4], slope4[4];
          const float special = begins[e] ? FOREVER : t0 + row < end ? -1.f : 0.f;  // beyond the end u and dy are 0: nothing changes
          read(&shared.bias[quad], bias4);
          unpack(u_here[e], u4);
          unpack(shared.rows[e][1][preparer], delta4);
          unpack(shared.rows[e][2][preparer], dout4);
          unpack(shared.rows[e][3][preparer], y4);
          unpack(shared.rows[e][4][preparer], z4);
#pragma unroll
          for (int i = 0; i < 4; i++) {
            const float dt = softplus(delta4[i] + bias4[i], slope4[i]);
            const float open = sigmoid(z4[i]), through = dout4[i] * open;
            dy4[i] = through * z4[i];
            dz4[i] = through * y4[i] * fmaf(z4[i], 1.f - open, 1.f);
            dt4[i] = special >= 0.f ? special : dt;
            dt_u4[i] = dt * u4[i];
          }
          write(&shared.tile.dt[row][quad], dt4);
          write(&shared.tile.dt_u[row][quad], dt_u4);
          write(&shared.tile.dy[row][quad], dy4);
          write(&shared.tile.slope[row][quad], slope4);
          if (real && t0 + row < end) *quad_in(dz, place(row0 + t0 + row, channels, group + quad)) = pack(dz4);
        }
      }
#pragma unroll
      for (int e = 0; e < BC_ITEMS; e++) {
        const int item = tid + e * THREADS, t = item / STATES, n = item % (STATES / 2) * 2;
        const bool is_C = item % STATES >= STATES / 2;
        const float2 two = unpack(shared.bc[e][tid]);
        if (TILE * STATES % THREADS == 0 || t < TILE)
#pragma unroll
          for (int o = 0; o < ORDERS; o++)
            *(float2*)&(is_C ? shared.tile.C : shared.tile.B)[t][o][n ^ (o & 2)] = o & 1 ? make_float2(two.y, two.x) : two;
      }
#pragma unroll
      for (int j = 0; j < PAIR; j++) reorder(shared.start[j][tid], order, h[j]);
    };

    float a[PAIR][HELD], g[PAIR][HELD], sum_A[PAIR][HELD];  // g: a_{t+1} g_{t+1} of the step before
    auto scan = [&] {
      float past[TILE][PAIR][HELD];  // the state before each step
#pragma unroll
      for (int s = 0; s < TILE; s++) {
        float B4[HELD], dt[PAIR], dt_u[PAIR];
        read(&shared.tile.B[s][order][own], B4);
        read(&shared.tile.dt[s][channel], dt);
        read(&shared.tile.dt_u[s][channel], dt_u);
#pragma unroll
        for (int j = 0; j < PAIR; j++)
#pragma unroll
          for (int i = 0; i < HELD; i++) {
            past[s][j][i] = h[j][i];
            h[j][i] = fmaf(exp2_fast(dt[j] * a[j][i]), h[j][i], dt_u[j] * B4[i]);
          }
      }
#pragma unroll
      for (int s = TILE - 1; s >= 0; s--) {
        float B4[HELD], C4[HELD], dt[PAIR], dt_u[PAIR], dy[PAIR], dB[HELD] = {}, dC[HELD] = {}, over_states[2 * PAIR];
        read(&shared.tile.B[s][order][own], B4);
        read(&shared.tile.C[s][order][own], C4);
        read(&shared.tile.dt[s][channel], dt);
        read(&shared.tile.dt_u[s][channel], dt_u);
        read(&shared.tile.dy[s][channel], dy);
#pragma unroll
        for (int j = 0; j < PAIR; j++) {
          float d_dt_u = 0.f, d_dt = 0.f;
#pragma unroll
          for (int i = 0; i < HELD; i++) {
            const float decay = exp2_fast(dt[j] * a[j][i]);
            const float after = s == TILE - 1 ? h[j][i] : past[s == TILE - 1 ? s : s + 1][j][i];
            const float reaching = fmaf(dy[j], C4[i], g[j][i]);
            dC[i] = fmaf(dy[j], after, dC[i]);
            dB[i] = fmaf(reaching, dt_u[j], dB[i]);
            d_dt_u = fmaf(reaching, B4[i], d_dt_u);
            g[j][i] = reaching * decay;
            const float d_exponent = g[j][i] * past[s][j][i];
            d_dt = fmaf(d_exponent, a[j][i], d_dt);
            sum_A[j][i] = fmaf(d_exponent, dt[j], sum_A[j][i]);
          }
          over_states[j] = d_dt_u;
          over_states[PAIR + j] = d_dt;
        }
        sum_over_channels(dB, dC, column, own, shared.sums.state[warp][s]);
        sum_over_lanes<2 * PAIR, LANES, ALIKE>(over_states, part);
        const int first = first_left<2 * PAIR, LANES>(part);
#pragma unroll
        for (int r = 0; r < left(2 * PAIR, LANES); r++)
          (first + r < PAIR ? shared.sums.d_dt_u : shared.sums.d_dt)[s * CHANNELS + channel + (first + r) % PAIR] = over_states[r];
      }
    };

    auto finish = [&](int t0) {
      if (prepares && real) {
#pragma unroll
        for (int e = 0; e < ITEMS; e++) {
          const int row = first_row + e * ROWS;
          if (t0 + row >= end) continue;
          float u4[4], dy4[4], d_dt_u4[4], d_dt4[4], dt4[4], slope4[4], du4[4], ddelta4[4], D4[4], sum_D[4], sum_bias[4];
          read(&shared.D[quad], D4);
          read(shared.sum_D[preparer], sum_D);
          read(shared.sum_bias[preparer], sum_bias);
          unpack(u_here[e], u4);
          read(&shared.tile.dy[row][quad], dy4);
          read(&shared.sums.d_dt_u[row * CHANNELS + quad], d_dt_u4);
          read(&shared.sums.d_dt[row * CHANNELS + quad], d_dt4);
          read(&shared.tile.dt[row][quad], dt4);
          read(&shared.tile.slope[row][quad], slope4);
          const u64 at = place(row0 + t0 + row, channels, group + quad);
          if (dt4[0] == FOREVER) {  // the true steps of a document's beginning are computed again
            float delta4[4];
            unpack(*(const Quad*)in(delta, at), delta4);
#pragma unroll
            for (int i = 0; i < 4; i++) dt4[i] = softplus(delta4[i] + shared.bias[quad + i]);
          }
#pragma unroll
          for (int i = 0; i < 4; i++) {
            ddelta4[i] = fmaf(d_dt_u4[i], u4[i], d_dt4[i] * LN2) * slope4[i];
            du4[i] = fmaf(d_dt_u4[i], dt4[i], D4[i] * dy4[i]);
            sum_D[i] = fmaf(dy4[i], u4[i], sum_D[i]);
            sum_bias[i] += ddelta4[i];
          }
          write(shared.sum_D[preparer], sum_D);
          write(shared.sum_bias[preparer], sum_bias);
          *quad_in(du, at) = pack(du4);
          *quad_in(ddelta, at) = pack(ddelta4);
        }
      }
#pragma unroll
      for (int e = 0; e < SUM_ITEMS; e++) {
        const int item = 2 * (tid + e * THREADS), t = item / (2 * STATES), n = item % (2 * STATES);
        if (t >= TILE || t0 + t >= end) continue;
        float2 sum = *(float2*)&shared.sums.state[0][t][n];
#pragma unroll
        for (int w = 1; w < WARPS; w++) {
          const float2 more = *(float2*)&shared.sums.state[w][t][n];
          sum.x += more.x;
          sum.y += more.y;
        }
        *(float2*)(dBC + ((u64)chain * length + t0) * (2 * STATES) + item) = sum;
      }
    };

    send(last);
    if (number > 0 && !linked) wait_for(counters + 1 + chain, number);
#pragma unroll
    for (int j = 0; j < PAIR; j++) {
      float natural_a[HELD], natural_g[HELD];
#pragma unroll
      for (int i = 0; i < HELD; i++) {
        natural_a[i] = mine ? A[(u64)(group + channel + j) * STATES + own + i] * LOG2E : 0.f;
        natural_g[i] = mine ? __ldcg(carry + number * all_states + state0 + j * STATES + i) : 0.f;
        sum_A[j][i] = 0.f;
      }
      reorder(natural_a, order, a[j]);
      reorder(natural_g, order, g[j]);
    }
    prepare(last);
    if (last > begin) send(last - TILE);
    __syncthreads();
#pragma unroll 1
    for (int t0 = last; t0 >= begin; t0 -= TILE) {
      scan();
      __syncthreads();
      finish(t0);
      if (t0 > begin) prepare(t0 - TILE);
      if (t0 - TILE > begin) send(t0 - 2 * TILE);
      __syncthreads();
    }

#pragma unroll
    for (int j = 0; j < PAIR; j++)
      if (mine) {
        float natural[HELD];
        reorder(sum_A[j], order, natural);
        write(dA + ((u64)(sequence * chunks + number) * channels + group + channel + j) * STATES + own, natural);
        reorder(g[j], order, natural);
        if (!(linked && number + 1 < chunks)) write(carry + (number + 1) * all_states + state0 + j * STATES, natural);
      }
    if (number + 1 < chunks && !linked) announce(counters + 1 + chain, number + 1);
    for (int c = tid; c < CHANNELS && group + c < channels; c += THREADS) {
      float all_D = 0.f, all_bias = 0.f;
      for (int row = 0; row < ROWS; row++) {
        all_D += shared.sum_D[row * QUADS + c / 4][c % 4];
        all_bias += shared.sum_bias[row * QUADS + c / 4][c % 4];
      }
      const u64 at = (u64)(sequence * chunks + number) * channels + group + c;
      dD[at] = all_D;
      dbias[at] = all_bias;
    }
  }
}
