// A product of matrices in bfloat16 as an operator of MXNet; gluonlm/system/native.py compiles and loads it.
//
//     c = gluonlm_dot(a, b, transpose_a=0, transpose_b=0)       a (m, k), b (k, n), float32 like c (m, n)
//     c = gluonlm_dot(a, b, bias, bias=1)                       bias (n) is added to each row

#include "bfloat16_product.h"
#include "operator.h"

static const char message[] = "gluonlm_dot: out of memory";

static int inputs(attributes_t attributes) { return 2 + has(attributes, "bias"); }

static int shapes(attributes_t attributes, shape_t *in, shape_t *out) {
  int by_columns = has(attributes, "transpose_a"), by_rows = has(attributes, "transpose_b");
  if (in[0].dims != 2 || in[1].dims != 2 || in[0].size[!by_columns] != in[1].size[by_rows]) return 0;
  out[0] = (shape_t){2, {in[0].size[by_columns], in[1].size[!by_rows]}};
  return 1;
}

static int dot(const call_t *call) {
  int by_columns = has(call->attributes, "transpose_a"), by_rows = has(call->attributes, "transpose_b");
  int64_t m = call->out_shapes[0][0], n = call->out_shapes[0][1], k = call->in_shapes[0][!by_columns];
  factor_t a = {call->in[0], by_columns ? 1 : k, by_columns ? m : 1};
  factor_t b = {call->in[1], by_rows ? k : 1, by_rows ? 1 : n};
  return product(a, b, call->inputs > 2 ? call->in[2] : NULL, call->out[0], m, n, k);
}

static operator_t OPERATORS[] = {{"gluonlm_dot", {dot}, {NULL}, 1, inputs, shapes}};
EXPORT_OPERATORS
