// MXNet's matrix products by another BLAS; gluonlm/system/blas.py compiles and loads this before mxnet.
//
// Whoever defines cblas_sgemm first serves libmxnet.so. This one divides a product over the threads of the OpenMP that
// all of MXNet uses, and lets the other library work on each part with one thread: so there is one pool of threads,
// with one way of waiting and one number of threads.

#include <omp.h>
#include <stdint.h>

#define API __attribute__((visibility("default")))

typedef void sgemm_t(int order, int transpose_a, int transpose_b, int m, int n, int k, float alpha, const float *a,
                     int lda, const float *b, int ldb, float beta, float *c, int ldc);

enum { ROWS = 101, COLUMNS = 102, PLAIN = 111 };  // cblas.h
enum { SMALL = 1 << 18, STEP = 48 };  // multiplications not worth a second thread; a part is a multiple of STEP

static sgemm_t *product;

API void gluonlm_use_sgemm(sgemm_t *sgemm) { product = sgemm; }

API void cblas_sgemm(int order, int transpose_a, int transpose_b, int m, int n, int k, float alpha, const float *a,
                 int lda, const float *b, int ldb, float beta, float *c, int ldc) {
  if (order == COLUMNS) {  // by columns A B = C is by rows B' A' = C'
    cblas_sgemm(ROWS, transpose_b, transpose_a, n, m, k, alpha, b, ldb, a, lda, beta, c, ldc);
    return;
  }
  int wide = n >= m, size = wide ? n : m;  // the longer side of C is divided
#pragma omp parallel if ((double)m * n * k > SMALL)
  {
    int threads = omp_get_num_threads();
    int part = ((size + threads - 1) / threads + STEP - 1) / STEP * STEP;
    int64_t start = (int64_t)omp_get_thread_num() * part;
    int length = start + part < size ? part : (int)(size - start);
    if (length > 0 && wide)
      product(ROWS, transpose_a, transpose_b, m, length, k, alpha, a, lda, b + start * (transpose_b == PLAIN ? 1 : ldb),
              ldb, beta, c + start, ldc);
    else if (length > 0)
      product(ROWS, transpose_a, transpose_b, length, n, k, alpha, a + start * (transpose_a == PLAIN ? lda : 1), lda, b,
              ldb, beta, c + start * ldc, ldc);
  }
}
