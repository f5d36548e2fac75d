// RMSNorm and its backward pass.
#include "common.cuh"

// out = x · r · weight, r = 1 / √(mean(x²) + epsilon): a warp takes a row, and keeps it in registers. Widths up to 32 · WIDE · PACKS, a multiple
// of WIDE.
template <typename T, int PACKS>
__device__ void forward_in_registers(const T* x, const float* weight, float epsilon, int rows, int width, T* out, float* reciprocal_rms) {
    constexpr int N = WIDE<T>;
    static_assert(N == 8, "for 16-bit numbers");
    const int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, first = threadIdx.x % 32 * N;
    if (row >= rows) return;
    x += (size_t)row * width;
    out += (size_t)row * width;
    Pack<T, N> kept[PACKS];
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        const int i = first + p * 32 * N;
        if (i < width) kept[p] = *reinterpret_cast<const Pack<T, N>*>(x + i);
    }
    float squares = 0.0f;
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        if (first + p * 32 * N >= width) continue;
#pragma unroll
        for (int j = 0; j < N; j++) squares += to_float(kept[p].v[j]) * to_float(kept[p].v[j]);
    }
    const float r = 1.0f / sqrtf(warp_sum(squares) / width + epsilon);
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        const int i = first + p * 32 * N;
        if (i >= width) continue;
        float w[2][4];
        load(weight + i, w[0]);
        load(weight + i + 4, w[1]);
#pragma unroll
        for (int j = 0; j < N; j++) kept[p].v[j] = from_float<T>(to_float(kept[p].v[j]) * r * w[j / 4][j % 4]);
        *reinterpret_cast<Pack<T, N>*>(out + i) = kept[p];
    }
    if (first == 0) reciprocal_rms[row] = r;
}

// The same for any width: a block takes a row. N numbers at once; width is a multiple of N.
template <typename T, int N>
__device__ void forward(const T* x, const float* weight, float epsilon, int width, T* out, float* reciprocal_rms) {
    __shared__ float partial[32];
    const size_t row = (size_t)blockIdx.x * width;
    float squares = 0.0f;
    for (int i = threadIdx.x * N; i < width; i += blockDim.x * N) {
        float a[N];
        load(x + row + i, a);
#pragma unroll
        for (int j = 0; j < N; j++) squares += a[j] * a[j];
    }
    const float r = 1.0f / sqrtf(block_sum(squares, partial) / width + epsilon);
    for (int i = threadIdx.x * N; i < width; i += blockDim.x * N) {
        float a[N];
        load(x + row + i, a);
#pragma unroll
        for (int j = 0; j < N; j++) a[j] = a[j] * r * weight[i + j];
        store(out + row + i, a);
    }
    if (threadIdx.x == 0) reciprocal_rms[blockIdx.x] = r;
}

// input_grad += r·(w∘g) − x·r³/width·Σ(w∘g∘x), and normed = x · r · w where it has a place.
template <typename T, int N>
__device__ void backward(
    const T* x, const float* weight, const float* reciprocal_rms, const T* output_grad, int width, T* input_grad, T* normed) {
    __shared__ float partial[32];
    const size_t row = (size_t)blockIdx.x * width;
    float dot = 0.0f;
    for (int i = threadIdx.x * N; i < width; i += blockDim.x * N) {
        float a[N], g[N];
        load(x + row + i, a);
        load(output_grad + row + i, g);
#pragma unroll
        for (int j = 0; j < N; j++) dot += weight[i + j] * g[j] * a[j];
    }
    const float r = reciprocal_rms[blockIdx.x];
    const float pull = -(block_sum(dot, partial) * r * r * r / width);
    for (int i = threadIdx.x * N; i < width; i += blockDim.x * N) {
        float a[N], g[N], sum[N];
        load(x + row + i, a);
        load(output_grad + row + i, g);
        load(input_grad + row + i, sum);
#pragma unroll
        for (int j = 0; j < N; j++) sum[j] += weight[i + j] * g[j] * r + a[j] * pull;
        store(input_grad + row + i, sum);
        if (normed) {
#pragma unroll
            for (int j = 0; j < N; j++) a[j] = a[j] * r * weight[i + j];
            store(normed + row + i, a);
        }
    }
}

#define DEFINE(name, T)                                                                                                              \
    extern "C" __global__ void rms_norm_##name(const T* x, const float* weight, float epsilon, int width, T* out, float* factors) { \
        if (width % WIDE<T> == 0)                                                                                                    \
            forward<T, WIDE<T>>(x, weight, epsilon, width, out, factors);                                                            \
        else                                                                                                                         \
            forward<T, 1>(x, weight, epsilon, width, out, factors);                                                                  \
    }                                                                                                                                \
    extern "C" __global__ void rms_norm_backward_##name(                                                                             \
        const T* x, const float* weight, const float* factors, const T* output_grad, int width, T* input_grad, T* normed) {          \
        if (width % WIDE<T> == 0)                                                                                                    \
            backward<T, WIDE<T>>(x, weight, factors, output_grad, width, input_grad, normed);                                        \
        else                                                                                                                         \
            backward<T, 1>(x, weight, factors, output_grad, width, input_grad, normed);                                              \
    }
FOR_EACH_TYPE(DEFINE)

#define DEFINE_IN_REGISTERS(name, T, PACKS)                                                                                          \
    extern "C" __global__ void __launch_bounds__(128) rms_norm_##PACKS##_##name(                                                      \
        const T* x, const float* weight, float epsilon, int rows, int width, T* out, float* factors) {                               \
        forward_in_registers<T, PACKS>(x, weight, epsilon, rows, width, out, factors);                                               \
    }
#define DEFINE_SHORT(name, T)              \
    DEFINE_IN_REGISTERS(name, T, 4)        \
    DEFINE_IN_REGISTERS(name, T, 16)       \
    DEFINE_IN_REGISTERS(name, T, 32)
DEFINE_SHORT(f16, __half)
DEFINE_SHORT(bf16, __nv_bfloat16)
