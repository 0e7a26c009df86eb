// An LSTM layer, forward and backward, with products in bfloat16; included by bfloat16.c after bfloat16_product.h.
//
//     [i, f, g, o] = x[t] Wx' + h[t-1] Wh' + b       g after a tanh, the others after a sigmoid
//     c[t] = f c[t-1] + i g,  h[t] = o tanh(c[t])
//
// What needs no step before it is one product for all steps: x Wx', and in the backward pass the gradients of x and of
// the weights. In the recurrence each thread has blocks of 16 units of its own. It multiplies for all four gates of a
// block at once, applies the cell in registers, and packs its part of h for the next step: one barrier a step.

enum { GATES = 4, COLUMNS = 5, MORE_COLUMNS = 10 };  // text columns (N) at once: 5 x 4 gates or 10 x 1 sums

typedef struct {
  int64_t T, N, I, H, blocks, padded;  // blocks of 16 units; units with what fills the last block
  const float *x, *weights, *h0, *c0;
  float *out, *gates, *cells;          // (T, N, H), (T, N, 4, H) after their nonlinearities, (T, N, H)
} lstm_t;

static const float *recurrent(const lstm_t *l) { return l->weights + GATES * l->H * l->I; }  // (4, H, H)
static __mmask16 units(const lstm_t *l, int64_t block) { return lanes(l->H - block * LANES); }

INLINE __m512 sigmoid(__m512 x) { return 1.0f / (1.0f + exponential(-x)); }
INLINE __m512 hyperbolic(__m512 x) { return 1.0f - 2.0f / (1.0f + exponential(2.0f * x)); }

// 16 units of one row as 8 pairs, of a panel of `width` rows
INLINE void pack_units(__m512 values, pair_t *pairs, int width) {
  pair_t some[LANES / 2];
  _mm256_storeu_si256((__m256i *)some, (__m256i)_mm512_cvtneps_pbh(values));
  for (int j = 0; j < LANES / 2; j++) pairs[j * width] = some[j];
}

// Where the pairs of a row (n) lie among panels of `width` rows, `steps` pairs long, from pair p on.
INLINE pair_t *place(pair_t *panels, int64_t n, int64_t p, int64_t steps, int width) {
  return panels + (n / width * steps + p) * width + n % width;
}

// One step forward for the 16 units of a block, from the packed h before it to the one after it.
static void forward_block(const lstm_t *l, const pair_t *weights, const pair_t *before, pair_t *after, int64_t t,
                          int64_t block) {
  int64_t H = l->H, steps = l->padded / 2, at = block * LANES;
  __mmask16 there = units(l, block);
  for (int64_t n = 0; n < l->N; n += COLUMNS) {
    __m512 sums[COLUMNS][GATES];
    int rows = l->N - n < COLUMNS ? l->N - n : COLUMNS;
    float *gates = l->gates + (t * l->N + n) * GATES * H + at;
    for (int i = 0; i < COLUMNS; i++)
      for (int g = 0; g < GATES; g++)
        sums[i][g] = i < rows ? _mm512_maskz_loadu_ps(there, gates + (i * GATES + g) * H) : _mm512_setzero_ps();
    multiply(before + n * steps, weights + block * steps * GATES * LANES, steps, COLUMNS, GATES, GATES, sums);
    for (int i = 0; i < rows; i++) {
      const float *last = t ? l->cells + ((t - 1) * l->N + n + i) * H : l->c0 + (n + i) * H;
      __m512 in = sigmoid(sums[i][0]), forget = sigmoid(sums[i][1]), new = hyperbolic(sums[i][2]);
      __m512 out = sigmoid(sums[i][3]), c = forget * _mm512_maskz_loadu_ps(there, last + at) + in * new;
      __m512 h = out * hyperbolic(c), values[] = {in, forget, new, out};
      for (int g = 0; g < GATES; g++) _mm512_mask_storeu_ps(gates + (i * GATES + g) * H, there, values[g]);
      _mm512_mask_storeu_ps(l->cells + (t * l->N + n + i) * H + at, there, c);
      _mm512_mask_storeu_ps(l->out + (t * l->N + n + i) * H + at, there, h);
      pack_units(_mm512_maskz_mov_ps(there, h), place(after, n + i, at / 2, steps, COLUMNS), COLUMNS);
    }
  }
}

// Zeroed memory for packed arrays.
static pair_t *packed(int64_t pairs) {
  size_t size = ceiling(pairs * sizeof(pair_t), 64) * 64;
  pair_t *memory = aligned_alloc(64, size);
  return memory ? memset(memory, 0, size) : NULL;
}

static int lstm_forward(lstm_t *l, float *last_h, float *last_c) {
  int64_t T = l->T, N = l->N, H = l->H, I = l->I, rows = GATES * H, steps = l->padded / 2;
  int64_t panels = ceiling(N, COLUMNS) * COLUMNS * steps;
  pair_t *weights = packed(l->blocks * steps * GATES * LANES), *states = packed(2 * panels);
  float *bias = malloc(rows * sizeof *bias);
  int done = weights && states && bias;
  if (done) {
    const float *biases = recurrent(l) + rows * H;
    for (int64_t j = 0; j < rows; j++) bias[j] = biases[j] + biases[rows + j];
    done = product((factor_t){l->x, I, 1}, (factor_t){l->weights, I, 1}, bias, l->gates, T * N, rows, I);
  }
  if (done) {
#pragma omp parallel if (N * H > 1 << 10)
    {
      int64_t threads = omp_get_num_threads(), me = omp_get_thread_num();
      int64_t first = l->blocks * me / threads, end = l->blocks * (me + 1) / threads;
      for (int64_t block = first; block < end; block++) {
        pair_t one[steps * LANES];
        for (int g = 0; g < GATES; g++) {  // the gates of a block side by side
          factor_t from = {recurrent(l) + (g * H + block * LANES) * H, H, 1};
          int64_t count = H - block * LANES < LANES ? H - block * LANES : LANES;
          pack_panel(from, count, H, LANES, one);
          for (int64_t p = 0; p < ceiling(H, 2); p++)
            memcpy(weights + ((block * steps + p) * GATES + g) * LANES, one + p * LANES, LANES * sizeof *one);
        }
        for (int64_t n = 0; n < N; n++)
          pack_units(_mm512_maskz_loadu_ps(units(l, block), l->h0 + n * H + block * LANES),
                     place(states, n, block * LANES / 2, steps, COLUMNS), COLUMNS);
      }
#pragma omp barrier
      for (int64_t t = 0; t < T; t++) {
        for (int64_t block = first; block < end; block++)
          forward_block(l, weights, states + t % 2 * panels, states + (t + 1) % 2 * panels, t, block);
#pragma omp barrier
      }
    }
    memcpy(last_h, l->out + (T - 1) * N * H, N * H * sizeof(float));
    memcpy(last_c, l->cells + (T - 1) * N * H, N * H * sizeof(float));
  }
  free(weights), free(states), free(bias);
  return done;
}

typedef struct {
  const float *out, *last_h, *last_c;  // the gradients of what the forward pass gave
  float *x, *weights, *h0, *c0;        // those of its inputs
  float *gates;                        // (T, N, 4, H), before their nonlinearities
} gradients_t;

// One step backward for the 16 units of a block: dh[t] from the packed gradients of the gates at t + 1, then the
// gradients of the gates at t. For t = -1 only what reaches h0.
static void backward_block(const lstm_t *l, const gradients_t *d, const pair_t *weights, const pair_t *later,
                           pair_t *now, int64_t t, int64_t block) {
  int64_t H = l->H, steps = GATES * l->padded / 2, at = block * LANES;
  __mmask16 there = units(l, block);
  for (int64_t n = 0; n < l->N; n += MORE_COLUMNS) {
    __m512 sums[MORE_COLUMNS][1];
    int rows = l->N - n < MORE_COLUMNS ? l->N - n : MORE_COLUMNS, last = t == l->T - 1;
    const float *start = t < 0 ? NULL : d->out + (t * l->N + n) * H + at;
    for (int i = 0; i < MORE_COLUMNS; i++)
      sums[i][0] = start && i < rows ? _mm512_maskz_loadu_ps(there, start + i * H) : _mm512_setzero_ps();
    if (last)
      for (int i = 0; i < rows; i++) sums[i][0] += _mm512_maskz_loadu_ps(there, d->last_h + (n + i) * H + at);
    else
      multiply(later + n * steps, weights + block * steps * LANES, steps, MORE_COLUMNS, 1, 1, sums);
    for (int i = 0; i < rows; i++) {
      if (t < 0) {
        _mm512_mask_storeu_ps(d->h0 + (n + i) * H + at, there, sums[i][0]);
        continue;
      }
      int64_t row = t * l->N + n + i;
      const float *gates = l->gates + row * GATES * H + at;
      const float *cell = t ? l->cells + (row - l->N) * H + at : l->c0 + (n + i) * H + at;
      float *carry = d->c0 + (n + i) * H + at;  // the gradient of c[t], which becomes that of c0
      __m512 in = _mm512_maskz_loadu_ps(there, gates), forget = _mm512_maskz_loadu_ps(there, gates + H);
      __m512 new = _mm512_maskz_loadu_ps(there, gates + 2 * H), out = _mm512_maskz_loadu_ps(there, gates + 3 * H);
      __m512 c = hyperbolic(_mm512_maskz_loadu_ps(there, l->cells + row * H + at)), dh = sums[i][0];
      __m512 dc = _mm512_maskz_loadu_ps(there, carry) + dh * out * (1.0f - c * c);
      __m512 values[] = {dc * new * in * (1.0f - in),
                         dc * _mm512_maskz_loadu_ps(there, cell) * forget * (1.0f - forget),
                         dc * in * (1.0f - new * new), dh * c * out * (1.0f - out)};
      _mm512_mask_storeu_ps(carry, there, dc * forget);
      for (int g = 0; g < GATES; g++) {
        _mm512_mask_storeu_ps(d->gates + (row * GATES + g) * H + at, there, values[g]);
        pack_units(values[g], place(now, n + i, (g * l->padded + at) / 2, steps, MORE_COLUMNS), MORE_COLUMNS);
      }
    }
  }
}

// The gradients of the gates at all steps, of h0 and of c0.
static int backward_in_time(const lstm_t *l, const gradients_t *d) {
  int64_t N = l->N, H = l->H, steps = GATES * l->padded / 2;
  int64_t panels = ceiling(N, MORE_COLUMNS) * MORE_COLUMNS * steps;
  pair_t *weights = packed(l->blocks * steps * LANES), *gates = packed(2 * panels);
  int done = weights && gates;
  if (done) {
    memcpy(d->c0, d->last_c, N * H * sizeof(float));
#pragma omp parallel if (N * H > 1 << 10)
    {
      int64_t threads = omp_get_num_threads(), me = omp_get_thread_num();
      int64_t first = l->blocks * me / threads, end = l->blocks * (me + 1) / threads;
      for (int64_t block = first; block < end; block++)
        for (int g = 0; g < GATES; g++) {
          factor_t from = {recurrent(l) + g * H * H + block * LANES, 1, H};
          int64_t count = H - block * LANES < LANES ? H - block * LANES : LANES;
          pack_panel(from, count, H, LANES, weights + (block * steps + g * l->padded / 2) * LANES);
        }
      for (int64_t t = l->T - 1; t >= -1; t--) {
        for (int64_t block = first; block < end; block++)
          backward_block(l, d, weights, gates + (t + 2) % 2 * panels, gates + (t + 1) % 2 * panels, t, block);
#pragma omp barrier
      }
    }
  }
  free(weights), free(gates);
  return done;
}

static int lstm_backward(const lstm_t *l, gradients_t *d) {
  int64_t T = l->T, N = l->N, H = l->H, I = l->I, rows = GATES * H;
  d->gates = malloc(T * N * rows * sizeof(float));
  float *before = malloc(T * N * H * sizeof *before), *biases = d->weights + rows * (I + H);
  int done = d->gates && before && backward_in_time(l, d);
  if (done) {
    memcpy(before, l->h0, N * H * sizeof *before);  // h[t-1] of all steps
    memcpy(before + N * H, l->out, (T - 1) * N * H * sizeof *before);
    factor_t by_step = {d->gates, rows, 1}, by_gate = {d->gates, 1, rows};
    done = product(by_step, (factor_t){l->weights, 1, I}, NULL, d->x, T * N, I, rows) &&
           product(by_gate, (factor_t){l->x, 1, I}, NULL, d->weights, rows, I, T * N) &&
           product(by_gate, (factor_t){before, 1, H}, NULL, d->weights + rows * I, rows, H, T * N);
    memset(biases, 0, rows * sizeof *biases);
    for (int64_t step = 0; step < T * N; step++)
      for (int64_t j = 0; j < rows; j++) biases[j] += d->gates[step * rows + j];
    memcpy(biases + rows, biases, rows * sizeof *biases);
  }
  free(d->gates), free(before);
  return done;
}
