// Softmax and cross-entropy of logits x = features weight' + bias that never reach memory: of each tile of the product
// only e = exp(x) is kept, rounded to bfloat16, as the products of the backward pass take it. Included by bfloat16.c.
//
//     loss[i] = ln s[i] - x[i][target[i]],  s[i] = sum of e[i][j] over j
//     d loss[i] / d x[i][j] = (e[i][j] - s[i] [j = target[i]]) / s[i]
//
// No maximum is subtracted first, since float32 reaches from e^-87 to e^88. Where a row's sum is beyond that, all is
// done once more, as usual, with the maxima.

#include <float.h>
#include <math.h>

typedef struct {
  const float *bias, *targets;  // (n); (m) columns
  float *shift, *chosen;        // (m) what is subtracted from the logits; the targets' logits, then
  float *partial;               // (panels of columns, m) sums of e, or maxima, of a panel
  uint16_t *exponentials;       // (m, pitch), or NULL
  int64_t rows, pitch;          // m; numbers from a row of exponentials to the next one
} softmax_t;

static void find_maxima(const tile_t *t, void *softmax) {
  softmax_t *to = softmax;
  __m512 sums[ROWS][VECTORS];
  sum_tile(t, to->bias + t->j * WIDTH, 0, VECTORS, sums);
  for (int r = 0; r < t->rows; r++)
    to->partial[t->j * to->rows + t->i * ROWS + r] =
        fmaxf(_mm512_mask_reduce_max_ps(lanes(t->columns), sums[r][0]),
              _mm512_mask_reduce_max_ps(lanes(t->columns - LANES), sums[r][1]));
}

static void keep_exponentials(const tile_t *t, void *softmax) {
  softmax_t *to = softmax;
  __m512 sums[ROWS][VECTORS];
  int64_t column = t->j * WIDTH;
  sum_tile(t, to->bias + column, 0, VECTORS, sums);
  for (int r = 0; r < t->rows; r++) {
    int64_t row = t->i * ROWS + r, target = (int64_t)to->targets[row] - column;
    float logits[WIDTH];
    __m512 e[VECTORS];
    for (int v = 0; v < VECTORS; v++) {
      __m512 x = sums[r][v] - to->shift[row];
      _mm512_storeu_ps(logits + v * LANES, x);
      e[v] = _mm512_maskz_mov_ps(lanes(t->columns - v * LANES), exponential(x));
    }
    if (target >= 0 && target < t->columns) to->chosen[row] = logits[target];
    to->partial[t->j * to->rows + row] = _mm512_reduce_add_ps(e[0] + e[1]);
    if (to->exponentials)
      _mm512_mask_storeu_epi16(to->exponentials + row * to->pitch + column, half_lanes(to->pitch - column),
                               (__m512i)_mm512_cvtne2ps_pbh(e[1], e[0]));
  }
}

// sums (m) over the panels in their order, whatever the number of threads: are all within the range?
static int add_up(const softmax_t *to, int64_t panels, float *sums) {
  int64_t m = to->rows;
  int fine = 1;
  memset(sums, 0, m * sizeof *sums);
  for (int64_t j = 0; j < panels; j++)
    for (int64_t i = 0; i < m; i++) sums[i] += to->partial[j * m + i];
  for (int64_t i = 0; i < m; i++) fine &= sums[i] >= FLT_MIN && sums[i] < INFINITY;
  return fine;
}

static uint16_t rounded(float x) { return (uint16_t)_mm_extract_epi16((__m128i)_mm_cvtneps_pbh(_mm_set1_ps(x)), 0); }

// losses (m), sums (m), and e with e - s in the place of the target's. 0 without memory.
static int cross_entropy(factors_t f, softmax_t *to, float *losses, float *sums) {
  int64_t panels = ceiling(f.n, WIDTH), m = to->rows = f.m;
  to->partial = malloc((panels + 2) * m * sizeof(float));
  if (!to->partial) return 0;
  to->shift = to->partial + panels * m, to->chosen = to->shift + m;
  memset(to->shift, 0, 2 * m * sizeof(float));
  int done = multiply_all(f, f.k, keep_exponentials, to);
  if (done && !add_up(to, panels, sums)) {
    done = multiply_all(f, f.k, find_maxima, to);
    for (int64_t i = 0; i < m; i++) to->shift[i] = -INFINITY;
    for (int64_t j = 0; j < panels; j++)
      for (int64_t i = 0; i < m; i++) to->shift[i] = fmaxf(to->shift[i], to->partial[j * m + i]);
    done = done && multiply_all(f, f.k, keep_exponentials, to);
    add_up(to, panels, sums);
  }
  for (int64_t i = 0; done && i < m; i++) {
    losses[i] = logf(sums[i]) - to->chosen[i];
    if (to->exponentials)
      to->exponentials[i * to->pitch + (int64_t)to->targets[i]] = rounded(expf(to->chosen[i]) - sums[i]);
  }
  free(to->partial);
  return done;
}
