// Cross-entropy over rows of logits, and its gradient in place of them. One block a row. The goal is 1 − smoothing at the target, and
// smoothing / vocabulary more everywhere.
#include "common.cuh"

template <typename T, int N>
__device__ void cross_entropy(
    T* logits, const uint32_t* targets, int vocabulary, float smoothing, float grad_scale, bool with_grad, float* losses) {
    __shared__ float partial[32];
    T* row = logits + (size_t)blockIdx.x * vocabulary;
    // Each thread keeps its own maximum and the sum relative to it, so that the logits are read once.
    float largest = -INFINITY, sum = 0.0f, plain = 0.0f;
    for (int i = threadIdx.x * N; i < vocabulary; i += blockDim.x * N) {
        float x[N];
        load(row + i, x);
        float here = x[0];
#pragma unroll
        for (int j = 1; j < N; j++) here = fmaxf(here, x[j]);
        if (here > largest) {
            sum *= expf(largest - here);
            largest = here;
        }
#pragma unroll
        for (int j = 0; j < N; j++) {
            sum += expf(x[j] - largest);
            plain += x[j];
        }
    }
    const float top = block_max(largest, partial);
    // A thread that saw nothing has a sum of zero; −∞ − −∞ would make it a NaN.
    const float total = block_sum(sum == 0.0f ? 0.0f : sum * expf(largest - top), partial);
    const float everywhere = smoothing / vocabulary, at_target = 1.0f - smoothing;
    const float mean = smoothing > 0.0f ? everywhere * block_sum(plain, partial) : 0.0f;
    const int target = targets[blockIdx.x];
    if (threadIdx.x == 0) losses[blockIdx.x] = logf(total) + top - (at_target * to_float(row[target]) + mean);
    if (!with_grad) return;
    __syncthreads();
    const float scale = grad_scale / total;
    for (int i = threadIdx.x * N; i < vocabulary; i += blockDim.x * N) {
        float x[N];
        load(row + i, x);
#pragma unroll
        for (int j = 0; j < N; j++)
            x[j] = expf(x[j] - top) * scale - grad_scale * (i + j == target ? at_target + everywhere : everywhere);
        store(row + i, x);
    }
}

#define DEFINE(name, T)                                                                                                              \
    extern "C" __global__ void cross_entropy_##name(                                                                                 \
        T* logits, const uint32_t* targets, int vocabulary, float smoothing, float grad_scale, int with_grad, float* losses) {       \
        if (vocabulary % WIDE<T> == 0)                                                                                               \
            cross_entropy<T, WIDE<T>>(logits, targets, vocabulary, smoothing, grad_scale, with_grad, losses);                        \
        else                                                                                                                         \
            cross_entropy<T, 1>(logits, targets, vocabulary, smoothing, grad_scale, with_grad, losses);                              \
    }
FOR_EACH_TYPE(DEFINE)
