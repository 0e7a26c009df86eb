// The interface that MXNet 1.9 has for extensions (mxnet/lib_api.h, version 11), in C. A library of operators includes
// this, defines OPERATORS and ends with the line EXPORT_OPERATORS. Each function gives 1 for success.

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define API __attribute__((visibility("default")))
typedef const char *const *strings;
typedef struct { unsigned dims, size[3]; } shape_t;
typedef struct { strings keys, values; int count; } attributes_t;

// Inputs and outputs are those of the operator; for a gradient, the inputs are the gradients of the operator's outputs,
// then its inputs, then its outputs. All are float32.
typedef struct {
  void **in, **out, *stream;
  const int64_t **in_shapes, **out_shapes;
  int inputs, device;
  attributes_t attributes;
} call_t;
typedef int compute_t(const call_t *);

typedef struct {
  const char *name;
  compute_t *forward[2], *backward[2];  // on a CPU and on a GPU; NULL where there is none
  int outputs;
  int (*inputs)(attributes_t);                         // how many
  int (*shapes)(attributes_t, shape_t *in, shape_t *out);  // from those of the inputs, which it may correct
} operator_t;

static const char *value_of(attributes_t attributes, const char *key) {
  for (int i = 0; i < attributes.count; i++)
    if (!strcmp(attributes.keys[i], key)) return attributes.values[i];
  return "0";
}
static int has(attributes_t attributes, const char *key) {  // and its value is not 0 or False
  const char *value = value_of(attributes, key);
  return value[0] != '0' && value[0] != 'F';
}
static long number(attributes_t attributes, const char *key) { return atol(value_of(attributes, key)); }

static const char *DEVICE_NAMES[] = {"cpu", "gpu"};
static int devices(compute_t *const *on) { return !on[0] ? 0 : !on[1] ? 1 : 2; }

// Shapes as MXNet takes them: it frees them with _opCallFree.
static void hand_over(const shape_t *shapes, int count, unsigned ***sizes, int **dims) {
  *sizes = malloc(count * sizeof **sizes), *dims = malloc(count * sizeof **dims);
  for (int i = 0; i < count; i++) {
    (*dims)[i] = shapes[i].dims, (*sizes)[i] = malloc(sizeof shapes[i].size);
    memcpy((*sizes)[i], shapes[i].size, sizeof shapes[i].size);
  }
}

static int infer_shapes(const operator_t *operator, attributes_t attributes, unsigned **in, const int *in_dims,
                        int inputs, unsigned ***new_in, int **new_in_dims, unsigned ***out, int **out_dims) {
  shape_t given[8] = {0}, made[8] = {0};
  for (int i = 0; i < inputs; i++) {
    if (in_dims[i] > 3) return 0;
    given[i].dims = in_dims[i];
    memcpy(given[i].size, in[i], in_dims[i] * sizeof **in);
  }
  if (!operator->shapes(attributes, given, made)) return 0;
  hand_over(given, inputs, new_in, new_in_dims);
  hand_over(made, operator->outputs, out, out_dims);
  return 1;
}

// clang-format off
#define NONE(name) API int name(void) { return 0; }  // what this library has none of, but MXNet looks for
#define EXPORT_OPERATORS                                                                                               \
  API int initialize(int version) { return version >= 10900 && version < 11000; }                                      \
  API int _opVersion(void) { return 11; }                                                                              \
  API int _opRegSize(void) { return sizeof OPERATORS / sizeof *OPERATORS; }                                            \
  API void _opCallFree(void *memory) { free(memory); }                                                                 \
  API int _msgSize(void) { return message[0] != 0; }                                                                   \
  API void _msgGet(int index, const char **text) { *text = message; }                                                  \
  API void _opRegGet(int index, const char **name, int *subgraph, const char ***forward_on, void ***forward_by,        \
                     int *forwards, const char ***backward_on, void ***backward_by, int *backwards,                    \
                     const char ***state_on, void ***state_by, int *states, void **attributes, void **types,           \
                     void **storage, void **shapes, void **mutated) {                                                  \
    operator_t *one = &OPERATORS[index];                                                                               \
    *name = one->name;                                                                                                 \
    *forward_on = *backward_on = DEVICE_NAMES;                                                                         \
    *forward_by = (void **)one->forward, *forwards = devices(one->forward);                                            \
    *backward_by = (void **)one->backward, *backwards = devices(one->backward);                                        \
    *subgraph = *states = 0;                                                                                           \
    *attributes = *types = *shapes = one;                                                                              \
    *storage = *mutated = NULL;                                                                                        \
  }                                                                                                                    \
  API int _opCallParseAttrs(void *by, strings keys, strings values, int count, int *inputs, int *outputs) {            \
    *inputs = ((operator_t *)by)->inputs((attributes_t){keys, values, count});                                         \
    *outputs = ((operator_t *)by)->outputs;                                                                            \
    return 1;                                                                                                          \
  }                                                                                                                    \
  API int _opCallInferShape(void *by, strings keys, strings values, int count, unsigned **in, int *in_dims,            \
                            int inputs, unsigned ***new_in, int **new_in_dims, unsigned ***out, int **out_dims,        \
                            int outputs) {                                                                             \
    return infer_shapes(by, (attributes_t){keys, values, count}, in, in_dims, inputs, new_in, new_in_dims, out,        \
                        out_dims);                                                                                     \
  }                                                                                                                    \
  API int _opCallInferType(void *by, strings keys, strings values, int count, int *in, int inputs, int *out,           \
                           int outputs) {                                                                              \
    memset(in, 0, inputs * sizeof *in);  /* float32 all */                                                             \
    memset(out, 0, outputs * sizeof *out);                                                                             \
    return 1;                                                                                                          \
  }                                                                                                                    \
  API int _opCallFCompute(compute_t *compute, strings keys, strings values, int count, const int64_t **in_shapes,      \
                          int *in_dims, void **in, int *in_types, size_t *in_ids, strings in_devices,                  \
                          int *in_device_ids, int inputs, const int64_t **out_shapes, int *out_dims, void **out,       \
                          int *out_types, size_t *out_ids, strings out_devices, int *out_device_ids, int outputs,      \
                          void *cpu_malloc, void *cpu_memory, void *gpu_malloc, void *gpu_memory, void *stream,        \
                          void *sparse_malloc, void *sparse_memory, int *in_storage, int *out_storage,                 \
                          void **in_indices, void **out_indices, void **in_starts, void **out_starts,                  \
                          int64_t *in_lengths, int64_t *out_lengths, int64_t *in_start_lengths,                        \
                          int64_t *out_start_lengths, void *cpu_random, void *gpu_random) {                            \
    call_t call = {in, out, stream, in_shapes, out_shapes, inputs, in_device_ids[0], {keys, values, count}};           \
    return compute(&call);                                                                                             \
  }                                                                                                                    \
  NONE(_opCallInferSType) NONE(_opCallMutateInputs) NONE(_opCallCreateOpState) NONE(_opCallDestroyOpState)             \
  NONE(_opCallFStatefulCompute) NONE(_partRegSize) NONE(_partRegGetCount) NONE(_partRegGet) NONE(_partCallSupportedOps) \
  NONE(_partCallCreateSelector) NONE(_partCallSelect) NONE(_partCallSelectInput) NONE(_partCallSelectOutput)           \
  NONE(_partCallFilter) NONE(_partCallReset) NONE(_partCallReviewSubgraph) NONE(_passRegSize) NONE(_passRegGet)        \
  NONE(_passCallGraphPass)
