// The optimizer over one flat buffer: norm, clipping, AdamW.
#include "common.cuh"

// Σ x² of a piece for each block, in f64 and in an order that does not depend on how blocks are scheduled.
extern "C" __global__ void sum_of_squares(const float* values, size_t len, double* sums) {
    __shared__ double partial[32];
    double sum = 0.0;
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < len; i += (size_t)gridDim.x * blockDim.x)
        sum += (double)values[i] * values[i];
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffff, sum, offset);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int warp = 1; warp < blockDim.x / 32; warp++) partial[0] += partial[warp];
        sums[blockIdx.x] = partial[0];
    }
}

// norm = scale · √Σ sums; factor = scale, and with max_norm > 0 times min(1, max_norm / (norm + 1e-6)).
extern "C" __global__ void finish_norm(const double* sums, int count, double scale, double max_norm, double* norm, float* factor) {
    double sum = 0.0;
    for (int i = 0; i < count; i++) sum += sums[i];
    *norm = sqrt(sum) * scale;
    const double wanted = max_norm / (*norm + 1e-6);
    *factor = (float)(max_norm > 0.0 && wanted < 1.0 ? scale * wanted : scale);
}

extern "C" __global__ void scale_by(float* values, size_t len, const float* factor) {
    const float f = *factor;
    if (f == 1.0f) return;
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < len; i += (size_t)gridDim.x * blockDim.x) values[i] *= f;
}

struct AdamWFactors {
    float decay, first_weight, keep_second, second_weight, step_size, root_correction, epsilon;
};

// torch's AdamW, rounded as torch rounds: no multiply-add is fused.
extern "C" __global__ void adamw(
    AdamWFactors f, size_t len, float* parameters, const float* gradients, float* first_moments, float* second_moments) {
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < len; i += (size_t)gridDim.x * blockDim.x) {
        const float gradient = gradients[i];
        // As torch's lerp: m + (g − m) · (1 − β1).
        const float first = __fadd_rn(first_moments[i], __fmul_rn(__fsub_rn(gradient, first_moments[i]), f.first_weight));
        const float second = __fadd_rn(
            __fmul_rn(second_moments[i], f.keep_second), __fmul_rn(__fmul_rn(gradient, gradient), f.second_weight));
        const float denominator = __fadd_rn(__fdiv_rn(__fsqrt_rn(second), f.root_correction), f.epsilon);
        first_moments[i] = first;
        second_moments[i] = second;
        parameters[i] = __fsub_rn(__fmul_rn(parameters[i], f.decay), __fmul_rn(f.step_size, __fdiv_rn(first, denominator)));
    }
}
