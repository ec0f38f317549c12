// Vectors of floats, as wide as the machine's, and the functions of them that a scan and a convolution need.
// What is no number stays none: every choice is a comparison that is false for it.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#include <immintrin.h>
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef int32_t Bits __attribute__((vector_size(4 * LANES)));

static inline Vec load(const float* from, int count) {
  Vec v{};
  if (count == LANES) memcpy(&v, from, sizeof v);
  else memcpy(&v, from, sizeof(float) * count);
  return v;
}

static inline void store(float* to, Vec v, int count) {
  if (count == LANES) memcpy(to, &v, sizeof v);
  else memcpy(to, &v, sizeof(float) * count);
}

// Always in the same order, by halves.
static inline float sum(Vec v) {
  float x[LANES];
  memcpy(x, &v, sizeof v);
  for (int half = LANES / 2; half; half /= 2)
    for (int i = 0; i < half; i++) x[i] += x[i + half];
  return x[0];
}

// 2^f for |f| <= 1/2, to 3e-9: a polynomial through Chebyshev's nodes.
static inline Vec power_of_fraction(Vec f) {
  const Vec zero{};
  Vec p = zero + 0.0001546144472f;
  p = p * f + 0.001340042818f;
  p = p * f + 0.009618056678f;
  p = p * f + 0.05550327227f;
  p = p * f + 0.2402265092f;
  p = p * f + 0.6931472067f;
  return p * f + 1.0f;
}

// 2^x; 0 far below 2^-126.
static inline Vec exp2(Vec x) {
#if defined(__AVX512F__)
  const __m512 bounded = _mm512_max_ps(_mm512_set1_ps(-200.0f), (__m512)x);  // of what is no number, the second
  const __m512 whole = _mm512_roundscale_ps(bounded, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  return (Vec)_mm512_scalef_ps((__m512)power_of_fraction((Vec)_mm512_sub_ps(bounded, whole)), whole);
#else
  const Vec zero{}, shift = zero + 12582912.0f;  // 1.5 * 2^23: adding it leaves whole numbers
  const Vec bounded = x < -126.0f ? zero - 126.0f : (x > 128.0f ? zero + 128.0f : x);
  const Vec moved = bounded + shift;
  const Bits whole = (Bits)moved - (Bits)shift;
  const Vec power = (Vec)((whole + 127) << 23);
  return x < -126.0f ? zero : power_of_fraction(bounded - (moved - shift)) * power;
#endif
}

constexpr float LOG2_E = 1.4426950408889634f;

static inline Vec exp(Vec x) { return exp2(x * LOG2_E); }

static inline Vec sigmoid(Vec x) { return 1.0f / (1.0f + exp(-x)); }

// log(1 + e^x) = max(x, 0) + log(1 + e^-|x|); that logarithm is 2 artanh(e / (2 + e)), by its series.
static inline Vec softplus(Vec x) {
  const Vec zero{}, e = exp(x > 0.0f ? -x : x), s = e / (2.0f + e), q = s * s;
  Vec p = zero + 1.0f / 17;
  p = p * q + 1.0f / 15;
  p = p * q + 1.0f / 13;
  p = p * q + 1.0f / 11;
  p = p * q + 1.0f / 9;
  p = p * q + 1.0f / 7;
  p = p * q + 1.0f / 5;
  p = p * q + 1.0f / 3;
  p = p * q + 1.0f;
  return (x > 0.0f ? x : zero) + 2.0f * s * p;
}
