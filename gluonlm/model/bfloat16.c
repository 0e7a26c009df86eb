// Products of matrices in bfloat16 as operators of MXNet; gluonlm/system/native.py compiles and loads them.
//
//     c = gluonlm_dot(a, b, transpose_a=0, transpose_b=0)       a (m, k), b (k, n), float32 like c (m, n)
//     c = gluonlm_dot(a, b, bias, bias=1)                       bias (n) is added to each row
//     c = gluonlm_dot(a, b, bfloat16_b=n)                       b has n columns in bfloat16, two in each float32
//     losses, sums, e = gluonlm_softmax(x, weight, bias, targets)    x (m, k), weight (n, k), bias (n), targets (m);
//                                                                    losses (m), and for gradients sums (m), e (m, n)
//                                                                    in bfloat16: see bfloat16_softmax.h;
//                                                                    e is not kept with only_losses=1
//     out, h, c, gates, cells = gluonlm_lstm(x, weights, h0, c0)     as MXNet's RNN, for one layer; the last two
//                                                                    outputs are for the backward pass

#include "bfloat16_product.h"
#include "operator.h"

#include "bfloat16_lstm.h"
#include "bfloat16_softmax.h"

static const char message[] = "bfloat16: out of memory";

static int dot_inputs(attributes_t attributes) { return 2 + has(attributes, "bias"); }

static int dot_shapes(attributes_t attributes, shape_t *in, shape_t *out) {
  int by_columns = has(attributes, "transpose_a"), by_rows = has(attributes, "transpose_b");
  if (in[0].dims != 2 || in[1].dims != 2) return 0;
  unsigned columns = number(attributes, "bfloat16_b"), b[] = {in[1].size[0], columns ? columns : in[1].size[1]};
  out[0] = (shape_t){2, {in[0].size[by_columns], b[!by_rows]}};
  return in[0].size[!by_columns] == b[by_rows];
}

// The rows or the columns of a matrix; from one row to the next it is `pitch` numbers.
static factor_t factor(const void *data, int64_t pitch, int rows, int bfloat16) {
  return (factor_t){data, rows ? pitch : 1, rows ? 1 : pitch, bfloat16};
}

static int dot(const call_t *call) {
  int by_columns = has(call->attributes, "transpose_a"), by_rows = has(call->attributes, "transpose_b");
  int bfloat16 = has(call->attributes, "bfloat16_b");
  const int64_t *a = call->in_shapes[0], *b = call->in_shapes[1], *c = call->out_shapes[0];
  const float *bias = call->inputs > 2 ? call->in[2] : NULL;
  return product(factor(call->in[0], a[1], !by_columns, 0),
                 factor(call->in[1], b[1] * (1 + bfloat16), by_rows, bfloat16), bias, call->out[0], c[0], c[1],
                 a[!by_columns]);
}

static int softmax_inputs(attributes_t attributes) { return 4; }

static int softmax_shapes(attributes_t attributes, shape_t *in, shape_t *out) {
  if (in[0].dims != 2 || in[1].dims != 2 || in[0].size[1] != in[1].size[1]) return 0;
  unsigned m = in[0].size[0], n = in[1].size[0];
  out[0] = out[1] = (shape_t){1, {m}}, out[2] = (shape_t){2, {m, (n + 1) / 2}};
  if (has(attributes, "only_losses")) out[2] = (shape_t){1, {1}};
  in[2] = (shape_t){1, {n}}, in[3] = out[0];
  return 1;
}

static int softmax(const call_t *call) {
  int64_t m = call->in_shapes[0][0], k = call->in_shapes[0][1], n = call->in_shapes[1][0];
  if (has(call->attributes, "only_losses")) call->out[2] = NULL;
  softmax_t to = {.bias = call->in[2], .targets = call->in[3], .exponentials = call->out[2], .pitch = (n + 1) / 2 * 2};
  factors_t factors = {factor(call->in[0], k, 1, 0), factor(call->in[1], k, 1, 0), m, n, k};
  return cross_entropy(factors, &to, call->out[0], call->out[1]);
}

static int lstm_inputs(attributes_t attributes) { return 4; }

static int lstm_shapes(attributes_t attributes, shape_t *in, shape_t *out) {
  if (in[0].dims != 3 || in[1].dims != 1 || in[2].dims != 3) return 0;
  unsigned T = in[0].size[0], N = in[0].size[1], I = in[0].size[2], H = in[2].size[2];
  shape_t state = {3, {1, N, H}}, steps = {3, {T, N, H}}, gates = {3, {T, N, GATES * H}};
  if (in[1].size[0] != GATES * H * (I + H + 2)) return 0;
  in[2] = in[3] = out[1] = out[2] = state;
  out[0] = out[4] = steps, out[3] = gates;
  return 1;
}

// The layer, from the arrays x, weights, h0, c0 and out, h, c, gates, cells.
static lstm_t layer(void **in, void **out, const int64_t *x, int64_t H) {
  int64_t blocks = ceiling(H, LANES);
  return (lstm_t){x[0], x[1], x[2], H, blocks, blocks * LANES, in[0], in[1], in[2], in[3], out[0], out[3], out[4]};
}

static int forward(const call_t *call) {
  lstm_t l = layer(call->in, call->out, call->in_shapes[0], call->out_shapes[0][2]);
  return lstm_forward(&l, call->out[1], call->out[2]);
}

static int backward(const call_t *call) {  // in: five gradients, four inputs, five outputs
  lstm_t l = layer(call->in + 5, call->in + 9, call->in_shapes[5], call->in_shapes[0][2]);
  gradients_t d = {call->in[0], call->in[1], call->in[2], call->out[0], call->out[1], call->out[2], call->out[3]};
  return lstm_backward(&l, &d);
}

static operator_t OPERATORS[] = {
    {"gluonlm_dot", {dot}, {NULL}, 1, dot_inputs, dot_shapes},
    {"gluonlm_softmax", {softmax}, {NULL}, 3, softmax_inputs, softmax_shapes},
    {"gluonlm_lstm", {forward}, {backward}, 5, lstm_inputs, lstm_shapes},
};
EXPORT_OPERATORS
