// Causal depthwise convolution, bias and SiLU; behind common.cuh.
//
//   pre_t = bias + sum over k < TAPS of w_k x_{t-k}, where t-k and t are of one document        y_t = pre_t sigmoid(pre_t)
//
// A thread has four neighbouring channels and walks over a segment of time. What it needs of the rows before lies in registers; the next
// AHEAD rows are on their way while it computes these. Beside the segment it reads TAPS - 1 rows of each neighbour. No thread waits for
// another.
//
// Given on the compiler's command line, too:
//   TAPS   2 to 4

constexpr int THREADS = 128;
constexpr int BACK = TAPS - 1;  // rows before a row that reach it
constexpr int WIDTH = 4 * THREADS;

// What a thread has to do.
struct Part {
  int quad, sequence, segment, begin, end;
};
__device__ __forceinline__ Part part_of(int length, int channels, int segments, int steps) {
  const int groups = parts(channels, WIDTH), group = blockIdx.x % groups, rest = blockIdx.x / groups;
  const int begin = rest % segments * steps;
  return {group * WIDTH + (int)threadIdx.x * 4, rest / segments, rest % segments, begin, at_most(length, begin + steps)};
}

// tap[k]: of the row k back. weight: (channels, TAPS), the last one of the row itself.
__device__ __forceinline__ void read_taps(const float* weight, int quad, float (&tap)[TAPS][4]) {
#pragma unroll
  for (int k = 0; k < TAPS; k++)
#pragma unroll
    for (int i = 0; i < 4; i++) tap[k][i] = weight[(quad + i) * TAPS + BACK - k];
}

// The rows before `begin` that are of the document which is open there, oldest first; zeros for others.
template <int ROWS> __device__ __forceinline__ void read_before(const void* x, const unsigned char* resets, u32 row0, u32 stride, Part part,
                                                                float (&seen)[ROWS][4]) {
  bool open = true;
#pragma unroll
  for (int back = 1; back <= BACK; back++) {
    const int t = part.begin - back;
    open = open && t >= 0;
    Quad raw = {};
    if (open) raw = *(const Quad*)in(x, place(row0 + t, stride, part.quad));
    unpack(raw, seen[BACK - back]);
    open = open && !(resets && resets[row0 + t]);
  }
}

// At a document's beginning, row `at` of `seen`: nothing before it is seen any more.
template <int ROWS> __device__ __forceinline__ void forget_before(float (&seen)[ROWS][4], int at) {
#pragma unroll
  for (int back = 1; back <= BACK; back++)
#pragma unroll
    for (int i = 0; i < 4; i++) seen[at - back][i] = 0.f;
}

// Before the SiLU, for row `at` of `seen`.
template <int ROWS> __device__ __forceinline__ void convolve(const float (&seen)[ROWS][4], int at, const float (&tap)[TAPS][4],
                                                             const float (&bias)[4], float (&pre)[4]) {
#pragma unroll
  for (int i = 0; i < 4; i++) pre[i] = bias[i];
#pragma unroll
  for (int k = 0; k < TAPS; k++)
#pragma unroll
    for (int i = 0; i < 4; i++) pre[i] = fmaf(tap[k][i], seen[at - k][i], pre[i]);
}
