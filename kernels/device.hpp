// All that differs between targets: AMD GPUs with lanes of 64 (gfx9) or 32 (gfx10 and later), and NVPTX.
//
// Compiled with -ffp-contract=off: a product and a sum are rounded each, as on the CPU, unless fma() is written;
// dequantized weights are then the same bits everywhere.
#pragma once

#include "types.hpp"

#if !defined(__AMDGCN__) && !defined(__NVPTX__)
#error "for AMDGCN or NVPTX"
#endif

using f16 = _Float16;
template <class T, int N>
using Vector = T __attribute__((ext_vector_type(N)));
using f32x2 = Vector<float, 2>;
using f32x4 = Vector<float, 4>;
using u32x2 = Vector<u32, 2>;
using u32x4 = Vector<u32, 4>;

// A pointer, known to be to device memory: a load through it needs no look at where the address lies.
template <class T>
static inline __attribute__((device, always_inline)) T *in_global(T *p) {
    return (T *)(__attribute__((address_space(1))) T *)p;
}

// A weight's planes, as src/device/hip/kernels.rs lists them.
struct Planes {
    const void *plane[4];

    template <class T>
    __attribute__((device)) const T *as(int i) const {
        return in_global(static_cast<const T *>(plane[i]));
    }
};

// A kernel for blocks of `threads` threads, whose registers let at least `waves` waves share an AMD SIMD. ptxas is
// told how many warps share an SM's quarter, 8 (4 or 2 of kernels with many registers): it then uses the registers that
// leaves, and issues a kernel's loads together.
#if defined(__AMDGCN__)
#define KERNEL(threads, waves)                                                                                        \
    extern "C" __attribute__((global, amdgpu_flat_work_group_size(threads, threads), amdgpu_waves_per_eu(waves)))
#else
#define KERNEL(threads, waves)                                                                                        \
    extern "C" __attribute__((                                                                                        \
        global, launch_bounds(threads, ((waves) > 2 ? 1024 : (waves) > 1 ? 512 : 256) / (threads))))
#endif
#define DEVICE static inline __attribute__((device, always_inline))
#define SHARED static __attribute__((shared))

// ---- Threads and groups ----

#if defined(__AMDGCN__)

DEVICE u32 thread_x() { return __builtin_amdgcn_workitem_id_x(); }
DEVICE u32 thread_y() { return __builtin_amdgcn_workitem_id_y(); }
DEVICE u32 group_x() { return __builtin_amdgcn_workgroup_id_x(); }
DEVICE u32 group_y() { return __builtin_amdgcn_workgroup_id_y(); }
DEVICE u32 group_z() { return __builtin_amdgcn_workgroup_id_z(); }

#if defined(__GFX9__)
constexpr u32 LANES = 64;
#else
constexpr u32 LANES = 32;
#endif

// Waits for the group's threads; what they wrote to LDS is then seen by all. Global memory is not ordered.
DEVICE void barrier() {
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup", "local");
    __builtin_amdgcn_s_barrier();
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup", "local");
}

#else

DEVICE u32 thread_x() { return __nvvm_read_ptx_sreg_tid_x(); }
DEVICE u32 thread_y() { return __nvvm_read_ptx_sreg_tid_y(); }
DEVICE u32 group_x() { return __nvvm_read_ptx_sreg_ctaid_x(); }
DEVICE u32 group_y() { return __nvvm_read_ptx_sreg_ctaid_y(); }
DEVICE u32 group_z() { return __nvvm_read_ptx_sreg_ctaid_z(); }

constexpr u32 LANES = 32;

DEVICE void barrier() { __nvvm_bar_sync(0); }

#endif

// ---- Lanes ----

template <class To, class From>
DEVICE To bits(From from) {
    return __builtin_bit_cast(To, from);
}

// A value that is the same in all lanes of the wave, known to be so.
DEVICE u32 uniform(u32 value) {
#if defined(__AMDGCN__)
    return __builtin_amdgcn_readfirstlane(value);
#else
    return value;
#endif
}

// The value of lane `own ^ MASK`. All lanes of the wave take part. MASK: a power of two below LANES.
template <u32 MASK>
DEVICE u32 lane_xor(u32 value) {
    static_assert(MASK < LANES && (MASK & (MASK - 1)) == 0);
#if defined(__NVPTX__)
    return __nvvm_shfl_sync_bfly_i32(~0u, value, MASK, 31);
#else
    // DPP controls of ISA manuals, "DPP16"; quads and rows of 16 lanes.
    constexpr int QUAD_1032 = 0xb1, QUAD_2301 = 0x4e, QUAD_3210 = 0x1b, HALF_MIRROR = 0x141, ROTATE_8 = 0x128;
    if constexpr (MASK == 1) {
        return __builtin_amdgcn_mov_dpp(value, QUAD_1032, 15, 15, true);
    } else if constexpr (MASK == 2) {
        return __builtin_amdgcn_mov_dpp(value, QUAD_2301, 15, 15, true);
    } else if constexpr (MASK == 4) { // 7 ^ 3
        const u32 mirrored = __builtin_amdgcn_mov_dpp(value, HALF_MIRROR, 15, 15, true);
        return __builtin_amdgcn_mov_dpp(mirrored, QUAD_3210, 15, 15, true);
    } else if constexpr (MASK == 8) {
        return __builtin_amdgcn_mov_dpp(value, ROTATE_8, 15, 15, true);
    } else if constexpr (MASK == 16) {
#if defined(__GFX9__)
        return __builtin_amdgcn_ds_swizzle(value, 16 << 10 | 31); // and 31, or 0, xor 16
#else
        value = __builtin_amdgcn_permlanex16(value, value, 0x76543210, 0xfedcba98, false, false);
        asm volatile("" : "+v"(value)); // clang 19 else moves it into a branch that not all lanes take
        return value;
#endif
    } else {
        const u32 lane = __builtin_amdgcn_mbcnt_hi(~0u, __builtin_amdgcn_mbcnt_lo(~0u, 0));
        return __builtin_amdgcn_ds_bpermute((lane ^ MASK) * 4, value);
    }
#endif
}

template <u32 MASK>
DEVICE float lane_xor(float value) {
    return bits<float>(lane_xor<MASK>(bits<u32>(value)));
}

template <u32 MASK>
DEVICE u64 lane_xor(u64 value) {
    return (u64)lane_xor<MASK>((u32)(value >> 32)) << 32 | lane_xor<MASK>((u32)value);
}

// Combines the values of WIDTH neighbouring lanes; all of them get the result. `op` commutes.
template <u32 WIDTH, class T, class Op>
DEVICE T lanes_reduce(T value, Op op) {
    if constexpr (WIDTH > 1) {
        value = op(value, lane_xor<WIDTH / 2>(value));
        return lanes_reduce<WIDTH / 2>(value, op);
    } else {
        return value;
    }
}

template <u32 WIDTH>
DEVICE float lanes_sum(float value) {
    return lanes_reduce<WIDTH>(value, [](float a, float b) { return a + b; });
}

// Sums each of COUNT values over WIDTH neighbouring lanes: sum i is then in lanes i * WIDTH / COUNT and the following
// of them. At each step a lane gives half of its values away, and takes the partner's of the other half.
template <u32 WIDTH, u32 COUNT>
DEVICE float lanes_sum_each(const float (&values)[COUNT]) {
    if constexpr (COUNT == 1) {
        return lanes_sum<WIDTH>(values[0]);
    } else {
        const bool upper = thread_x() & (WIDTH / 2);
        float half[COUNT / 2];
#pragma unroll
        for (u32 i = 0; i < COUNT / 2; i++) {
            const float low = values[i], high = values[i + COUNT / 2];
            half[i] = (upper ? high : low) + lane_xor<WIDTH / 2>(upper ? low : high);
        }
        return lanes_sum_each<WIDTH / 2>(half);
    }
}

// Combines the values of a group of THREADS threads (x only); all get the result. Twice in a kernel: LDS is
// free for reuse when the call returns.
template <u32 THREADS, class T, class Op>
DEVICE T group_reduce(T value, Op op) {
    constexpr u32 WAVES = THREADS / LANES;
    SHARED T parts[WAVES];
    value = lanes_reduce<LANES>(value, op);
    if (thread_x() % LANES == 0) parts[thread_x() / LANES] = value;
    barrier();
    value = parts[0];
#pragma unroll
    for (u32 wave = 1; wave < WAVES; wave++) value = op(value, parts[wave]);
    barrier();
    return value;
}

// Whether the group is the last of `n` to come here; it then sees what all of them have written. `ticket`, one for
// the n, is 0 before and after. All of the group's threads take part.
DEVICE bool last_of(u32 *ticket, u32 n) {
    SHARED u32 before;
#if defined(__NVPTX__)
    __nvvm_membar_gl();
    barrier();
    if (thread_x() == 0) before = (u32)__nvvm_atom_add_gen_i((int *)ticket, 1);
    barrier();
    __nvvm_membar_gl();
#else
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "agent");
    barrier();
    if (thread_x() == 0) before = __hip_atomic_fetch_add(ticket, 1, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
    barrier();
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "agent");
#endif
    const bool last = uniform(before) == n - 1;
    if (last && thread_x() == 0) *ticket = 0;
    return last;
}

// ---- Memory ----

// 16 bytes, aligned, that are read once: not to be kept in the near caches.
DEVICE u32x4 load_streaming(const void *p) {
#if defined(__NVPTX__)
    u32x4 v;
    const auto global = (const __attribute__((address_space(1))) void *)p;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
        : "l"(global));
    return v;
#else
    return __builtin_nontemporal_load(static_cast<const u32x4 *>(p));
#endif
}

// 16 bytes, aligned, that no thread writes while the kernel runs.
DEVICE u32x4 load_near(const void *p) {
#if defined(__NVPTX__)
    u32x4 v;
    const auto global = (const __attribute__((address_space(1))) void *)p;
    asm("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(global));
    return v;
#else
    return *static_cast<const u32x4 *>(p);
#endif
}

template <class T>
DEVICE T load(const void *p) {
    return *static_cast<const T *>(p);
}

// Whether copy_to_lds exists: 16 bytes, aligned, from memory that no thread writes while the kernel runs. What a thread
// has copied so is there after copies_to_lds_done, for other threads after a barrier behind that.
#if defined(__NVPTX__) && __CUDA_ARCH__ >= 800
constexpr bool COPIES_TO_LDS = true;

DEVICE void copy_to_lds(void *to, const void *from) {
    const auto shared = (__attribute__((address_space(3))) void *)to;
    const auto global = (const __attribute__((address_space(1))) void *)from;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((u32)(u64)shared), "l"(global) : "memory");
}
DEVICE void copies_to_lds_done() { asm volatile("cp.async.wait_all;" ::: "memory"); }
#else
constexpr bool COPIES_TO_LDS = false;

DEVICE void copy_to_lds(void *, const void *) {}
DEVICE void copies_to_lds_done() {}
#endif

// ---- Arithmetic ----

#if defined(__gfx900__) || defined(__gfx9_generic__) || defined(__gfx1010__) || defined(__gfx10_1_generic__)
#define NO_DOT4 1
#endif

// c + the four products of signed bytes.
DEVICE i32 dot4(u32 a, u32 b, i32 c) {
#if defined(__NVPTX__)
    i32 d;
    asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
#elif defined(__GFX11__) || defined(__GFX12__)
    return __builtin_amdgcn_sudot4(true, a, true, b, c, false);
#elif defined(NO_DOT4)
    asm("" : "+v"(a), "+v"(b), "+v"(c)); // or bytes that are used again would stay in registers of their own
#pragma unroll
    for (int i = 0; i < 32; i += 8) c += (i32)(i8)(a >> i) * (i32)(i8)(b >> i);
    return c;
#else
    return __builtin_amdgcn_sdot4(a, b, c, false);
#endif
}

DEVICE float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
DEVICE float round_even(float x) { return __builtin_rintf(x); }
DEVICE float max(float a, float b) { return __builtin_fmaxf(a, b); }
DEVICE u32 min(u32 a, u32 b) { return a < b ? a : b; }

DEVICE float square_root(float x) {
#if defined(__NVPTX__)
    return __nvvm_sqrt_rn_f(x);
#else
    return __builtin_sqrtf(x);
#endif
}

DEVICE float exp2(float x) {
#if defined(__NVPTX__)
    return __nvvm_ex2_approx_f(x);
#else
    return __builtin_exp2f(x);
#endif
}

// The same, but 0 where the result is denormal.
DEVICE float exp2_normal(float x) {
#if defined(__NVPTX__)
    return __nvvm_ex2_approx_f(x);
#else
    return __builtin_amdgcn_exp2f(x);
#endif
}

// e^x within a few ulp: the rounding of x * log2(e), which 2^x would magnify, is made good.
DEVICE float exp(float x) {
    constexpr float LOG2_E = 1.44269504f, LOG2_E_REST = 1.92596300e-8f, LN_2 = 0.693147181f;
    if (x < -104.0f) return 0.0f;
    if (x > 88.7228f) return __builtin_inff();
    const float y = x * LOG2_E;
    const float rest = fma(x, LOG2_E, -y) + x * LOG2_E_REST;
    const float power = exp2(y);
    return fma(power, rest * LN_2, power);
}

DEVICE float f16_value(u16 half) { return (float)bits<f16>(half); }
DEVICE float bf16_value(u16 half) { return bits<float>((u32)half << 16); }

// Two f16 in a word, the first in the low half.
DEVICE u32 f16_pair(float low, float high) {
#if defined(__NVPTX__) && __CUDA_ARCH__ >= 800
    u32 pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return bits<u32>(Vector<f16, 2>{(f16)low, (f16)high});
#endif
}

// Powers of two that bring a row of f32 to f16 and back. The largest magnitude, whose bits `most` are, comes to
// [2^14, 2^15): no value overflows, and those down to 2^-28 of it keep all bits. `down` is NaN if `most` is not finite.
struct F16Factors {
    float up, down;

    __attribute__((device)) explicit F16Factors(u32 most) {
        const u32 exponent = most >> 23, held = exponent < 15 ? 15 : exponent;
        up = bits<float>((268 - held) << 23);
        down = exponent < 255 ? bits<float>((held - 14) << 23) : __builtin_nanf("");
    }
};

// The larger of two magnitudes' bits: they order as the magnitudes do, NaN last.
DEVICE u32 magnitude(float x) { return bits<u32>(x) & 0x7fffffff; }
DEVICE u32 max(u32 a, u32 b) { return a > b ? a : b; }

// A word's four signed bytes.
DEVICE f32x4 signed_bytes(u32 word) {
    f32x4 values;
#if defined(__NVPTX__)
    // 2^23 + 128 + byte, whose bits are the byte's but for its sign's
    constexpr u32 TWO_23 = 0x4b000000;
    word ^= 0x80808080;
#pragma unroll
    for (u32 b = 0; b < 4; b++) {
        u32 value;
        asm("prmt.b32 %0, %1, %2, %3;" : "=r"(value) : "r"(word), "n"(TWO_23), "n"(0x7650 + b));
        values[b] = bits<float>(value) - 8388736.0f;
    }
#else
#pragma unroll
    for (u32 b = 0; b < 4; b++) values[b] = (float)(i8)(word >> (8 * b));
#endif
    return values;
}

// ---- Matrix tiles ----
//
// Products of 16x16 tiles by one wave: C[m][n] += sum over k of A[m][k] * B[n][k]. A and B lie in LDS, k inner, rows
// `stride` elements apart and aligned to 16 bytes.
//   C              the lane's SIZE elements: [i] is at row row(i), column col(i)
//   A, B           a lane's part of an operand, to be used several times

#if defined(__gfx908__) || defined(__gfx90a__) || defined(__gfx942__) || defined(__gfx950__) ||                        \
    defined(__gfx9_4_generic__)
#define TILE_MFMA 1
#elif defined(__GFX11__) || defined(__GFX12__)
#define TILE_WMMA 1
#elif defined(__NVPTX__)
#define TILE_MMA 1
#endif

// Where a lane's elements of C are: 256 / LANES of them.
struct TileC {
    static constexpr u32 SIZE = 256 / LANES;

#if defined(TILE_MMA)
    DEVICE u32 row(u32 i) { return thread_x() % 32 / 4 + i / 2 % 2 * 8; }
    DEVICE u32 col(u32 i) { return thread_x() % 4 * 2 + i % 2 + i / 4 * 8; }
#elif defined(__GFX11__)
    DEVICE u32 row(u32 i) { return i * 2 + thread_x() % 32 / 16; }
    DEVICE u32 col(u32) { return thread_x() % 16; }
#else
    DEVICE u32 row(u32 i) { return thread_x() % LANES / 16 * SIZE + i; }
    DEVICE u32 col(u32) { return thread_x() % 16; }
#endif
};

// A lane's operand where lane % 16 is its row, and lane / 16 chooses among runs of BYTES along k.
template <class T>
DEVICE T tile_run(const void *tile, u32 stride_bytes) {
    const u32 lane = thread_x() % LANES;
    return load<T>(static_cast<const u8 *>(tile) + lane % 16 * stride_bytes + lane / 16 * sizeof(T));
}

struct TileF16 : TileC {
    using C = Vector<float, SIZE>;

#if defined(TILE_WMMA) && defined(__GFX11__)
    using A = Vector<f16, 16>; // both halves of the wave hold the same
    using B = A;

    DEVICE A load_a(const f16 *tile, u32 stride) {
        const f16 *row = tile + thread_x() % 16 * stride;
        const auto low = load<Vector<f16, 8>>(row), high = load<Vector<f16, 8>>(row + 8);
        return __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    }
    DEVICE B load_b(const f16 *tile, u32 stride) { return load_a(tile, stride); }
    DEVICE C multiply(A a, B b, C c) { return __builtin_amdgcn_wmma_f32_16x16x16_f16_w32(a, b, c); }
#elif defined(TILE_WMMA)
    using A = Vector<f16, 8>;
    using B = A;

    DEVICE A load_a(const f16 *tile, u32 stride) { return tile_run<A>(tile, stride * 2); }
    DEVICE B load_b(const f16 *tile, u32 stride) { return tile_run<B>(tile, stride * 2); }
    DEVICE C multiply(A a, B b, C c) { return __builtin_amdgcn_wmma_f32_16x16x16_f16_w32_gfx12(a, b, c); }
#elif defined(TILE_MFMA)
    using A = Vector<f16, 4>;
    using B = A;

    DEVICE A load_a(const f16 *tile, u32 stride) { return tile_run<A>(tile, stride * 2); }
    DEVICE B load_b(const f16 *tile, u32 stride) { return tile_run<B>(tile, stride * 2); }
    DEVICE C multiply(A a, B b, C c) { return __builtin_amdgcn_mfma_f32_16x16x16f16(a, b, c, 0, 0, 0); }
#elif defined(TILE_MMA)
    using A = u32x4; // (row, k): (g, 2j), (g + 8, 2j), (g, 2j + 8), (g + 8, 2j + 8) with g = lane / 4, j = lane % 4
    using B = u32x4; // (n, k): (g, 2j), (g, 2j + 8), (g + 8, 2j), (g + 8, 2j + 8)

    // Four matrices of 8x8; lane i names the row i % 8 of matrix i / 8.
    DEVICE u32x4 matrices(const f16 *row) {
        const auto shared = (const __attribute__((address_space(3))) f16 *)row;
        u32x4 v;
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                     : "r"((u32)(u64)shared)
                     : "memory");
        return v;
    }
    DEVICE A load_a(const f16 *tile, u32 stride) {
        return matrices(tile + thread_x() % 16 * stride + thread_x() % 32 / 16 * 8);
    }
    DEVICE B load_b(const f16 *tile, u32 stride) {
        return matrices(tile + (thread_x() % 8 + thread_x() % 32 / 16 * 8) * stride + thread_x() / 8 % 2 * 8);
    }

    DEVICE C multiply(A a, B b, C c) {
#pragma unroll
        for (int n = 0; n < 2; n++) {
            float c0 = c[4 * n], c1 = c[4 * n + 1], c2 = c[4 * n + 2], c3 = c[4 * n + 3];
#if __CUDA_ARCH__ >= 800
            asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                "{%0, %1, %2, %3};"
                : "+f"(c0), "+f"(c1), "+f"(c2), "+f"(c3)
                : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b[2 * n]), "r"(b[2 * n + 1]));
#else
#pragma unroll
            for (int k = 0; k < 2; k++)
                asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
                    "{%0, %1, %2, %3};"
                    : "+f"(c0), "+f"(c1), "+f"(c2), "+f"(c3)
                    : "r"(a[2 * k]), "r"(a[2 * k + 1]), "r"(b[2 * n + k]));
#endif
            c[4 * n] = c0, c[4 * n + 1] = c1, c[4 * n + 2] = c2, c[4 * n + 3] = c3;
        }
        return c;
    }
#else
    struct A {
        const f16 *tile;
        u32 stride;
    };
    using B = A;

    DEVICE A load_a(const f16 *tile, u32 stride) { return {tile, stride}; }
    DEVICE B load_b(const f16 *tile, u32 stride) { return {tile, stride}; }
    DEVICE C multiply(A a, B b, C c) {
#pragma unroll 1
        for (u32 half = 0; half < 16; half += 8) {
            const auto y = load<Vector<f16, 8>>(b.tile + col(0) * b.stride + half);
#pragma unroll
            for (u32 i = 0; i < SIZE; i++) {
                const auto x = load<Vector<f16, 8>>(a.tile + row(i) * a.stride + half);
#pragma unroll
                for (int k = 0; k < 8; k++) c[i] = fma((float)x[k], (float)y[k], c[i]);
            }
        }
        return c;
    }
#endif
};

// Two products in a row, as attention has them: scores of keys and queries, then sums of values weighted by what
// became of the scores, which stay in registers where the target's layouts allow. Tiles are 16 keys, queries, or
// elements of a value, as rows in LDS: values are there transposed, keys inner.
//   Scores          element i is of key key(i) and query query(i) of the tile
//   Sums            element i is of a value's element element(i) and query query(i)
//   QUERIES         how many queries a lane's elements are of; slot(i) counts them
struct TileChain : TileF16 {
    using Scores = C;
    using Sums = C;

#if defined(TILE_MMA)
    // A is of the queries in both products: C of the first is laid out as A of the second.
    using Queries = A;
    using Weights = A;
    static constexpr u32 QUERIES = 2, SCRATCH = 0;

    DEVICE u32 key(u32 i) { return col(i); }
    DEVICE u32 element(u32 i) { return col(i); }
    DEVICE u32 query(u32 i) { return row(i); }
    static constexpr u32 slot(u32 i) { return i / 2 % 2; }

    DEVICE Queries load_queries(const f16 *tile, u32 stride) { return load_a(tile, stride); }
    DEVICE B load_other(const f16 *tile, u32 stride) { return load_b(tile, stride); }
    DEVICE C multiply_other(B keys, Queries queries, C c) { return multiply(queries, keys, c); }

    DEVICE Weights weights(Scores p, f16 *, u32) {
        return {f16_pair(p[0], p[1]), f16_pair(p[2], p[3]), f16_pair(p[4], p[5]), f16_pair(p[6], p[7])};
    }

    // Of the lanes that share queries.
    template <class Op>
    DEVICE float over_keys(float value, Op op) {
        return lanes_reduce<4>(value, op);
    }
#else
    // B is of the queries in both products.
    using Queries = B;
    using Weights = B;
    static constexpr u32 QUERIES = 1;

    DEVICE u32 key(u32 i) { return row(i); }
    DEVICE u32 element(u32 i) { return row(i); }
    DEVICE u32 query(u32 i) { return col(i); }
    static constexpr u32 slot(u32) { return 0; }

    DEVICE Queries load_queries(const f16 *tile, u32 stride) { return load_b(tile, stride); }
    DEVICE A load_other(const f16 *tile, u32 stride) { return load_a(tile, stride); }
    DEVICE C multiply_other(A keys, Queries queries, C c) { return multiply(keys, queries, c); }

#if defined(TILE_WMMA) && defined(__GFX11__)
    static constexpr u32 SCRATCH = 0;

    // A lane has every other key, its partner in the other half of the wave the rest; both need all.
    DEVICE Weights weights(Scores p, f16 *, u32) {
        const bool odd = thread_x() & 16;
        Vector<u32, 8> all;
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const u32 own = f16_pair(p[2 * i], p[2 * i + 1]), other = lane_xor<16>(own);
            const u32 even_keys = odd ? other : own, odd_keys = odd ? own : other;
            all[2 * i] = (even_keys & 0xffff) | odd_keys << 16;
            all[2 * i + 1] = even_keys >> 16 | (odd_keys & 0xffff0000);
        }
        return bits<Weights>(all);
    }
#elif defined(TILE_WMMA) || defined(TILE_MFMA)
    static constexpr u32 SCRATCH = 0;

    DEVICE Weights weights(Scores p, f16 *, u32) {
        Vector<u32, SIZE / 2> pairs;
#pragma unroll
        for (u32 i = 0; i < SIZE; i += 2) pairs[i / 2] = f16_pair(p[i], p[i + 1]);
        return bits<Weights>(pairs);
    }
#else
    // f16 in LDS that a tile's weights take, of a row
    static constexpr u32 SCRATCH = 16;

    DEVICE Weights weights(Scores p, f16 *tile, u32 stride) {
        Vector<u32, SIZE / 2> pairs;
#pragma unroll
        for (u32 i = 0; i < SIZE; i += 2) pairs[i / 2] = f16_pair(p[i], p[i + 1]);
        *(Vector<u32, SIZE / 2> *)(tile + query(0) * stride + key(0)) = pairs;
        return {tile, stride};
    }
#endif

    template <class Op>
    DEVICE float over_keys(float value, Op op) {
        value = op(value, lane_xor<16>(value));
        if constexpr (LANES == 64) value = op(value, lane_xor<LANES / 2>(value));
        return value;
    }
#endif
};
