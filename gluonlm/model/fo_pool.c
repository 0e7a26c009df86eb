// The pooling of a QRNN as an operator of MXNet, forward and backward; gluonlm/system/native.py compiles and loads it.
//
//     h, c = gluonlm_fo_pool(gates, c0)                     gates (T, N, 3H) before their nonlinearities: z, f, o
//     h, c = gluonlm_fo_pool(gates, c0, keep, zoneout=1)    keep (T, N, H) multiplies the update 1 - f
//
//     c[t] = f[t] c[t-1] + (1 - f[t]) tanh(z[t]),  h[t] = o[t] c[t]      with f, o behind a sigmoid; c0 (1, N, H)
//
// The arithmetic is written once, for processors and (fo_pool_cuda.h) for GPUs.

#include "operator.h"

#define INLINE static inline __attribute__((always_inline))  // and so compiled for keep = NULL by itself, twice as fast
#define TWICE(...) __VA_ARGS__ static const char ARITHMETIC[] = #__VA_ARGS__;  // here, and as text for CUDA
enum { BLOCK = 128, SMALL = 1 << 14 };  // columns that one thread takes at once; elements not worth a second thread

TWICE(

// exp(x) to 2 units in the last place, in arithmetic that compilers vectorize; a NaN stays one
INLINE float exponential(float x) {
  x = x > 88.0f ? 88.0f : x;
  x = x < -87.0f ? -87.0f : x;
  float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;  // rounds to a whole number
  float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;    // x - n ln 2
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  union { int bits; float value; } power = {((int)n + 127) << 23};  // 2^n
  return p * power.value;
}

INLINE float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }
INLINE float hyperbolic(float x) { return 1.0f - 2.0f / (1.0f + exponential(2.0f * x)); }

// Columns h0 to h1 of row n. The update 1 - f is the sigmoid of -f, so that it keeps its digits where f is near 1.
INLINE void forward(const float *restrict gates, const float *restrict c0, const float *restrict keep,
                    float *restrict h, float *restrict c, int64_t T, int64_t N, int64_t H, int64_t n, int64_t h0,
                    int64_t h1) {
  float state[BLOCK];
  for (int64_t j = 0; j < h1 - h0; j++) state[j] = c0[n * H + h0 + j];
  for (int64_t t = 0; t < T; t++) {
    const float *g = gates + (t * N + n) * 3 * H + h0;
    int64_t at = (t * N + n) * H + h0;
    for (int64_t j = 0; j < h1 - h0; j++) {
      float update = sigmoid(-g[H + j]) * (keep ? keep[at + j] : 1.0f);
      state[j] += update * (hyperbolic(g[j]) - state[j]);
      c[at + j] = state[j];
      h[at + j] = sigmoid(g[2 * H + j]) * state[j];
    }
  }
}

INLINE void backward(const float *restrict dh, const float *restrict dc, const float *restrict gates,
                     const float *restrict c0, const float *restrict keep, const float *restrict c,
                     float *restrict dgates, float *restrict dc0, float *restrict dkeep, int64_t T, int64_t N,
                     int64_t H, int64_t n, int64_t h0, int64_t h1) {
  float carry[BLOCK];  // the gradient of c[t] through c[t+1]
  for (int64_t j = 0; j < h1 - h0; j++) carry[j] = 0.0f;
  for (int64_t t = T - 1; t >= 0; t--) {
    const float *g = gates + (t * N + n) * 3 * H + h0;
    float *dg = dgates + (t * N + n) * 3 * H + h0;
    int64_t at = (t * N + n) * H + h0;
    const float *before = t ? c + at - N * H : c0 + n * H + h0;
    for (int64_t j = 0; j < h1 - h0; j++) {
      float z = hyperbolic(g[j]), s = sigmoid(-g[H + j]), o = sigmoid(g[2 * H + j]);
      float update = s * (keep ? keep[at + j] : 1.0f);
      float d = carry[j] + dc[at + j] + dh[at + j] * o;
      float dupdate = d * (z - before[j]);
      dg[j] = d * update * (1.0f - z * z);
      dg[H + j] = -dupdate * update * (1.0f - s);
      dg[2 * H + j] = dh[at + j] * c[at + j] * o * (1.0f - o);
      if (dkeep) dkeep[at + j] = dupdate * s;
      carry[j] = d * (1.0f - update);
    }
  }
  for (int64_t j = 0; j < h1 - h0; j++) dc0[n * H + h0 + j] = carry[j];
}

)

// What the operator is called with, and its sizes.
typedef struct { void **in, **out, *stream; int inputs, device; int64_t T, N, H; } pool_t;

#define BLOCKS(...)                                                   \
  _Pragma("omp parallel for collapse(2) if (T * N * H > SMALL)")      \
  for (int64_t n = 0; n < N; n++)                                     \
    for (int64_t h0 = 0; h0 < H; h0 += BLOCK) {                       \
      int64_t h1 = h0 + BLOCK < H ? h0 + BLOCK : H;                   \
      __VA_ARGS__;                                                    \
    }

static int forward_on_cpu(const pool_t *call) {
  void **in = call->in, **out = call->out;
  int64_t T = call->T, N = call->N, H = call->H;
  if (call->inputs == 3)
    BLOCKS(forward(in[0], in[1], in[2], out[0], out[1], T, N, H, n, h0, h1))
  else
    BLOCKS(forward(in[0], in[1], NULL, out[0], out[1], T, N, H, n, h0, h1))
  return 1;
}

static int backward_on_cpu(const pool_t *call) {
  void **in = call->in, **out = call->out;
  int64_t T = call->T, N = call->N, H = call->H;
  if (call->inputs == 7)
    BLOCKS(backward(in[0], in[1], in[2], in[3], in[4], in[6], out[0], out[1], out[2], T, N, H, n, h0, h1))
  else
    BLOCKS(backward(in[0], in[1], in[2], in[3], NULL, in[5], out[0], out[1], NULL, T, N, H, n, h0, h1))
  return 1;
}

#include "fo_pool_cuda.h"  // forward_on_gpu, backward_on_gpu

// ---- MXNet's interface

static int inputs(attributes_t attributes) { return 2 + has(attributes, "zoneout"); }

static int shapes(attributes_t attributes, shape_t *in, shape_t *out) {
  if (in[0].dims != 3 || in[0].size[2] % 3) return 0;
  unsigned T = in[0].size[0], N = in[0].size[1], H = in[0].size[2] / 3;
  shape_t steps = {3, {T, N, H}};
  in[1] = (shape_t){3, {1, N, H}}, in[2] = out[0] = out[1] = steps;
  return 1;
}

// The first input is the gates (T, N, 3H), or for a gradient that of h (T, N, H).
#define POOLING(name, parts)                                                                                 \
  static int call_##name(const call_t *call) {                                                               \
    const int64_t *first = call->in_shapes[0];                                                               \
    pool_t pool = {call->in, call->out, call->stream, call->inputs, call->device, first[0], first[1], first[2] / parts}; \
    return name(&pool);                                                                                      \
  }
POOLING(forward_on_cpu, 3)
POOLING(forward_on_gpu, 3)
POOLING(backward_on_cpu, 1)
POOLING(backward_on_gpu, 1)

static operator_t OPERATORS[] = {{"gluonlm_fo_pool",
                                  {call_forward_on_cpu, call_forward_on_gpu},
                                  {call_backward_on_cpu, call_backward_on_gpu},
                                  2,
                                  inputs,
                                  shapes}};
EXPORT_OPERATORS
