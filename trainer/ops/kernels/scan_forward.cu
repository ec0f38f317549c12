// Forward of the selective scan: out = (C h + D u) SiLU(z), h_t = exp(dt_t A) h_{t-1} + dt_t u_t B_t, dt = softplus(delta + bias).
//
// A block scans CHANNELS channels of one sequence, tile after tile of TIME steps. Its threads have two roles:
//
//   preparing   a thread takes four channels of a row: reads u, delta and z, computes the step and what enters the state, and later
//               adds D u, gates and writes out what the scan found. Rows of a tile are spread over the threads.
//   scanning    a warp has LANES lanes for the states (OWN states each) times COLUMNS lanes for channels (two each), so a thread
//               keeps 2 x OWN states in registers for all of time. y = C h is summed over the LANES lanes, several steps at once.
//               ALIKE neighbouring lanes have the same states, which halves what reading B and C costs.
//
// The roles meet in shared memory, in two buffers, with one barrier a tile: while tile k is scanned, k + 1 is prepared and k + 2 on
// its way from memory. All have read what was prepared of k before the barrier that ends it, and what is written over it comes after.

constexpr int TIME = 16;                                       // steps of a tile
constexpr int LANES = STATES / OWN;                            // OWN, given by the caller: 4, or 2 where there is little to do at once
constexpr int WARPS = at_most(4, at_least(1, STATES / 4));
constexpr int THREADS = 32 * WARPS;
constexpr int COLUMNS = 32 / LANES;
constexpr int ALIKE = 2;  // with more, a store of states would fill less than 64 bytes of a row
constexpr int WARP_CHANNELS = COLUMNS * PAIR;
constexpr int CHANNELS = WARP_CHANNELS * WARPS;
constexpr int QUADS = CHANNELS / 4;
constexpr int ROWS = THREADS / QUADS;                         // rows that the block prepares at once
constexpr int ITEMS = parts(TIME, ROWS);                      // rows of one thread
constexpr int BC_ITEMS = parts(TIME * STATES, THREADS);       // pairs of B and C of one thread
constexpr int SUMMED = at_most(8, at_least(1, LANES / PAIR));  // steps whose y are summed over lanes together
constexpr int RESIDENT = (OWN == 2 ? 5 : 4) * 4 / WARPS;      // blocks of a multiprocessor
static_assert(LANES <= 16 && THREADS % QUADS == 0 && SAVED % SUMMED == 0, "a layout that does not exist");

struct Shared {
  struct Tile {
    float dt[TIME][CHANNELS];          // FOREVER where a document begins
    float dt_u[TIME][CHANNELS];
    float bc[TIME][LANES][2 * OWN];    // a lane's B, then its C
    float y[TIME][CHANNELS + 16];      // 16 more: lanes write two steps together, so to other banks
  } tile[2];
  Quad rows[ITEMS][3][THREADS];        // u, delta, z
  Pair bc[BC_ITEMS][THREADS];
  int unit;
};
static_assert(sizeof(Shared) <= 99 * 1024, "more shared memory than a block may have on sm_86, sm_89 and sm_120");
extern "C" __device__ const int scan_forward_shared = sizeof(Shared);
extern "C" __device__ const int scan_forward_threads = THREADS;
extern "C" __device__ const int scan_forward_channels = CHANNELS;
extern "C" __device__ const int scan_forward_time = TIME;

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) scan_forward(
    const void* __restrict__ u, const void* __restrict__ delta, const void* __restrict__ z, const void* __restrict__ B,
    const void* __restrict__ C, const float* __restrict__ A, const float* __restrict__ D, const float* __restrict__ bias,
    const unsigned char* __restrict__ resets,  // (batch, length) or null
    float* carry,                              // (chunks + 1, batch, channels, STATES): 0 the state to begin with, `chunks` the last
    void* __restrict__ out,
    void* __restrict__ y,                      // C h + D u, for the backward; or null
    float* __restrict__ states,                // (batch, length / SAVED, channels, STATES): before each SAVED steps; or null
    int* counters,                             // zeros: the units drawn, then the chunks done of each chain
    int batch, int length, int channels, int chunk, int chunks,  // chunk: steps, a multiple of TIME
    int linked,                                // the carries of all chunks are there already
    int z_stride, int bc_stride) {
  extern __shared__ __align__(16) unsigned char bytes[];
  Shared& shared = *(Shared*)bytes;
  const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32;
  const int part = lane / ALIKE % LANES, column = lane / (ALIKE * LANES) * ALIKE + lane % ALIKE;
  const int own = part * OWN, channel = warp * WARP_CHANNELS + column * PAIR;  // scanning
  const int quad = tid % QUADS * 4, first_row = tid / QUADS;                    // preparing
  const int groups = parts(channels, CHANNELS), chains = groups * batch;
  for (;;) {
    const int unit = next_unit(counters, &shared.unit);
    if (unit >= chains * chunks) return;
    const int chain = unit % chains, number = unit / chains, sequence = chain / groups, group = chain % groups * CHANNELS;
    const int begin = number * chunk, end = at_most(length, begin + chunk);
    const bool real = group + quad < channels;                 // channels are a multiple of 4, not of CHANNELS
    const bool mine = group + channel < channels;
    const u32 row0 = (u32)sequence * length;
    const u64 state0 = ((u64)sequence * channels + group + channel) * STATES + own;
    const u64 all_states = (u64)batch * channels * STATES;

    float a[PAIR][OWN], h[PAIR][OWN], bias4[4] = {}, D4[4] = {};
    if (real) {
      read(bias + group + quad, bias4);
      read(D + group + quad, D4);
    }

    unsigned char begins[ITEMS];
    auto send = [&](int t0) {
#pragma unroll
      for (int e = 0; e < ITEMS; e++) {
        const int t = t0 + first_row + e * ROWS;
        const bool valid = real && t < end && first_row + e * ROWS < TIME;
        const u64 at = place(row0 + t, channels, group + quad);
        copy_async<sizeof(Quad)>(&shared.rows[e][0][tid], in(u, at), valid);
        copy_async<sizeof(Quad)>(&shared.rows[e][1][tid], in(delta, at), valid);
        copy_async<sizeof(Quad)>(&shared.rows[e][2][tid], in(z, place(row0 + t, z_stride, group + quad)), valid);
        begins[e] = resets && valid ? resets[row0 + t] : 0;
      }
#pragma unroll
      for (int e = 0; e < BC_ITEMS; e++) {
        const int item = tid + e * THREADS, t = item / STATES, n = item % (STATES / 2) * 2;
        const bool is_C = item % STATES >= STATES / 2, valid = t < TIME && t0 + t < end;
        const char* from = in(is_C ? C : B, place(row0 + t0 + t, bc_stride, n));
        copy_async<sizeof(Pair)>(&shared.bc[e][tid], from, valid);
      }
      sent();
    };

    Quad u_now[ITEMS], z_now[ITEMS], u_next[ITEMS], z_next[ITEMS];
    auto prepare = [&](int t0, Shared::Tile& tile) {
      arrived();
#pragma unroll
      for (int e = 0; e < ITEMS; e++) {
        const int row = first_row + e * ROWS;
        u_next[e] = shared.rows[e][0][tid];
        z_next[e] = shared.rows[e][2][tid];
        const float special = begins[e] ? FOREVER : t0 + row < end ? -1.f : 0.f;  // beyond the end u is 0: such a step changes nothing
        float u4[4], delta4[4], dt4[4], dt_u4[4];
        unpack(u_next[e], u4);
        unpack(shared.rows[e][1][tid], delta4);
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const float dt = softplus(delta4[i] + bias4[i]);
          dt4[i] = special >= 0.f ? special : dt;
          dt_u4[i] = dt * u4[i];
        }
        if (ROWS <= TIME || row < TIME) {
          write(&tile.dt[row][quad], dt4);
          write(&tile.dt_u[row][quad], dt_u4);
        }
      }
#pragma unroll
      for (int e = 0; e < BC_ITEMS; e++) {
        const int item = tid + e * THREADS, t = item / STATES, n = item % (STATES / 2) * 2;
        const bool is_C = item % STATES >= STATES / 2;
        if (TIME * STATES % THREADS == 0 || t < TIME)
          *(float2*)&tile.bc[t][n / OWN][n % OWN + (is_C ? OWN : 0)] = unpack(shared.bc[e][tid]);
      }
    };

    auto scan = [&](int t0, Shared::Tile& tile) {
#pragma unroll
      for (int s0 = 0; s0 < TIME; s0 += SUMMED) {
        if (s0 % SAVED == 0 && states && mine && t0 + s0 < end) {
          float* to = states + ((u64)(sequence * parts(length, SAVED) + (t0 + s0) / SAVED) * channels + group + channel) * STATES + own;
#pragma unroll
          for (int j = 0; j < PAIR; j++) write(to + j * STATES, h[j]);
        }
        float ys[SUMMED * PAIR];
#pragma unroll
        for (int s = 0; s < SUMMED; s++) {
          float bc[2 * OWN], dt[PAIR], dt_u[PAIR];
          read(tile.bc[s0 + s][part], bc);
          read(&tile.dt[s0 + s][channel], dt);
          read(&tile.dt_u[s0 + s][channel], dt_u);
#pragma unroll
          for (int j = 0; j < PAIR; j++) {
            float sum = 0.f;
#pragma unroll
            for (int i = 0; i < OWN; i++) {
              h[j][i] = fmaf(exp2_fast(dt[j] * a[j][i]), h[j][i], dt_u[j] * bc[i]);
              sum = fmaf(h[j][i], bc[OWN + i], sum);
            }
            ys[s * PAIR + j] = sum;
          }
        }
        sum_over_lanes<SUMMED * PAIR, LANES, ALIKE>(ys, part);
        const int first = first_left<SUMMED * PAIR, LANES>(part);
#pragma unroll
        for (int r = 0; r < left(SUMMED * PAIR, LANES); r++)
          tile.y[s0 + (first + r) / PAIR][channel + (first + r) % PAIR] = ys[r];
      }
    };

    auto finish = [&](int t0, Shared::Tile& tile) {
#pragma unroll
      for (int e = 0; e < ITEMS; e++) {
        const int row = first_row + e * ROWS;
        if (!real || row >= TIME || t0 + row >= end) continue;
        float u4[4], z4[4], y4[4], out4[4];
        unpack(u_now[e], u4);
        unpack(z_now[e], z4);
        read(&tile.y[row][quad], y4);
#pragma unroll
        for (int i = 0; i < 4; i++) {
          y4[i] = fmaf(D4[i], u4[i], y4[i]);
          out4[i] = y4[i] * z4[i] * sigmoid(z4[i]);
        }
        const u64 at = place(row0 + t0 + row, channels, group + quad);
        if (y) *quad_in(y, at) = pack(y4);
        *quad_in(out, at) = pack(out4);
      }
    };

    send(begin);
    if (number > 0 && !linked) wait_for(counters + 1 + chain, number);
#pragma unroll
    for (int j = 0; j < PAIR; j++)
#pragma unroll
      for (int i = 0; i < OWN; i++) {
        a[j][i] = mine ? A[(u64)(group + channel + j) * STATES + own + i] * LOG2E : 0.f;
        h[j][i] = mine ? __ldcg(carry + number * all_states + state0 + j * STATES + i) : 0.f;
      }
    auto take_over = [&] {
#pragma unroll
      for (int e = 0; e < ITEMS; e++) u_now[e] = u_next[e], z_now[e] = z_next[e];
    };
    prepare(begin, shared.tile[0]);
    if (begin + TIME < end) send(begin + TIME);
    __syncthreads();
    int buffer = 0;
#pragma unroll 1
    for (int t0 = begin; t0 < end; t0 += TIME, buffer ^= 1) {
      take_over();
      scan(t0, shared.tile[buffer]);
      if (t0 + TIME < end) prepare(t0 + TIME, shared.tile[buffer ^ 1]);
      if (t0 + 2 * TIME < end) send(t0 + 2 * TIME);
      __syncthreads();
      finish(t0, shared.tile[buffer]);
    }
    if (mine && !(linked && number + 1 < chunks)) {
#pragma unroll
      for (int j = 0; j < PAIR; j++) write(carry + (number + 1) * all_states + state0 + j * STATES, h[j]);
    }
    if (number + 1 < chunks && !linked) announce(counters + 1 + chain, number + 1);
  }
}
