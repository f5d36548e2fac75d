// GGML's block types: what the bytes of a block mean (the layouts are llama.cpp's, ggml-common.h), and eight numbers of it as f32. Every
// operation rounds alone, in the order of the processor's code, so that the bits are the same: no fused multiply-add.
#pragma once
#include "common.cuh"

// Eight bytes as one number, the first one lowest. ALIGN: what the address is a multiple of.
template <int ALIGN> __device__ __forceinline__ uint64_t eight_bytes(const uint8_t* at) {
    if constexpr (ALIGN == 8) {
        return *reinterpret_cast<const uint64_t*>(at);
    } else if constexpr (ALIGN == 4) {
        const uint32_t* words = reinterpret_cast<const uint32_t*>(at);
        return words[0] | (uint64_t)words[1] << 32;
    } else {
        const uint16_t* words = reinterpret_cast<const uint16_t*>(at);
        return words[0] | (uint32_t)words[1] << 16 | (uint64_t)(words[2] | (uint32_t)words[3] << 16) << 32;
    }
}

// Byte i of eight, as a code of `BITS` bits that begins at bit `shift`.
template <int BITS> __device__ __forceinline__ int code(uint64_t bytes, int i, int shift) {
    return (int)(bytes >> (8 * i + shift)) & ((1 << BITS) - 1);
}

__device__ __forceinline__ int signed_byte(uint64_t bytes, int i) { return (int8_t)(uint8_t)(bytes >> (8 * i)); }

__device__ __forceinline__ float half_at(const uint8_t* at) { return __half2float(*reinterpret_cast<const __half*>(at)); }

__device__ __forceinline__ float multiply_add(float a, float b, float c) { return __fadd_rn(__fmul_rn(a, b), c); }

// 32 codes of 4 bits, and where HIGH is given a fifth bit each: byte i of CODES holds number i in its low half and number i + 16 in its
// high half; bit i of the word at HIGH belongs to number i. Without MINIMUM the numbers are (code − half its range) · d, with it code · d + m.
template <int BLOCK_BYTES, int HIGH, int CODES, int ALIGN, bool MINIMUM> struct FourOrFiveBits {
    static constexpr int NUMBERS = 32, BYTES = BLOCK_BYTES;

    static __device__ __forceinline__ void numbers(const uint8_t* block, int first, float (&out)[8]) {
        const uint64_t codes = eight_bytes<ALIGN>(block + CODES + first % 16);
        const float d = half_at(block), m = MINIMUM ? half_at(block + 2) : 0.0f;
        uint32_t high = 0;
        if constexpr (HIGH > 0) {
            const uint16_t* words = reinterpret_cast<const uint16_t*>(block + HIGH);
            high = (words[0] | (uint32_t)words[1] << 16) >> first;
        }
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const int number = code<4>(codes, i, first / 16 * 4) | (high >> i & 1) << 4;
            out[i] = MINIMUM ? multiply_add((float)number, d, m) : __fmul_rn((float)(number - (HIGH > 0 ? 16 : 8)), d);
        }
    }
};
using Q4_0 = FourOrFiveBits<18, 0, 2, 2, false>;
using Q4_1 = FourOrFiveBits<20, 0, 4, 4, true>;
using Q5_0 = FourOrFiveBits<22, 2, 6, 2, false>;
using Q5_1 = FourOrFiveBits<24, 4, 8, 8, true>;

// Signed bytes · d; d is f16 (of blocks of 32) or f32 (of blocks of 256).
template <int BLOCK_NUMBERS, int BLOCK_BYTES, int CODES, int ALIGN> struct EightBits {
    static constexpr int NUMBERS = BLOCK_NUMBERS, BYTES = BLOCK_BYTES;

    static __device__ __forceinline__ void numbers(const uint8_t* block, int first, float (&out)[8]) {
        const uint64_t codes = eight_bytes<ALIGN>(block + CODES + first);
        const float d = NUMBERS == 256 ? *reinterpret_cast<const float*>(block) : half_at(block);
#pragma unroll
        for (int i = 0; i < 8; i++) out[i] = __fmul_rn((float)signed_byte(codes, i), d);
    }
};
using Q8_0 = EightBits<32, 34, 2, 2>;
using Q8_1 = EightBits<32, 36, 4, 4>;
using Q8_K = EightBits<256, 292, 4, 4>;

// Blocks of 256 from here on. In those of 2, 3 and 6 bits a byte holds numbers that are 32 apart, of one half of the block.

// Scales and minima of 4 bits for each 16 numbers: code · (d · scale) − m · minimum.
struct Q2_K {
    static constexpr int NUMBERS = 256, BYTES = 84, SCALES = 0, CODES = 16, D = 80, M = 82;

    static __device__ __forceinline__ void numbers(const uint8_t* block, int first, float (&out)[8]) {
        const uint64_t codes = eight_bytes<4>(block + CODES + first / 128 * 32 + first % 32);
        const uint8_t scales = block[SCALES + first / 16];
        const float d = __fmul_rn(half_at(block + D), (float)(scales & 15));
        const float m = __fmul_rn(half_at(block + M), (float)(scales >> 4));
#pragma unroll
        for (int i = 0; i < 8; i++) out[i] = multiply_add(d, (float)code<2>(codes, i, first % 128 / 32 * 2), -m);
    }
};

// Scales of 6 bits less 32 for each 16 numbers: the low four of scale i in half i / 8 of byte i % 8, the high two in byte 8 + i % 4. The third
// bit of a code is kept inverted, as 4 to be subtracted: bit i of byte j of HIGH is that of number 32 i + j.
struct Q3_K {
    static constexpr int NUMBERS = 256, BYTES = 110, HIGH = 0, CODES = 32, SCALES = 96, D = 108;

    static __device__ __forceinline__ void numbers(const uint8_t* block, int first, float (&out)[8]) {
        const uint64_t codes = eight_bytes<2>(block + CODES + first / 128 * 32 + first % 32);
        const uint64_t high = eight_bytes<2>(block + HIGH + first % 32);
        const int i = first / 16;
        const int low = block[SCALES + i % 8] >> (i / 8 * 4) & 15, top = block[SCALES + 8 + i % 4] >> (i / 4 * 2) & 3;
        const float d = __fmul_rn(half_at(block + D), (float)((low | top << 4) - 32));
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const int number = code<2>(codes, i, first % 128 / 32 * 2) - (code<1>(high, i, first / 32) ? 0 : 4);
            out[i] = __fmul_rn(d, (float)number);
        }
    }
};

// Scales and minima of 6 bits for each 32 numbers, in 12 bytes: those of the first four whole in the low bits of bytes 0–3 and 4–7, of the other
// four with their low halves in bytes 8–11 and their high two bits atop the first ones'. A byte of codes holds numbers that are 32 apart, of
// one quarter of the block; bit i of byte j of HIGH is the fifth bit of number 32 i + j. code · (d · scale) − m · minimum.
template <int BLOCK_BYTES, int HIGH, int CODES> struct FourOrFiveBitsOf256 {
    static constexpr int NUMBERS = 256, BYTES = BLOCK_BYTES, SCALES = 4;

    static __device__ __forceinline__ void numbers(const uint8_t* block, int first, float (&out)[8]) {
        const uint64_t codes = eight_bytes<8>(block + CODES + first / 64 * 32 + first % 32);
        const uint64_t high = HIGH > 0 ? eight_bytes<8>(block + HIGH + first % 32) : 0;
        const uint8_t* packed = block + SCALES;
        const int i = first / 32, j = i % 4;
        const int scale = i < 4 ? packed[j] & 63 : (packed[8 + j] & 15) | packed[j] >> 6 << 4;
        const int minimum = i < 4 ? packed[4 + j] & 63 : packed[8 + j] >> 4 | packed[4 + j] >> 6 << 4;
        const float d = __fmul_rn(half_at(block), (float)scale), m = __fmul_rn(half_at(block + 2), (float)minimum);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const int number = code<4>(codes, i, first % 64 / 32 * 4) | code<1>(high, i, first / 32) << 4;
            out[i] = multiply_add(d, (float)number, -m);
        }
    }
};
using Q4_K = FourOrFiveBitsOf256<144, 0, 16>;
using Q5_K = FourOrFiveBitsOf256<176, 16, 48>;

// Signed scales of 8 bits for each 16 numbers: (code − 32) · (d · scale), the code's low four bits in LOW, 64 numbers of a half in the low halves of
// its bytes and 64 in the high ones, its high two in HIGH.
struct Q6_K {
    static constexpr int NUMBERS = 256, BYTES = 210, LOW = 0, HIGH = 128, SCALES = 192, D = 208;

    static __device__ __forceinline__ void numbers(const uint8_t* block, int first, float (&out)[8]) {
        const uint64_t low = eight_bytes<2>(block + LOW + first / 128 * 64 + first % 64);
        const uint64_t high = eight_bytes<2>(block + HIGH + first / 128 * 32 + first % 32);
        const float d = __fmul_rn(half_at(block + D), (float)(int8_t)block[SCALES + first / 16]);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const int number = code<4>(low, i, first % 128 / 64 * 4) | code<2>(high, i, first % 128 / 32 * 2) << 4;
            out[i] = __fmul_rn(d, (float)(number - 32));
        }
    }
};

// Calls DEFINE with every block type and its name.
#define FOR_EACH_BLOCK_TYPE(DEFINE) \
    DEFINE(q4_0, Q4_0)              \
    DEFINE(q4_1, Q4_1)              \
    DEFINE(q5_0, Q5_0)              \
    DEFINE(q5_1, Q5_1)              \
    DEFINE(q8_0, Q8_0)              \
    DEFINE(q8_1, Q8_1)              \
    DEFINE(q2_k, Q2_K)              \
    DEFINE(q3_k, Q3_K)              \
    DEFINE(q4_k, Q4_K)              \
    DEFINE(q5_k, Q5_K)              \
    DEFINE(q6_k, Q6_K)              \
    DEFINE(q8_k, Q8_K)
