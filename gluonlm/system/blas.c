// MXNet's products of matrices and vectors by another BLAS; gluonlm/system/blas.py compiles and loads this before mxnet.
//
// Whoever defines cblas_sgemm and cblas_sdot first serves libmxnet.so. This one divides a product over the threads of the OpenMP that
// all of MXNet uses, and lets the other library work on each part with one thread: so there is one pool of threads,
// with one way of waiting. The parts do not depend on the number of threads, and so neither do the results.

#include <stdint.h>

#define API __attribute__((visibility("default")))

typedef void sgemm_t(int order, int transpose_a, int transpose_b, int m, int n, int k, float alpha, const float *a,
                     int lda, const float *b, int ldb, float beta, float *c, int ldc);

enum { ROWS = 101, COLUMNS = 102, PLAIN = 111 };  // cblas.h
enum { SMALL = 1 << 18, LEAST = 160, MOST = 16 };  // multiplications, and the size and number of parts, worth sharing

typedef float sdot_t(int n, const float *x, int step_x, const float *y, int step_y);

static sgemm_t *product;
static sdot_t *inner_product;

API void gluonlm_use(sgemm_t *sgemm, sdot_t *sdot) { product = sgemm, inner_product = sdot; }

API float cblas_sdot(int n, const float *x, int step_x, const float *y, int step_y) {
  float sums[MOST] = {0}, sum = 0;
  if (n < SMALL || step_x != 1 || step_y != 1) return inner_product(n, x, step_x, y, step_y);
  int part = (n + MOST - 1) / MOST;
#pragma omp parallel for schedule(dynamic)
  for (int i = 0; i < MOST; i++) {
    int start = i * part, length = n - start < part ? n - start : part;
    sums[i] = inner_product(length, x + start, 1, y + start, 1);
  }
  for (int i = 0; i < MOST; i++) sum += sums[i];
  return sum;
}

API void cblas_sgemm(int order, int transpose_a, int transpose_b, int m, int n, int k, float alpha, const float *a,
                 int lda, const float *b, int ldb, float beta, float *c, int ldc) {
  if (order == COLUMNS) {  // by columns A B = C is by rows B' A' = C'
    cblas_sgemm(ROWS, transpose_b, transpose_a, n, m, k, alpha, b, ldb, a, lda, beta, c, ldc);
    return;
  }
  int wide = n >= m, size = wide ? n : m;  // the longer side of C is divided
  int parts = size / LEAST < 1 ? 1 : size / LEAST > MOST ? MOST : size / LEAST;
  int64_t part = ((size + parts - 1) / parts + 15) / 16 * 16;
#pragma omp parallel for schedule(dynamic) if (parts > 1 && (double)m * n * k > SMALL)
  for (int64_t start = 0; start < size; start += part) {
    int length = size - start < part ? size - start : part;
    if (wide)
      product(ROWS, transpose_a, transpose_b, m, length, k, alpha, a, lda, b + start * (transpose_b == PLAIN ? 1 : ldb),
              ldb, beta, c + start, ldc);
    else
      product(ROWS, transpose_a, transpose_b, length, n, k, alpha, a + start * (transpose_a == PLAIN ? lda : 1), lda, b,
              ldb, beta, c + start * ldc, ldc);
  }
}
