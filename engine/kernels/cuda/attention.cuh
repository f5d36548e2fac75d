// What attention's kernels are told of their sizes; laid out as in src/attention.rs.
#pragma once
#include "common.cuh"

struct Shape {
    int heads, key_value_heads, head_dim;
    // Last positions that a position sees, itself among them; at most the number of positions.
    int window;
    float scale;
    // The largest power of two that is at most the number of heads; 0 without ALiBi.
    int alibi_heads;

    __device__ __forceinline__ bool sees(int row, int column) const { return column <= row && row - column < window; }
    // The first position that a row sees.
    __device__ __forceinline__ int first_seen(int row) const { return max(row - window + 1, 0); }
    // ALiBi's slope of a head, as AttentionShape::slope gives it: how much a score falls for each position before the query. 0 without.
    __device__ __forceinline__ float slope(int head) const {
        if (alibi_heads == 0) return 0.0f;
        const int eighths = head < alibi_heads ? 8 * (head + 1) : 4 * (2 * (head - alibi_heads) + 1);
        return exp2f(-(float)eighths / (float)alibi_heads);
    }
};
