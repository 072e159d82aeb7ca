// Kernels that between them use what compilers make of C++: compiled for each emulated target by
// tests/programs.rs, run, and compared with the host.
#define __global__ __attribute__((global))
#define __shared__ __attribute__((shared))
#define BLOCK(n) __attribute__((amdgpu_flat_work_group_size(n, n)))
using u8 = unsigned char;
using i8 = signed char;
using u16 = unsigned short;
using u32 = unsigned;
using i64 = long;
using u64 = unsigned long;
using f16 = _Float16;
using half2 = f16 __attribute__((ext_vector_type(2)));
using float4 = float __attribute__((ext_vector_type(4)));

static __attribute__((device)) int thread() { return __builtin_amdgcn_workitem_id_x(); }
static __attribute__((device)) int thread_y() { return __builtin_amdgcn_workitem_id_y(); }
static __attribute__((device)) int block() { return __builtin_amdgcn_workgroup_id_x(); }
static __attribute__((device)) int block_y() { return __builtin_amdgcn_workgroup_id_y(); }
static __attribute__((device)) void barrier() {
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup", "local");
    __builtin_amdgcn_s_barrier();
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup", "local");
}

extern "C" {

// Divisions and roots that IEEE 754 defines to the bit.
__global__ BLOCK(256) void exact32(float *out, const float *p, const float *q, int n) {
    int i = block() * 256 + thread();
    if (i >= n) return;
    out[i] = p[i] / q[i];
    out[i + n] = __builtin_sqrtf(p[i]);
    out[i + 2 * n] = __builtin_fmaf(p[i], q[i], -p[i]);
    out[i + 3 * n] = __builtin_floorf(p[i]) + __builtin_truncf(q[i]) * __builtin_rintf(p[i]);
    out[i + 4 * n] = __builtin_fminf(p[i], q[i]) - __builtin_fmaxf(-p[i], __builtin_fabsf(q[i]));
}

__global__ BLOCK(256) void exact64(double *out, const double *p, const double *q, int n) {
    int i = block() * 256 + thread();
    if (i >= n) return;
    out[i] = p[i] / q[i];
    out[i + n] = __builtin_sqrt(p[i]);
    out[i + 2 * n] = __builtin_fma(p[i], q[i], -p[i]);
    out[i + 3 * n] = (double)(float)p[i] + (double)(int)q[i] * (p[i] < q[i] ? 3.0 : -0.5) + (double)(u32)i;
}

__global__ BLOCK(256) void exact16(f16 *out, float *wide, const f16 *p, const f16 *q, const float *f, int n) {
    int i = block() * 256 + thread();
    if (i >= n) return;
    out[i] = p[i] * q[i];
    out[i + n] = p[i] / q[i];
    out[i + 2 * n] = (f16)f[i] - q[i];
    out[i + 3 * n] = p[i] > q[i] ? -p[i] : (f16)__builtin_fabsf16(q[i]);
    wide[i] = (float)p[i] * f[i] + (float)q[i];
}

__global__ BLOCK(256) void pairs16(half2 *out, const half2 *p, const half2 *q, int n) {
    int i = block() * 256 + thread();
    if (i >= n) return;
    out[i] = p[i] * q[i];
    out[i + n] = p[i] + q[i];
    out[i + 2 * n] = half2{q[i].y, p[i].x};
}

__global__ BLOCK(256) void bfloat(__bf16 *out, const __bf16 *p, const float *f, int n) {
    int i = block() * 256 + thread();
    if (i < n) out[i] = (__bf16)((float)p[i] * f[i]);
}

// Within some ULP of the true value.
__global__ BLOCK(256) void functions(float *out, const float *p, int n) {
    int i = block() * 256 + thread();
    if (i >= n) return;
    out[i] = __builtin_expf(p[i]);
    out[i + n] = __builtin_logf(__builtin_fabsf(p[i]));
    out[i + 2 * n] = __builtin_sinf(p[i]);
    out[i + 3 * n] = __builtin_powf(__builtin_fabsf(p[i]), 0.75f);
    out[i + 4 * n] = __builtin_ldexpf(p[i], i % 40 - 20);
}

__global__ BLOCK(256) void integers(int *out, i64 *wide, const int *p, const int *q, const i64 *r, int n) {
    int i = block() * 256 + thread();
    if (i >= n) return;
    out[i] = p[i] / q[i];
    out[i + n] = p[i] % q[i];
    out[i + 2 * n] = (u32)p[i] / (u32)q[i];
    out[i + 3 * n] = p[i] >> (q[i] & 31);
    out[i + 4 * n] = __builtin_popcount(p[i]) + 100 * __builtin_clz(q[i] | 1) + 10000 * __builtin_ctz(p[i] | 65536);
    out[i + 5 * n] = __builtin_bitreverse32(p[i]) ^ __builtin_rotateleft32(q[i], 7);
    out[i + 6 * n] = (int)((u64)(u32)p[i] * (u32)q[i] >> 32);
    wide[i] = r[i] / (i64)q[i];
    wide[i + n] = r[i] * p[i] + (r[i] >> (p[i] & 63));
    wide[i + 2 * n] = (u64)r[i] % (u64)(u32)(p[i] | 1);
}

__global__ BLOCK(256) void narrow(u8 *out, u16 *mid, const i8 *p, const u16 *q, const short *s, int n) {
    int i = block() * 256 + thread();
    if (i >= n) return;
    out[i] = p[i] + q[i] * 3 + s[i];
    out[i + n] = p[i] < (i8)s[i] ? p[i] : q[i] >> 8;
    mid[i] = (u16)(p[i] * s[i]) / (u16)(q[i] | 1);
    mid[i + n] = (short)q[i] > s[i] ? q[i] << (s[i] & 15) : s[i] >> (q[i] & 15);
}

// Each lane its own way.
__global__ BLOCK(256) void diverge(int *out, const int *p, int n) {
    int i = block() * 256 + thread();
    if (i >= n) return;
    int v = p[i];
    float f = v;
    switch (v & 7) {
        case 0: v = v * 3; break;
        case 1: v = v / 7; break;
        case 2: v = (int)(f * 1.5f); break;
        case 3: while (v & 0xff) { v = v * 5 + 1; f += 1; } break;
        case 4: v = (u32)f; break;
        case 5: v ^= 0x55; break;
        case 6: v = v < 0 ? -v : v; break;
        default: v = (u64)v * 12345678901ull >> 32;
    }
    for (int k = 0; k < (p[i] & 15); k++) {
        if (k == 7) continue;
        v += k * (k & 1 ? v : 3);
        if ((v & 0xfff) == 0x7f) break;
    }
    out[i] = v;
    out[i + n] = (int)__builtin_rintf(f / 3) + (i8)v;
}

// Sums through LDS.
__global__ BLOCK(256) void reduce(float *out, const float *p, int n) {
    __shared__ float sums[256];
    float sum = 0;
    for (int i = thread(); i < n; i += 256) sum += p[(u64)block() * n + i];
    sums[thread()] = sum;
    barrier();
    for (int k = 128; k; k >>= 1) {
        if (thread() < k) sums[thread()] += sums[thread() + k];
        barrier();
    }
    if (!thread()) out[block()] = sums[0];
}

__global__ BLOCK(1024) void transpose(float *out, const float *p, int rows, int columns) {
    __shared__ float tile[32][33];
    int x = block() * 32 + thread(), y = block_y() * 32 + thread_y();
    if (x < columns && y < rows) tile[thread_y()][thread()] = p[(i64)y * columns + x];
    barrier();
    x = block_y() * 32 + thread(), y = block() * 32 + thread_y();
    if (x < rows && y < columns) out[(i64)y * rows + x] = tile[thread()][thread_y()];
}

// Counters in LDS and in memory; sums of integers in f32 are exact in any order.
__global__ BLOCK(256) void atomics(int *counts, float *sums, u64 *most, u64 *wide, const int *p, int n) {
    __shared__ int local[64];
    __shared__ float sum;
    __shared__ u64 wide_local[16];
    if (thread() < 64) local[thread()] = 0;
    if (thread() < 16) wide_local[thread()] = 0;
    if (thread() == 64) sum = 0;
    barrier();
    for (int i = block() * 256 + thread(); i < n; i += 512) {
        __atomic_fetch_add(&local[p[i] & 63], 1, __ATOMIC_RELAXED);
        __atomic_fetch_add(&sum, (float)(p[i] & 15), __ATOMIC_RELAXED);
        __atomic_fetch_max(&most[p[i] & 7], (u64)(u32)p[i] << 8, __ATOMIC_RELAXED);
        __atomic_fetch_add(&wide_local[p[i] & 15], (u64)(u32)p[i] << 20, __ATOMIC_RELAXED);
        int seen = counts[64];
        while (seen < p[i] && !__atomic_compare_exchange_n(&counts[64], &seen, p[i], false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    }
    barrier();
    if (thread() < 64) __atomic_fetch_add(&counts[thread()], local[thread()], __ATOMIC_RELAXED);
    if (thread() < 16) __atomic_fetch_add(&wide[thread()], wide_local[thread()], __ATOMIC_RELAXED);
    if (thread() == 0) __atomic_fetch_add(&sums[0], sum, __ATOMIC_RELAXED);
}

// Bitonic, of 512 keys.
__global__ BLOCK(256) void sort(u64 *keys) {
    __shared__ u64 s[512];
    keys += 512 * block();
    for (int i = thread(); i < 512; i += 256) s[i] = keys[i];
    barrier();
    for (int k = 2; k <= 512; k *= 2)
        for (int j = k / 2; j; j /= 2) {
            for (int t = thread(); t < 512; t += 256) {
                int other = t ^ j;
                if (other > t && (s[t] > s[other]) == ((t & k) == 0)) {
                    u64 x = s[t];
                    s[t] = s[other];
                    s[other] = x;
                }
            }
            barrier();
        }
    for (int i = thread(); i < 512; i += 256) keys[i] = s[i];
}

__global__ BLOCK(256) void dot_q8(float *out, const u8 *weights, const i8 *x, const float *scales, int blocks) {
    __shared__ float sums[8];
    float sum = 0;
    const u8 *row = weights + (u64)block() * blocks * 34;
    for (int i = thread(); i < blocks; i += 256) {
        const u8 *b = row + i * 34;
        int dot = 0;
        for (int k = 0; k < 8; k++) {
            int a;
            __builtin_memcpy(&a, b + 2 + 4 * k, 4);
            int c = ((const int *)x)[i * 8 + k];
            for (int z = 0; z < 4; z++) dot += (int)(i8)(a >> (8 * z)) * (int)(i8)(c >> (8 * z));
        }
        sum += (float)*(const f16 *)b * scales[i] * dot;
    }
    for (int k = 16; k; k >>= 1)
        sum += __builtin_bit_cast(float, __builtin_amdgcn_ds_bpermute((thread() ^ k) * 4, __builtin_bit_cast(int, sum)));
    if ((thread() & 31) == 0) sums[thread() / 32] = sum;
    barrier();
    if (thread()) return;
    float total = 0;
    for (int k = 0; k < 8; k++) total += sums[k];
    out[block()] = total;
}

// Attention of one head a block, with a running maximum.
__global__ BLOCK(64) void attention(float *out, const float *q, const f16 *keys, const f16 *values, int n, float scale) {
    __shared__ float p[64];
    __shared__ float4 query[32];
    int head = block();
    if (thread() < 32) query[thread()] = ((const float4 *)(q + head * 128))[thread()];
    barrier();
    float most = -__builtin_inff(), sum = 0, a = 0, b = 0;
    for (int from = 0; from < n; from += 64) {
        int t = from + thread();
        float s = -__builtin_inff();
        if (t < n) {
            s = 0;
            const f16 *k = keys + (i64)t * 128;
            for (int i = 0; i < 32; i++) {
                float4 v = query[i];
                s += v.x * (float)k[4 * i] + v.y * (float)k[4 * i + 1] + v.z * (float)k[4 * i + 2] + v.w * (float)k[4 * i + 3];
            }
            s *= scale;
        }
        p[thread()] = s;
        barrier();
        float old = most;
        for (int i = 0; i < 64; i++) most = __builtin_fmaxf(most, p[i]);
        float keep = __builtin_expf(old - most);
        sum *= keep, a *= keep, b *= keep;
        for (int i = 0; i < 64 && from + i < n; i++) {
            float e = __builtin_expf(p[i] - most);
            const f16 *v = values + (i64)(from + i) * 128;
            sum += e, a += e * (float)v[thread()], b += e * (float)v[thread() + 64];
        }
        barrier();
    }
    out[head * 128 + thread()] = a / sum;
    out[head * 128 + thread() + 64] = b / sum;
}

// The m largest of 8 values a thread, in registers.
__global__ BLOCK(256) void largest(float *out, int *index, const float *p, int m) {
    float v[8];
    for (int j = 0; j < 8; j++) v[j] = p[j * 256 + thread()];
    for (int k = 0; k < m; k++) {
        float best = -1e30f;
        int at = 0;
        for (int j = 0; j < 8; j++)
            if (v[j] > best) best = v[j], at = j;
        for (int j = 0; j < 8; j++)
            if (j == at) v[j] = -1e30f;
        out[k * 256 + thread()] = best;
        index[k * 256 + thread()] = at;
    }
}

static __attribute__((device)) const int TABLE[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

// A table in the code object.
__global__ BLOCK(256) void lookup(int *out, const int *p, int n) {
    int i = block() * 256 + thread();
    if (i < n) out[i] = TABLE[p[i] & 15] * TABLE[n & 15];
}

// What no correct kernel does.
__global__ BLOCK(256) void reads_unwritten(float *out) {
    float x;
    asm volatile("v_add_f32 %0, v77, v77" : "=v"(x));
    out[thread()] = x;
}

__global__ BLOCK(256) void runs_forever(volatile int *p) {
    while (p[0] == 0) {}
}
}
