// Instructions of compute capability 9.0 alone: barriers of a cluster, copies of tiles, products of warpgroups (PTX ISA, `mbarrier`,
// `cp.async.bulk.tensor`, `wgmma`).
#pragma once
#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

namespace hopper {

__device__ __forceinline__ uint32_t shared_address(const void* pointer) { return (uint32_t)__cvta_generic_to_shared(pointer); }

__device__ __forceinline__ void init_barrier(uint64_t* barrier, uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

// Makes barriers known to the blocks of a cluster and to copies.
__device__ __forceinline__ void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

// Arrives, and says how many bytes copies will bring.
__device__ __forceinline__ void expect_bytes(uint64_t* barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
}

__device__ __forceinline__ void wait(uint64_t* barrier, uint32_t parity) {
    asm volatile("{\n.reg .pred done;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@done bra ready;\nbra again;\nready:\n}" ::"r"(shared_address(barrier)),
                 "r"(parity)
                 : "memory");
}

// Arrives at the barrier of a block of the cluster. Orders no memory of other blocks, which costs a fence: nothing but reads of the tensor
// cores, which are waited for, comes before it.
__device__ __forceinline__ void arrive_at(uint64_t* barrier, uint32_t block) {
    asm volatile("{\n.reg .b32 remote;\nmapa.shared::cluster.u32 remote, %0, %1;\nmbarrier.arrive.shared::cluster.b64 _, [remote];\n}" ::"r"(
                     shared_address(barrier)),
                 "r"(block)
                 : "memory");
}

__device__ __forceinline__ uint32_t cluster_rank() {
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

__device__ __forceinline__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Copies a tile of a matrix, whose first number is (outer, inner); what lies outside becomes zero. The barrier counts its bytes.
__device__ __forceinline__ void load_tile(const CUtensorMap& map, void* to, uint64_t* barrier, int inner, int outer) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(shared_address(to)),
                 "l"(&map), "r"(shared_address(barrier)), "r"(inner), "r"(outer)
                 : "memory");
}

// As load_tile, to the same place in every block of `mask`; the barrier at the same place in each counts the bytes.
__device__ __forceinline__ void load_tile_for(const CUtensorMap& map, void* to, uint64_t* barrier, int inner, int outer, uint16_t mask) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%3, %4}], [%2], "
                 "%5;" ::"r"(shared_address(to)),
                 "l"(&map), "r"(shared_address(barrier)), "r"(inner), "r"(outer), "h"(mask)
                 : "memory");
}

// Copies a tile to a matrix; what lies outside is left out.
__device__ __forceinline__ void store_tile(const CUtensorMap& map, const void* from, int inner, int outer) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];\ncp.async.bulk.commit_group;" ::"l"(&map),
                 "r"(shared_address(from)), "r"(inner), "r"(outer)
                 : "memory");
}

// Waits until all but the last `LEFT` stores of this thread have read their tiles.
template <int LEFT> __device__ __forceinline__ void wait_stores_read() { asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(LEFT) : "memory"); }

__device__ __forceinline__ void wait_stores() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// What ordinary stores have put into shared memory becomes visible to copies.
__device__ __forceinline__ void publish_stores() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Four 8 × 8 matrices; the rows' places are given by eight lanes each.
__device__ __forceinline__ void store_matrices(uint32_t address, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}

// Four 8 × 8 matrices, as store_matrices.
__device__ __forceinline__ void load_matrices(uint32_t address, uint32_t& a, uint32_t& b, uint32_t& c, uint32_t& d) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(a), "=r"(b), "=r"(c), "=r"(d) : "r"(address) : "memory");
}

// A tile in shared memory in rows of 128 bytes with 128-byte swizzle. `leading` and `stride`: bytes from one repetition of the pattern to the next.
__device__ __forceinline__ uint64_t tile_descriptor(const void* pointer, uint32_t leading, uint32_t stride) {
    constexpr uint64_t SWIZZLE_128 = 1ull << 62;
    const uint64_t address = (shared_address(pointer) & 0x3FFFF) >> 4;
    return address | ((uint64_t)(leading >> 4) << 16) | ((uint64_t)(stride >> 4) << 32) | SWIZZLE_128;
}

__device__ __forceinline__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LEFT> __device__ __forceinline__ void wait_products() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory"); }

#define HOPPER_ROW(j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
#define HOPPER_ROWS(j) HOPPER_ROW(j), HOPPER_ROW(j + 1), HOPPER_ROW(j + 2), HOPPER_ROW(j + 3)
#define HOPPER_PRODUCT(TYPE, B_TURNED)                                                                                                        \
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %130, 0;\nwgmma.mma_async.sync.aligned.m64n256k16.f32." TYPE "." TYPE " "              \
                 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"    \
                 "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,"   \
                 "%62,%63,%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,"   \
                 "%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,"      \
                 "%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127}, %128, %129, add, 1, 1, 0, %131;\n}"                                \
                 : HOPPER_ROWS(0), HOPPER_ROWS(4), HOPPER_ROWS(8), HOPPER_ROWS(12), HOPPER_ROWS(16), HOPPER_ROWS(20), HOPPER_ROWS(24),        \
                   HOPPER_ROWS(28)                                                                                                            \
                 : "l"(a), "l"(b), "r"((int)add), "n"(B_TURNED))

// d [64, 256] = a [64, 16] · b [16, 256], added to d where `add`. d[j]: what a thread holds of columns 8 j to 8 j + 8: of row lane / 4 of its
// warp's sixteen the columns lane % 4 · 2 and the next, then the same of the row eight below. B_TURNED: b's columns are neighbours, not its rows.
template <typename T, bool B_TURNED> __device__ __forceinline__ void product(float (&d)[32][4], uint64_t a, uint64_t b, bool add) {
    if constexpr (sizeof(T) == sizeof(__nv_bfloat16) && !__is_same(T, __half)) {
        HOPPER_PRODUCT("bf16", B_TURNED);
    } else {
        HOPPER_PRODUCT("f16", B_TURNED);
    }
}

}  // namespace hopper
