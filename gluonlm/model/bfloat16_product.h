// C = A B + bias with factors rounded to bfloat16 and sums in float32, for processors with AVX512_BF16.
//
// A is packed first, in the order in which it is used: panels of ROWS rows, two steps of k side by side as the
// instruction vdpbf16ps takes them. Then each thread packs a panel of WIDTH columns of B, which stays in its nearest
// caches, DEPTH pairs of k at a time, and goes with it through all panels of A: each tile of C, ROWS x WIDTH, is summed
// in registers. So it is best to have the larger factor as B.

#include <immintrin.h>
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>

enum { ROWS = 10, LANES = 16, VECTORS = 2, WIDTH = VECTORS * LANES };  // 20 sums, in 20 of 32 registers
enum { DEPTH = 384, SHARES = 8 };  // pairs of k at a time; shares of the work for each thread, at least

typedef uint32_t pair_t;  // two numbers in bfloat16
typedef struct {
  const void *data;      // float, or bfloat16 already
  int64_t stride, step;  // from a row of A or column of B to the next one, from one k to the next one
  int bfloat16;
} factor_t;
typedef struct { factor_t a, b; int64_t m, n, k; } factors_t;  // A (m, k), B (k, n)
typedef struct {
  const pair_t *a, *b;
  int64_t i, j, p, depth, n;  // of the panels i and j, `depth` pairs from p on; columns of C
  int64_t rows, columns;      // how many of ROWS and WIDTH are there
} tile_t;
typedef void finish_t(const tile_t *, void *);  // sums a tile, and does something with the sums

#define INLINE static inline __attribute__((always_inline))  // and so compiled for each constant size by itself

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t ceiling(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline __mmask16 lanes(int64_t count) { return count >= LANES ? 0xffff : count > 0 ? (1 << count) - 1 : 0; }
static inline __mmask32 half_lanes(int64_t count) { return lanes(count) | (__mmask32)lanes(count - LANES) << LANES; }

// exp(x) to 2 units in the last place; NaN and what is too large stay NaN and infinity
INLINE __m512 exponential(__m512 x) {
  __m512 n = _mm512_roundscale_ps(x * 1.44269504f, 0);
  __m512 r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // x - n ln 2
  __m512 p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  return _mm512_scalef_ps(p * r * r + r + 1.0f, n);
}

// Numbers of step p beside those of step p + 1: 16 pairs.
static inline __m512i paired(__m512 first, __m512 second) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(second, first));
}

// Of 16 rows of 16 pairs the columns: first within blocks of 4 x 4, then the blocks among themselves.
static inline void transpose(__m512i row[LANES]) {
  __m512i half[LANES];
  for (int i = 0; i < LANES; i += 2) {
    half[i] = _mm512_unpacklo_epi32(row[i], row[i + 1]);
    half[i + 1] = _mm512_unpackhi_epi32(row[i], row[i + 1]);
  }
  for (int i = 0; i < LANES; i += 4)
    for (int j = 0; j < 2; j++) {
      row[i + 2 * j] = _mm512_unpacklo_epi64(half[i + j], half[i + j + 2]);
      row[i + 2 * j + 1] = _mm512_unpackhi_epi64(half[i + j], half[i + j + 2]);
    }
  for (int j = 0; j < 4; j++) {  // row[4 i + j]: of columns j, 4 + j, 8 + j and 12 + j what rows 4 i to 4 i + 3 have
    __m512i even = _mm512_shuffle_i32x4(row[j], row[4 + j], 0x88), odd = _mm512_shuffle_i32x4(row[j], row[4 + j], 0xdd);
    __m512i even2 = _mm512_shuffle_i32x4(row[8 + j], row[12 + j], 0x88);
    __m512i odd2 = _mm512_shuffle_i32x4(row[8 + j], row[12 + j], 0xdd);
    row[j] = _mm512_shuffle_i32x4(even, even2, 0x88), row[8 + j] = _mm512_shuffle_i32x4(even, even2, 0xdd);
    row[4 + j] = _mm512_shuffle_i32x4(odd, odd2, 0x88), row[12 + j] = _mm512_shuffle_i32x4(odd, odd2, 0xdd);
  }
}

static inline factor_t after(factor_t from, int64_t offset) {  // the same from a later number on
  from.data = (const char *)from.data + offset * (from.bfloat16 ? sizeof(uint16_t) : sizeof(float));
  return from;
}

// 16 neighbours of step p beside those of step p + 1, if there is one: pairs.
INLINE __m512i pairs_of_neighbours(factor_t from, __mmask16 there, int two) {
  factor_t next = after(from, two ? from.step : 0);
  if (from.bfloat16) {
    __m512i first = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(there, from.data));
    __m512i second = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(two ? there : 0, next.data));
    return _mm512_or_si512(first, _mm512_slli_epi32(second, 16));
  }
  return paired(_mm512_maskz_loadu_ps(there, from.data), _mm512_maskz_loadu_ps(two ? there : 0, next.data));
}

// 32 steps that are neighbours, of which `left` are there: 16 pairs.
INLINE __m512i pairs_of_steps(factor_t from, int64_t left) {
  if (from.bfloat16) return _mm512_maskz_loadu_epi16(half_lanes(left), from.data);
  __m512 low = _mm512_maskz_loadu_ps(lanes(left), from.data);
  return (__m512i)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(lanes(left - LANES), after(from, LANES).data), low);
}

// A panel of `width` rows of A or columns of B, of which the first `count` are there: pairs[p * width + i].
INLINE void pack_panel(factor_t from, int64_t count, int64_t k, int width, pair_t *pairs) {
  int64_t steps = ceiling(k, 2);
  if (from.stride == 1) {  // neighbours in memory: 16 rows or columns at once
    for (int64_t p = 0; p < steps; p++)
      for (int i = 0; i < width; i += LANES)
        _mm512_mask_storeu_epi32(
            pairs + p * width + i, lanes(width - i),
            pairs_of_neighbours(after(from, 2 * p * from.step + i), lanes(count - i), 2 * p + 1 < k));
    return;
  }
  int64_t rows = smaller(count, width);
  for (int i = 0; i < width; i += LANES)  // steps of k are neighbours: 16 pairs of each of 16 rows or columns at once
    for (int64_t p = 0; p < steps; p += LANES) {
      __m512i some[LANES];
      for (int j = 0; j < LANES; j++)
        some[j] = pairs_of_steps(after(from, (i + j) * from.stride + 2 * p), i + j < rows ? k - 2 * p : 0);
      transpose(some);
      for (int j = 0; j < smaller(steps - p, LANES); j++)
        _mm512_mask_storeu_epi32(pairs + (p + j) * width + i, lanes(width - i), some[j]);
    }
}

// sums[i][v] += a[.][i] b[.][v] over `steps` pairs; a has `rows` of them at each step, b has `pitch` vectors.
INLINE void multiply(const pair_t *a, const pair_t *b, int64_t steps, int rows, int vectors, int pitch,
                     __m512 sums[rows][vectors]) {
  for (int64_t p = 0; p < steps; p++) {
    __m512bh right[4];
    for (int v = 0; v < vectors; v++) right[v] = (__m512bh)_mm512_load_si512(b + (p * pitch + v) * LANES);
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
      __m512bh left = (__m512bh)_mm512_set1_epi32(a[p * rows + i]);
      for (int v = 0; v < vectors; v++) sums[i][v] = _mm512_dpbf16_ps(sums[i][v], left, right[v]);
    }
  }
}

// The sums of a tile, which begin with the numbers at `start`, from one row to the next `pitch` later, if any.
INLINE void sum_tile(const tile_t *t, const float *start, int64_t pitch, int vectors, __m512 sums[ROWS][vectors]) {
  for (int r = 0; r < ROWS; r++)
    for (int v = 0; v < vectors; v++)
      sums[r][v] = start && r < t->rows
                       ? _mm512_maskz_loadu_ps(lanes(t->columns - v * LANES), start + r * pitch + v * LANES)
                       : _mm512_setzero_ps();
  multiply(t->a, t->b, t->depth, ROWS, vectors, VECTORS, sums);
}

// Finishes all tiles, each `most` pairs at a time. 0 without memory.
static int multiply_all(factors_t f, int64_t most, finish_t *finish, void *to) {
  int64_t steps = ceiling(f.k, 2), tall = ceiling(f.m, ROWS), wide = ceiling(f.n, WIDTH);
  int64_t threads = omp_get_max_threads(), groups = smaller(tall, ceiling(SHARES * threads, wide));
  int64_t all = ceiling(tall * ROWS * steps, LANES) * LANES, own = WIDTH * smaller(steps, most);
  pair_t *packed_a = aligned_alloc(64, (all + threads * own) * sizeof(pair_t)), *packed_b = packed_a + all;
  if (!packed_a) return 0;
#pragma omp parallel if (f.m * f.n * f.k > 1 << 18)
  {
    pair_t *b = packed_b + omp_get_thread_num() * own;
#pragma omp for schedule(dynamic, 4)
    for (int64_t i = 0; i < tall; i++)
      pack_panel(after(f.a, i * ROWS * f.a.stride), f.m - i * ROWS, f.k, ROWS, packed_a + i * ROWS * steps);
#pragma omp for schedule(dynamic) collapse(2)
    for (int64_t j = 0; j < wide; j++)
      for (int64_t g = 0; g < groups; g++)
        for (int64_t p = 0; p < steps; p += most) {
          int64_t depth = smaller(steps - p, most), columns = f.n - j * WIDTH;
          factor_t panel = after(f.b, j * WIDTH * f.b.stride + 2 * p * f.b.step);
          pack_panel(panel, columns, smaller(f.k - 2 * p, 2 * depth), WIDTH, b);
          for (int64_t i = tall * g / groups; i < tall * (g + 1) / groups; i++)
            finish(&(tile_t){packed_a + (i * steps + p) * ROWS, b, i, j, p, depth, f.n,
                             smaller(f.m - i * ROWS, ROWS), smaller(columns, WIDTH)}, to);
        }
  }
  free(packed_a);
  return 1;
}

typedef struct { float *c; const float *bias; } stored_t;

INLINE void store(const tile_t *t, const stored_t *to, int vectors) {
  __m512 sums[ROWS][vectors];
  float *c = to->c + t->i * ROWS * t->n + t->j * WIDTH;
  if (t->p)
    sum_tile(t, c, t->n, vectors, sums);
  else
    sum_tile(t, to->bias ? to->bias + t->j * WIDTH : NULL, 0, vectors, sums);
  for (int r = 0; r < t->rows; r++)
    for (int v = 0; v < vectors; v++)
      _mm512_mask_storeu_ps(c + r * t->n + v * LANES, lanes(t->columns - v * LANES), sums[r][v]);
}
static void store_tile(const tile_t *t, void *to) {
  if (t->columns > LANES)
    store(t, to, 2);
  else
    store(t, to, 1);
}

// All of C (m, n), by rows; bias (n) or NULL. 0 without memory.
static int product(factor_t a, factor_t b, const float *bias, float *c, int64_t m, int64_t n, int64_t k) {
  return multiply_all((factors_t){a, b, m, n, k}, DEPTH, store_tile, &(stored_t){c, bias});
}
