// Random numbers from a key and a counter.
#pragma once
#include <stdint.h>

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011); core/src/philox.rs is the same.
__device__ __forceinline__ void philox4x32_10(uint32_t (&c)[4], uint32_t key0, uint32_t key1) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const uint32_t low0 = 0xd2511f53u * c[0], high0 = __umulhi(0xd2511f53u, c[0]);
        const uint32_t low1 = 0xcd9e8d57u * c[2], high1 = __umulhi(0xcd9e8d57u, c[2]);
        c[0] = high1 ^ c[1] ^ key0;
        c[1] = low1;
        c[2] = high0 ^ c[3] ^ key1;
        c[3] = low0;
        key0 += 0x9e3779b9u;
        key1 += 0xbb67ae85u;
    }
}
