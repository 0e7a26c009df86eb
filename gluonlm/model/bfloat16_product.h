// C = A B + bias with factors rounded to bfloat16 and sums in float32, for processors with AVX512_BF16.
//
// Both factors are packed first, in the order in which they are used: panels of ROWS rows of A and of WIDTH columns of
// B, two steps of k side by side as the instruction vdpbf16ps takes them. Then each tile of C, ROWS x WIDTH, is summed
// in registers, DEPTH steps of k at a time, so that the panels stay in the nearest caches.

#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>

enum { ROWS = 10, LANES = 16, VECTORS = 2, WIDTH = VECTORS * LANES };  // 20 sums, in 20 of 32 registers
enum { DEPTH = 384, GROUP = 7 };  // pairs of k at a time; row panels that a thread takes at once

typedef uint32_t pair_t;  // two numbers in bfloat16
typedef struct { const float *data; int64_t stride, step; } factor_t;  // one row of A or column of B: k by step

#define INLINE static inline __attribute__((always_inline))  // and so compiled for each constant size by itself

static inline int64_t ceiling(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline __mmask16 lanes(int64_t count) { return count >= LANES ? 0xffff : count > 0 ? (1 << count) - 1 : 0; }

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

// A panel of `width` rows of A or columns of B, of which the first `count` are there: pairs[p * width + i].
INLINE void pack_panel(factor_t from, int64_t count, int64_t k, int width, pair_t *pairs) {
  int64_t steps = ceiling(k, 2);
  if (from.stride == 1) {  // neighbours in memory: 16 rows or columns at once
    for (int64_t p = 0; p < steps; p++)
      for (int i = 0; i < width; i += LANES) {
        const float *row = from.data + 2 * p * from.step + i;
        __mmask16 there = lanes(count - i);
        __m512 second = 2 * p + 1 < k ? _mm512_maskz_loadu_ps(there, row + from.step) : _mm512_setzero_ps();
        _mm512_mask_storeu_epi32(pairs + p * width + i, lanes(width - i),
                                 paired(_mm512_maskz_loadu_ps(there, row), second));
      }
    return;
  }
  for (int i = 0; i < width; i += LANES)  // steps of k are neighbours: 16 pairs of each of 16 rows or columns at once
    for (int64_t p = 0; p < steps; p += LANES) {
      __m512i some[LANES];
      for (int j = 0; j < LANES; j++) {
        const float *at = from.data + (i + j) * from.stride + 2 * p;
        int64_t left = i + j < count ? k - 2 * p : 0;
        __m512 low = _mm512_maskz_loadu_ps(lanes(left), at), high = _mm512_maskz_loadu_ps(lanes(left - LANES), at + LANES);
        some[j] = (__m512i)_mm512_cvtne2ps_pbh(high, low);
      }
      transpose(some);
      for (int j = 0; j < (steps - p < LANES ? steps - p : LANES); j++)
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

// One tile of C, from pairs of A and B of some steps; `rows` x `columns` of it are there.
INLINE void tile(const pair_t *a, const pair_t *b, int64_t steps, int vectors, const float *bias, int first, float *c,
                 int64_t width, int rows, int64_t columns) {
  __m512 sums[ROWS][vectors];
  for (int i = 0; i < ROWS; i++)
    for (int v = 0; v < vectors; v++) {
      const float *start = first ? bias + v * LANES : c + i * width + v * LANES;
      int there = first ? bias != NULL : i < rows;
      sums[i][v] = there ? _mm512_maskz_loadu_ps(lanes(columns - v * LANES), start) : _mm512_setzero_ps();
    }
  multiply(a, b, steps, ROWS, vectors, VECTORS, sums);
  for (int i = 0; i < rows; i++)
    for (int v = 0; v < vectors; v++)
      _mm512_mask_storeu_ps(c + i * width + v * LANES, lanes(columns - v * LANES), sums[i][v]);
}

// All of C (m, n), by rows; bias (n) or NULL. Each of `threads` does its share. 0 without memory.
static int product(factor_t a, factor_t b, const float *bias, float *c, int64_t m, int64_t n, int64_t k) {
  int64_t steps = ceiling(k, 2), tall = ceiling(m, ROWS), wide = ceiling(n, WIDTH), groups = ceiling(tall, GROUP);
  size_t size_a = tall * ROWS * steps * sizeof(pair_t), size_b = wide * WIDTH * steps * sizeof(pair_t);
  size_a = ceiling(size_a, 64) * 64;
  char *memory = aligned_alloc(64, size_a + size_b);
  if (!memory) return 0;
  pair_t *packed_a = (pair_t *)memory, *packed_b = (pair_t *)(memory + size_a);
#pragma omp parallel if (m * n * k > 1 << 18)
  {
#pragma omp for schedule(dynamic, 4) nowait
    for (int64_t i = 0; i < tall; i++) {
      factor_t panel = {a.data + i * ROWS * a.stride, a.stride, a.step};
      pack_panel(panel, m - i * ROWS, k, ROWS, packed_a + i * ROWS * steps);
    }
#pragma omp for schedule(dynamic, 4)
    for (int64_t j = 0; j < wide; j++) {
      factor_t panel = {b.data + j * WIDTH * b.stride, b.stride, b.step};
      pack_panel(panel, n - j * WIDTH, k, WIDTH, packed_b + j * WIDTH * steps);
    }
#pragma omp for schedule(dynamic) collapse(2)
    for (int64_t g = 0; g < groups; g++)
      for (int64_t j = 0; j < wide; j++)
        for (int64_t p = 0; p < steps; p += DEPTH)
          for (int64_t i = g * GROUP; i < tall && i < (g + 1) * GROUP; i++) {
            int64_t depth = steps - p < DEPTH ? steps - p : DEPTH, columns = n - j * WIDTH;
            const pair_t *left = packed_a + (i * steps + p) * ROWS, *right = packed_b + (j * steps + p) * WIDTH;
            float *at = c + i * ROWS * n + j * WIDTH;
            const float *start = bias ? bias + j * WIDTH : NULL;
            int rows = m - i * ROWS < ROWS ? m - i * ROWS : ROWS;
            if (columns > LANES)
              tile(left, right, depth, 2, start, p == 0, at, n, rows, columns);
            else
              tile(left, right, depth, 1, start, p == 0, at, n, rows, columns);
          }
  }
  free(memory);
  return 1;
}
