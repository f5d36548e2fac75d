// RMSNorm and its backward pass: one block a row.
#include "common.cuh"

// out = x · r · weight, r = 1 / √(mean(x²) + epsilon). N numbers at once; width is a multiple of N.
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

// input_grad += r·(w∘g) − x·r³/width·Σ(w∘g∘x)
template <typename T, int N>
__device__ void backward(const T* x, const float* weight, const float* reciprocal_rms, const T* output_grad, int width, T* input_grad) {
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
        const T* x, const float* weight, const float* factors, const T* output_grad, int width, T* input_grad) {                     \
        if (width % WIDE<T> == 0)                                                                                                    \
            backward<T, WIDE<T>>(x, weight, factors, output_grad, width, input_grad);                                                \
        else                                                                                                                         \
            backward<T, 1>(x, weight, factors, output_grad, width, input_grad);                                                      \
    }
FOR_EACH_TYPE(DEFINE)
