// The pooling of a QRNN as an operator of MXNet, forward and backward; gluonlm/system/native.py compiles and loads it.
//
//     h, c = gluonlm_fo_pool(gates, c0)                     gates (T, N, 3H) before their nonlinearities: z, f, o
//     h, c = gluonlm_fo_pool(gates, c0, keep, zoneout=1)    keep (T, N, H) multiplies the update 1 - f
//
//     c[t] = f[t] c[t-1] + (1 - f[t]) tanh(z[t]),  h[t] = o[t] c[t]      with f, o behind a sigmoid; c0 (1, N, H)
//
// The arithmetic is written once, for processors and (fo_pool_cuda.h) for GPUs. The last part is the interface that
// MXNet 1.9 has for extensions (mxnet/lib_api.h, version 11), in C.

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

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

// What MXNet asks for: inputs and outputs are those of the operator; for a gradient, the inputs are the gradients of
// the operator's outputs, then its inputs, then its outputs.
typedef struct { void **in, **out, *stream; int inputs, device; int64_t T, N, H; } call_t;
typedef int compute_t(const call_t *);

#define BLOCKS(...)                                                   \
  _Pragma("omp parallel for collapse(2) if (T * N * H > SMALL)")      \
  for (int64_t n = 0; n < N; n++)                                     \
    for (int64_t h0 = 0; h0 < H; h0 += BLOCK) {                       \
      int64_t h1 = h0 + BLOCK < H ? h0 + BLOCK : H;                   \
      __VA_ARGS__;                                                    \
    }

static int forward_on_cpu(const call_t *call) {
  void **in = call->in, **out = call->out;
  int64_t T = call->T, N = call->N, H = call->H;
  if (call->inputs == 3)
    BLOCKS(forward(in[0], in[1], in[2], out[0], out[1], T, N, H, n, h0, h1))
  else
    BLOCKS(forward(in[0], in[1], NULL, out[0], out[1], T, N, H, n, h0, h1))
  return 1;
}

static int backward_on_cpu(const call_t *call) {
  void **in = call->in, **out = call->out;
  int64_t T = call->T, N = call->N, H = call->H;
  if (call->inputs == 7)
    BLOCKS(backward(in[0], in[1], in[2], in[3], in[4], in[6], out[0], out[1], out[2], T, N, H, n, h0, h1))
  else
    BLOCKS(backward(in[0], in[1], in[2], in[3], NULL, in[5], out[0], out[1], NULL, T, N, H, n, h0, h1))
  return 1;
}

#include "fo_pool_cuda.h"  // forward_on_gpu, backward_on_gpu

// ---- MXNet's interface. Each function gives 1 for success; what it allocates MXNet frees with _opCallFree.

#define API __attribute__((visibility("default")))
typedef const char *const *strings;
static const char *DEVICE_NAMES[] = {"cpu", "gpu"};
static compute_t *FORWARD[] = {forward_on_cpu, forward_on_gpu}, *BACKWARD[] = {backward_on_cpu, backward_on_gpu};
static char present;  // its address stands for the functions that MXNet only passes back

API int initialize(int version) { return version >= 10900 && version < 11000; }
API int _opVersion(void) { return 11; }
API int _opRegSize(void) { return 1; }
API void _opCallFree(void *memory) { free(memory); }
API int _msgSize(void) { return message[0] != 0; }
API void _msgGet(int index, const char **text) { *text = message; }
API void _opRegGet(int index, const char **name, int *subgraph, const char ***forward_on, compute_t ***forward_by,
                   int *forwards, const char ***backward_on, compute_t ***backward_by, int *backwards,
                   const char ***state_on, void ***state_by, int *states, void **attributes, void **types,
                   void **storage, void **shapes, void **mutated) {
  *name = "gluonlm_fo_pool";
  *forward_on = *backward_on = DEVICE_NAMES;
  *forward_by = FORWARD;
  *backward_by = BACKWARD;
  *forwards = *backwards = 2;
  *subgraph = *states = 0;
  *attributes = *types = *shapes = &present;
  *storage = *mutated = NULL;
}

API int _opCallParseAttrs(void *by, strings keys, strings values, int count, int *inputs, int *outputs) {
  *inputs = *outputs = 2;
  for (int i = 0; i < count; i++) *inputs += !strcmp(keys[i], "zoneout");
  return 1;
}

static unsigned *shape(unsigned a, unsigned b, unsigned c) {
  unsigned *dims = malloc(3 * sizeof *dims);
  dims[0] = a, dims[1] = b, dims[2] = c;
  return dims;
}

API int _opCallInferShape(void *by, strings keys, strings values, int count, unsigned **in, int *in_dims, int inputs,
                          unsigned ***new_in, int **new_in_dims, unsigned ***out, int **out_dims, int outputs) {
  if (in_dims[0] != 3 || in[0][2] % 3) return 0;
  unsigned T = in[0][0], N = in[0][1], H = in[0][2] / 3;
  *new_in = malloc(inputs * sizeof **new_in), *new_in_dims = malloc(inputs * sizeof **new_in_dims);
  *out = malloc(outputs * sizeof **out), *out_dims = malloc(outputs * sizeof **out_dims);
  for (int i = 0; i < inputs; i++) (*new_in_dims)[i] = 3, (*new_in)[i] = shape(i == 1 ? 1 : T, N, i ? H : 3 * H);
  for (int i = 0; i < outputs; i++) (*out_dims)[i] = 3, (*out)[i] = shape(T, N, H);
  return 1;
}

API int _opCallInferType(void *by, strings keys, strings values, int count, int *in, int inputs, int *out,
                         int outputs) {
  memset(in, 0, inputs * sizeof *in);  // float32 all
  memset(out, 0, outputs * sizeof *out);
  return 1;
}

API int _opCallFCompute(compute_t *compute, strings keys, strings values, int count, const int64_t **in_shapes,
                        int *in_dims, void **in, int *in_types, size_t *in_ids, strings in_devices, int *in_device_ids,
                        int inputs, const int64_t **out_shapes, int *out_dims, void **out, int *out_types,
                        size_t *out_ids, strings out_devices, int *out_device_ids, int outputs, void *cpu_malloc,
                        void *cpu_memory, void *gpu_malloc, void *gpu_memory, void *stream, void *sparse_malloc,
                        void *sparse_memory, int *in_storage, int *out_storage, void **in_indices, void **out_indices,
                        void **in_starts, void **out_starts, int64_t *in_lengths, int64_t *out_lengths,
                        int64_t *in_start_lengths, int64_t *out_start_lengths, void *cpu_random, void *gpu_random) {
  const int64_t *first = in_shapes[0];  // gates (T, N, 3H), or the gradient of h (T, N, H)
  int64_t H = compute == forward_on_cpu || compute == forward_on_gpu ? first[2] / 3 : first[2];
  call_t call = {in, out, stream, inputs, in_device_ids[0], first[0], first[1], H};
  return compute(&call);
}

// what this library has none of, but MXNet looks for
#define NONE(name) API int name(void) { return 0; }
NONE(_opCallInferSType)
NONE(_opCallMutateInputs)
NONE(_opCallCreateOpState)
NONE(_opCallDestroyOpState)
NONE(_opCallFStatefulCompute)
NONE(_partRegSize)
NONE(_partRegGetCount)
NONE(_partRegGet)
NONE(_partCallSupportedOps)
NONE(_partCallCreateSelector)
NONE(_partCallSelect)
NONE(_partCallSelectInput)
NONE(_partCallSelectOutput)
NONE(_partCallFilter)
NONE(_partCallReset)
NONE(_partCallReviewSubgraph)
NONE(_passRegSize)
NONE(_passRegGet)
NONE(_passCallGraphPass)
