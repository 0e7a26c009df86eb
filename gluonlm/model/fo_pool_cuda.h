// The pooling on GPUs, included by fo_pool.c: each thread takes one column. The kernels are compiled on first use, for
// the GPU that is there, by NVRTC, which MXNet's CUDA build has loaded; no CUDA toolkit is needed. There was no GPU to
// run them on: tests/model/test_qrnn.py runs them through a stand-in for CUDA that executes each thread on the processor.

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>

static const char PREAMBLE[] =
    "#define INLINE static __device__ __forceinline__\n"
    "#define restrict __restrict__\n"
    "#define int64_t long long\n"
    "enum { BLOCK = 1 };\n";
static const char KERNELS[] =
    "\n#define COLUMN long long j = (long long)blockIdx.x * blockDim.x + threadIdx.x; if (j >= N * H) return;\n"
    "extern \"C\" __global__ void fo_pool_forward(const float *gates, const float *c0, const float *keep, float *h,"
    " float *c, long long T, long long N, long long H) {\n"
    "  COLUMN forward(gates, c0, keep, h, c, T, N, H, j / H, j % H, j % H + 1);\n}\n"
    "extern \"C\" __global__ void fo_pool_backward(const float *dh, const float *dc, const float *gates,"
    " const float *c0, const float *keep, const float *c, float *dgates, float *dc0, float *dkeep, long long T,"
    " long long N, long long H) {\n"
    "  COLUMN backward(dh, dc, gates, c0, keep, c, dgates, dc0, dkeep, T, N, H, j / H, j % H, j % H + 1);\n}\n";

enum { DEVICES = 64, THREADS = 128, MAJOR = 75, MINOR = 76 };  // the last two: attributes of CUdevice_attribute
static char message[2048];  // of the last failure

static int failed(const char *what, const char *detail) {
  snprintf(message, sizeof message, "gluonlm_fo_pool: %s: %s", what, detail ? detail : "?");
  fprintf(stderr, "%s\n", message);
  return 0;
}

// A function of a CUDA library, which MXNet has loaded already.
static void *of_library(const char *library, const char *name) {
  void *handle = dlopen(library, RTLD_NOW), *found = handle ? dlsym(handle, name) : NULL;
  if (!found) failed(name, dlerror());
  return found;
}
#define NVRTC(name, ...) int (*name)(__VA_ARGS__) = of_library("libnvrtc.so.11.2", #name); if (!name) return 0
#define CUDA(name, ...) int (*name)(__VA_ARGS__) = of_library("libcuda.so.1", #name); if (!name) return 0

// Machine code for the GPU at hand, to be freed.
static int compile_kernels(char **code) {
  NVRTC(nvrtcCreateProgram, void **, const char *, const char *, int, const char *const *, const char *const *);
  NVRTC(nvrtcCompileProgram, void *, int, const char *const *);
  NVRTC(nvrtcGetProgramLog, void *, char *);
  NVRTC(nvrtcGetCUBINSize, void *, size_t *);
  NVRTC(nvrtcGetCUBIN, void *, char *);
  NVRTC(nvrtcDestroyProgram, void **);
  CUDA(cuCtxGetDevice, int *);
  CUDA(cuDeviceGetAttribute, int *, int, int);
  int device, major, minor;
  if (cuCtxGetDevice(&device) || cuDeviceGetAttribute(&major, MAJOR, device) ||
      cuDeviceGetAttribute(&minor, MINOR, device))
    return failed("cuDeviceGetAttribute", "no current device");
  static char source[sizeof PREAMBLE + sizeof ARITHMETIC + sizeof KERNELS];
  char architecture[48];
  snprintf(source, sizeof source, "%s%s%s", PREAMBLE, ARITHMETIC, KERNELS);
  snprintf(architecture, sizeof architecture, "--gpu-architecture=sm_%d%d", major, minor);
  const char *options[] = {architecture};
  void *program;
  size_t size;
  if (nvrtcCreateProgram(&program, source, "fo_pool.cu", 0, NULL, NULL)) return failed("nvrtcCreateProgram", "");
  if (nvrtcCompileProgram(program, 1, options)) {
    char log[1 << 16] = "";
    nvrtcGetProgramLog(program, log);
    return failed("NVRTC cannot compile the kernels", log);
  }
  if (nvrtcGetCUBINSize(program, &size) || !(*code = malloc(size)) || nvrtcGetCUBIN(program, *code))
    return failed("nvrtcGetCUBIN", "no machine code");
  nvrtcDestroyProgram(&program);
  return 1;
}

static int launch(const pool_t *call, int which, void **arguments) {
  static const char *names[] = {"fo_pool_forward", "fo_pool_backward"};
  static void *kernels[DEVICES][2];  // by the number of the GPU
  static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  CUDA(cuModuleLoadData, void **, const void *);
  CUDA(cuModuleGetFunction, void **, void *, const char *);
  CUDA(cuLaunchKernel, void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **,
       void **);
  if (call->device >= DEVICES) return failed("cuLaunchKernel", "too many devices");
  void **kernel = kernels[call->device];
  pthread_mutex_lock(&lock);
  if (!kernel[1]) {
    char *code = NULL;
    void *module;
    if (compile_kernels(&code) && (cuModuleLoadData(&module, code) ||
                                   cuModuleGetFunction(&kernel[0], module, names[0]) ||
                                   cuModuleGetFunction(&kernel[1], module, names[1])))
      failed("cuModuleLoadData", "the kernels cannot be loaded");
    free(code);
  }
  pthread_mutex_unlock(&lock);
  if (!kernel[1]) return 0;
  unsigned blocks = (call->N * call->H + THREADS - 1) / THREADS;
  int error = cuLaunchKernel(kernel[which], blocks, 1, 1, THREADS, 1, 1, 0, call->stream, arguments, NULL);
  return error ? failed("cuLaunchKernel", "") : 1;
}

static int forward_on_gpu(const pool_t *call) {
  void **in = call->in, **out = call->out, *keep = call->inputs == 3 ? in[2] : NULL;
  pool_t sizes = *call;
  return launch(call, 0, (void *[]){&in[0], &in[1], &keep, &out[0], &out[1], &sizes.T, &sizes.N, &sizes.H});
}

static int backward_on_gpu(const pool_t *call) {
  int zoneout = call->inputs == 7;
  void **in = call->in, **out = call->out, *keep = zoneout ? in[4] : NULL, *dkeep = zoneout ? out[2] : NULL;
  pool_t sizes = *call;
  return launch(call, 1, (void *[]){&in[0], &in[1], &in[2], &in[3], &keep, &in[call->inputs - 1], &out[0], &out[1],
                                    &dkeep, &sizes.T, &sizes.N, &sizes.H});
}
