// Everything of the duality that goes token by token, and states from chunk to chunk.

// blockIdx: head, chunk; a thread has a token.
extern "C" __global__ void __launch_bounds__(CHUNK) ssd_prepare(
    const void* __restrict__ dt, const float* __restrict__ A, const float* __restrict__ bias,
    const unsigned char* __restrict__ resets,  // (batch, length) or null
    float* __restrict__ steps, float* __restrict__ logs, int* __restrict__ documents, int length, int chunks, int dt_stride) {
  __shared__ float room[2][CHUNK];
  const int head = blockIdx.x, heads = gridDim.x, sequence = blockIdx.y / chunks, tid = threadIdx.x;
  const int t = blockIdx.y % chunks * CHUNK + tid;
  const bool real = t < length;
  const u64 row = (u64)sequence * length + t, to = ((u64)blockIdx.y * heads + head) * CHUNK + tid;
  const float step = real ? softplus(one(dt, row * dt_stride + head) + bias[head]) : 0.f;
  steps[to] = step;
  logs[to] = prefix_sum(step * A[head], tid, room);
  if (head != 0) return;
  __syncthreads();
  documents[blockIdx.y * CHUNK + tid] = (int)prefix_sum(real && resets && resets[row] ? 1.f : 0.f, tid, room);
}

// out = x times a factor of token and head, laid out for products; zeros beyond the sequence. With `steps`: dt and the decay to the
// chunk's end; without: the decay from its start. A thread has four channels of four tokens. blockIdx: part of a chunk, chunk.
extern "C" __global__ void __launch_bounds__(256) ssd_scale(
    const void* __restrict__ x, const float* __restrict__ steps, const float* __restrict__ logs, const int* __restrict__ documents,
    void* __restrict__ out, int length, int heads, int groups, int chunks, int x_stride) {
  constexpr int TOKENS = 4, APART = CHUNK / TOKENS;
  const int quads = heads * (WIDTH / 4), item = blockIdx.x * 256 + threadIdx.x;
  if (item >= quads * APART) return;
  const int channel = item % quads * 4, first = item / quads, head = channel / WIDTH, of_group = heads / groups * WIDTH;
  const u32 row0 = (u32)(blockIdx.y / chunks) * length, t0 = blockIdx.y % chunks * CHUNK;
  const float* log = logs + ((u64)blockIdx.y * heads + head) * CHUNK;
  const int* document = documents + (u64)blockIdx.y * CHUNK;
  Quad raw[TOKENS];
#pragma unroll
  for (int e = 0; e < TOKENS; e++) {
    const int t = first + e * APART;
    raw[e] = Quad{};
    if (t0 + t < length) raw[e] = *(const Quad*)in(x, place(row0 + t0 + t, x_stride, channel));
  }
#pragma unroll
  for (int e = 0; e < TOKENS; e++) {
    const int t = first + e * APART;
    const float factor = steps ? steps[((u64)blockIdx.y * heads + head) * CHUNK + t] * to_end(log, document, t) : from_start(log, document, t);
    float v[4];
    unpack(raw[e], v);
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] *= factor;
    const u32 row = ((u32)blockIdx.y * groups + channel / of_group) * CHUNK + t;
    *quad_in(out, place(row, of_group, channel % of_group)) = pack(v);
  }
}

// How much of a state is left at its chunk's end.
__device__ __forceinline__ float kept(const float* logs, const int* documents, u64 number, int head, int heads) {
  return documents[number * CHUNK + LAST] == 0 ? decay(logs[(number * heads + head) * CHUNK + LAST]) : 0.f;
}

// states: in, what each chunk adds; out, the state before each chunk. blockIdx: 256 quads of a state, sequence.
extern "C" __global__ void __launch_bounds__(256) ssd_states_forward(void* states, const float* __restrict__ logs,
                                                                     const int* __restrict__ documents, int heads, int chunks) {
  const u32 size = heads * WIDTH * STATES;
  const u32 at = (blockIdx.x * 256 + threadIdx.x) * 4;
  const int head = at / (WIDTH * STATES);
  const u64 first = (u64)blockIdx.y * chunks;
  float state[4] = {};
  Quad next = *quad_in(states, place(first, size, at));
  for (int c = 0; c < chunks; c++) {
    const Quad here = next;
    if (c + 1 < chunks) next = *quad_in(states, place(first + c + 1, size, at));
    *quad_in(states, place(first + c, size, at)) = pack(state);
    const float left = kept(logs, documents, first + c, head, heads);
    float added[4];
    unpack(here, added);
#pragma unroll
    for (int i = 0; i < 4; i++) state[i] = fmaf(left, state[i], added[i]);
  }
}

// gradients: in, what each chunk's tokens give to the state before it; out, the gradient of the state behind each chunk.
// dots: (n, gridDim.x), the decay over a chunk times both states' product: the gradient of that decay's exponent.
extern "C" __global__ void __launch_bounds__(256) ssd_states_backward(void* gradients, const void* __restrict__ states,
                                                                      const float* __restrict__ logs, const int* __restrict__ documents,
                                                                      float* __restrict__ dots, int heads, int chunks) {
  __shared__ float partial[2][8];
  const u32 size = heads * WIDTH * STATES;
  const u32 at = (blockIdx.x * 256 + threadIdx.x) * 4;
  const int head = at / (WIDTH * STATES);
  const u64 first = (u64)blockIdx.y * chunks;
  float gradient[4] = {};
  Quad next = *quad_in(gradients, place(first + chunks - 1, size, at));
  Quad next_state = *(const Quad*)in(states, place(first + chunks - 1, size, at));
  for (int c = chunks - 1; c >= 0; c--) {
    const Quad here = next, here_state = next_state;
    if (c > 0) {
      next = *quad_in(gradients, place(first + c - 1, size, at));
      next_state = *(const Quad*)in(states, place(first + c - 1, size, at));
    }
    *quad_in(gradients, place(first + c, size, at)) = pack(gradient);
    const float left = kept(logs, documents, first + c, head, heads);
    float given[4], state[4], dot = 0.f;
    unpack(here, given);
    unpack(here_state, state);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      dot = fmaf(gradient[i], state[i], dot);
      gradient[i] = fmaf(left, gradient[i], given[i]);
    }
    dot = sum_over_block<8>(dot, partial[c % 2]);
    if (threadIdx.x == 0) dots[(first + c) * gridDim.x + blockIdx.x] = left * dot;
  }
}

// What `ssd_backward` found of each token and head, to the gradients of dt, A, the bias and D. With T_s what a token gives to its
// chunk's end, and R_t the gradient of l_t from y_t and from pairs,
//   d(dt A)_t = sum over j >= t of R_j + sum over s < t of T_s + what the chunk's state gives to its end
// blockIdx: head, chunk; a thread has a token. sums: (6, n, heads, CHUNK), as there. dots: of `blocks` a chunk, `blocks / heads` a head.
// parts: (n, 3, heads): of A, the bias, D.
extern "C" __global__ void __launch_bounds__(CHUNK) ssd_finish(
    const float* __restrict__ sums, const float* __restrict__ dots, const float* __restrict__ steps, const void* __restrict__ dt,
    const float* __restrict__ A, const float* __restrict__ bias, void* __restrict__ ddt, float* __restrict__ parts, int length, int chunks,
    int blocks, int dt_stride) {
  __shared__ float room[2][CHUNK], partial[3][CHUNK / 32];
  const int head = blockIdx.x, heads = gridDim.x, sequence = blockIdx.y / chunks, tid = threadIdx.x;
  const int t = blockIdx.y % chunks * CHUNK + tid;
  const u64 row = (u64)sequence * length + t, at = ((u64)blockIdx.y * heads + head) * CHUNK + tid;
  const u64 each = (u64)gridDim.y * heads * CHUNK;
  const float step = steps[at], of_pairs = sums[2 * each + at], of_end = sums[3 * each + at];
  const float behind = prefix_sum(sums[at] + sums[each + at] + sums[4 * each + at] - step * of_pairs, LAST - tid, room);
  __syncthreads();
  const float before = prefix_sum(step * of_end, tid, room) - step * of_end;
  float through = behind + before;
  const int mine = blocks / heads;
  for (int i = 0; i < mine; i++) through += dots[(u64)blockIdx.y * blocks + head * mine + i];
  float slope = 0.f, raw = 0.f;
  if (t < length) {
    softplus(one(dt, row * dt_stride + head) + bias[head], slope);
    raw = (A[head] * through + of_pairs + of_end) * slope;
    ((unsigned short*)ddt)[row * heads + head] = (unsigned short)pack(raw, 0.f);
  }
  const float dA = sum_over_block<CHUNK / 32>(through * step, partial[0]);
  const float dbias = sum_over_block<CHUNK / 32>(raw, partial[1]);
  const float dD = sum_over_block<CHUNK / 32>(sums[5 * each + at], partial[2]);
  if (tid != 0) return;
  float* to = parts + (u64)blockIdx.y * 3 * heads + head;
  to[0] = dA, to[heads] = dbias, to[2 * heads] = dD;
}
