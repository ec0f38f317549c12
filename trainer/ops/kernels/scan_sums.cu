// dB and dC of all groups of channels. A thread adds up four neighbouring states of one step.
extern "C" __global__ void sum_groups(const float4* __restrict__ dBC, void* __restrict__ dB, void* __restrict__ dC, int batch, int length,
                                      int groups) {
  constexpr int FOURS = STATES / 4;
  const int item = blockIdx.x * blockDim.x + threadIdx.x;
  if (item >= length * 2 * FOURS) return;
  for (int sequence = blockIdx.y; sequence < batch; sequence += gridDim.y) {  // a grid has at most 65,535 rows
    const float4* from = dBC + (u64)sequence * groups * length * 2 * FOURS + item;
    float sum[4] = {};
#pragma unroll 8
    for (int i = 0; i < groups; i++) {
      const float4 v = from[(u64)i * length * 2 * FOURS];
      sum[0] += v.x; sum[1] += v.y; sum[2] += v.z; sum[3] += v.w;
    }
    const int t = item / (2 * FOURS), n = item % (2 * FOURS);
    *quad_in(n < FOURS ? dB : dC, place((u32)sequence * length + t, STATES, n % FOURS * 4)) = pack(sum);
  }
}
