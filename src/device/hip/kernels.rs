//! Every kernel of kernels/: name, arguments, threads of a block, stated occupancy. Host and device agree by
//! this table; tests hold each target's code object to it.

use std::marker::PhantomData;

use crate::gguf::TensorType;

/// Address in device memory; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Ptr(pub u64);

/// A weight's planes: each field of the GGUF block in a plane of its own, `[row][block][field bytes]`, 256-byte
/// aligned, the widest field first. Unused entries are none. Fields are as in the file but for
/// - Q4_K qs, Q5_K qs, Q6_K ql: byte i of each 16 has the low 4 bits of elements i and i + 16 of 32, as in Q4_0;
/// - Q2_K qs, Q3_K qs, Q6_K qh: byte i of each 8 has 2 bits of elements i, i + 8, i + 16, i + 24 of 32;
/// - Q5_0, Q5_1, Q5_K qh, Q3_K hmask: bit 8 * b + k of each 32-bit word is that of element 4 * k + b of 32.
///
/// | type | planes: bytes of a block |
/// |---|---|
/// | F32, F16, BF16 | values |
/// | Q8_0 | qs 32, d 2 |
/// | Q4_0 | qs 16, d 2 |
/// | Q4_1 | qs 16, dm 4 |
/// | Q5_0 | qs 16, qh 4, d 2 |
/// | Q5_1 | qs 16, qh 4, dm 4 |
/// | Q2_K | qs 64, scales 16, dm 4 |
/// | Q3_K | qs 64, hmask 32, scales 12, d 2 |
/// | Q4_K | qs 128, dm + scales 16 |
/// | Q5_K | qs 128, qh 32, dm + scales 16 |
/// | Q6_K | ql 128, qh 64, scales 16, d 2 |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Planes(pub [Ptr; 4]);

/// A matrix that shares its input with others of its type: `dst` (f32) gets its products, `bias` f32 or none. Groups
/// from `first_group` on make it, up to the next one's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Part {
    pub w: Planes,
    pub bias: Ptr,
    pub dst: Ptr,
    pub rows: u32,
    pub first_group: u32,
}

/// One to three of them; one that is none starts where the next one does, or beyond the grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Parts(pub [Part; 3]);

impl Parts {
    pub const NONE: Part =
        Part { w: Planes([Ptr(0); 4]), bias: Ptr(0), dst: Ptr(0), rows: 0, first_group: u32::MAX };
}

/// What happens to q, k and v of one token: `turns` (cos, sin) f32 pairs, `[position][n_rot / 2]`; `table`: u32, a row of
/// `table_stride` blocks a sequence; positions, sequences: u32; k and v a layer's cache, f16 `[block][kv head][64 positions][head_pad]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Append {
    pub turns: Ptr,
    pub positions: Ptr,
    pub sequences: Ptr,
    pub table: Ptr,
    pub k: Ptr,
    pub v: Ptr,
    pub head_dim: u32,
    pub head_pad: u32,
    pub n_head_kv: u32,
    pub n_rot: u32,
    /// Pairs are (i, i + n_rot / 2) rather than (2i, 2i + 1).
    pub halves: u32,
    pub table_stride: u32,
}

/// A gate, what it lets through, and where the result goes, f32. Biases f32 or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Gated {
    pub gate: Planes,
    pub up: Planes,
    pub gate_bias: Ptr,
    pub up_bias: Ptr,
    pub dst: Ptr,
    pub rows: u32,
    /// Gelu, not silu.
    pub gelu: u32,
}

/// Queries, keys and values of a step's tokens, f32 `[token][head][head_dim]`, and where they go: q in place, k and v to a
/// layer's cache, f16 `[block][kv head][64 positions][head_pad]`. Norms: f32 `[head_dim]` or none. `table`: u32, a row of
/// `table_stride` blocks a sequence; positions, sequences: u32 a token; turns as in [`Append`].
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct Heads {
    pub q: Ptr,
    pub k: Ptr,
    pub v: Ptr,
    pub q_norm: Ptr,
    pub k_norm: Ptr,
    pub turns: Ptr,
    pub positions: Ptr,
    pub sequences: Ptr,
    pub table: Ptr,
    pub k_cache: Ptr,
    pub v_cache: Ptr,
    pub n_head: u32,
    pub n_head_kv: u32,
    pub head_dim: u32,
    pub head_pad: u32,
    pub n_rot: u32,
    pub halves: u32,
    pub table_stride: u32,
    pub eps: f32,
}

/// Attention of few tokens; q, caches and tables as in [`Heads`]. `parts`: f32 `[token][head][splits][D + 2]`; `tickets`:
/// u32 `[token][y of the grid]`, zero before and after. The result goes to `out` (f32), to `oq` and `ods` as quantize_q8
/// leaves them, or to both.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct Attend {
    pub q: Ptr,
    pub k: Ptr,
    pub v: Ptr,
    pub positions: Ptr,
    pub sequences: Ptr,
    pub table: Ptr,
    pub parts: Ptr,
    pub tickets: Ptr,
    pub out: Ptr,
    pub oq: Ptr,
    pub ods: Ptr,
    pub n_head: u32,
    pub n_head_kv: u32,
    pub head_dim: u32,
    pub table_stride: u32,
    /// Positions are split over this many groups at most.
    pub splits: u32,
    pub scale: f32,
}

/// How an argument lies in the kernel's argument block; alignment is natural (Planes: 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgKind {
    /// A pointer to device memory, 8 bytes.
    Pointer,
    /// Plain bytes of this size.
    Value(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arg {
    pub name: &'static str,
    pub offset: usize,
    pub kind: ArgKind,
}

/// What host and device agree on for one kernel.
#[derive(Clone, Copy, Debug)]
pub struct Signature {
    pub name: &'static str,
    pub args: &'static [Arg],
    /// Threads of a block, x y z: fixed when the kernel is compiled.
    pub block: [u32; 3],
    /// Waves that fit a SIMD at once, at least, by the kernel's registers, on every AMD target.
    pub waves: u32,
}

/// A kernel and the type of its arguments.
pub struct Kernel<A> {
    id: usize,
    args: PhantomData<fn(A)>,
}

impl<A> Clone for Kernel<A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for Kernel<A> {}

impl<A> Kernel<A> {
    /// Index into [`SIGNATURES`].
    pub const fn id(self) -> usize {
        self.id
    }

    pub const fn signature(self) -> &'static Signature {
        &SIGNATURES[self.id]
    }
}

/// A type of which an argument can be.
trait Argument {
    const KIND: ArgKind;
}

impl Argument for Ptr {
    const KIND: ArgKind = ArgKind::Pointer;
}

macro_rules! values {
    ($($ty:ty),*) => { $(impl Argument for $ty {
        const KIND: ArgKind = ArgKind::Value(size_of::<$ty>());
    })* };
}
values!(u32, u64, f32, Planes, Parts, Append, Gated, Heads, Attend);

/// Arguments of a kernel: `repr(C)`, so that fields lie as in the kernel's argument block.
///
/// # Safety
/// `ARGS` states each field's offset and size truly, and every bit pattern of a field may be copied.
pub unsafe trait Args: Copy {
    const ARGS: &'static [Arg];
}

macro_rules! kernels {
    ($($(#[$doc:meta])* $args:ident ( $($field:ident: $ty:ty),* ) $block:tt
        $(waves $waves:literal { $($constant:ident = $name:literal),* $(,)? }),+)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug)]
            #[repr(C)]
            pub struct $args {
                $(pub $field: $ty,)*
            }

            // SAFETY: repr(C), offsets by offset_of, plain integers and floats.
            unsafe impl Args for $args {
                const ARGS: &'static [Arg] = &[$(Arg {
                    name: stringify!($field),
                    offset: std::mem::offset_of!($args, $field),
                    kind: <$ty as Argument>::KIND,
                }),*];
            }

            $($(pub const $constant: Kernel<$args> =
                Kernel { id: Id::$constant as usize, args: PhantomData };)*)+
        )*

        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        enum Id {
            $($($($constant,)*)+)*
        }

        /// All kernels, in the order of their ids.
        pub const SIGNATURES: &[Signature] = &[$($($(Signature {
            name: $name,
            args: $args::ARGS,
            block: $block,
            waves: $waves,
        },)*)+)*];
    };
}

// Buffers are row-major. `rows`, `cols` are the weight's: cols inputs, rows outputs; `n` counts tokens.
kernels! {
    /// dst (cols x rows) = transpose of src (rows x cols). Grid: x over cols / 32; y and z over rows / 32, at most
    /// 32768 on y ([`transpose_grid`]).
    TransposeArgs(src: Ptr, dst: Ptr, rows: u32, cols: u32) [32, 32, 1] waves 8 {
        TRANSPOSE_F32 = "transpose_f32",
    }

    /// `dst[i] = src[i]` in another type, i < n. Grid: x over n / 2048. `copy_u8` copies n bytes: x over n / 16384.
    ConvertArgs(src: Ptr, dst: Ptr, n: u64) [256, 1, 1] waves 8 {
        COPY_U8 = "copy_u8",
        CONVERT_F32_F16 = "convert_f32_f16",
        CONVERT_F32_BF16 = "convert_f32_bf16",
        CONVERT_F16_F32 = "convert_f16_f32",
        CONVERT_BF16_F32 = "convert_bf16_f32",
    }

    /// Reads n bytes (a multiple of 16) and leaves the xor of their 32-bit words, one per block, in dst:
    /// measures read bandwidth. Grid: x over n / 32768.
    ReadArgs(src: Ptr, dst: Ptr, n: u64) [256, 1, 1] waves 6 {
        READ_BYTES = "read_bytes",
    }

    /// GGUF blocks, as in the file, to planes. src: aligned to 4 bytes. Grid: x over n_blocks / 256.
    SplitArgs(src: Ptr, planes: Planes, n_blocks: u64) [256, 1, 1] waves 8 {
        SPLIT_Q4_0 = "split_q4_0",
        SPLIT_Q4_1 = "split_q4_1",
        SPLIT_Q5_0 = "split_q5_0",
        SPLIT_Q5_1 = "split_q5_1",
        SPLIT_Q8_0 = "split_q8_0",
        SPLIT_Q2_K = "split_q2_k",
        SPLIT_Q3_K = "split_q3_k",
        SPLIT_Q4_K = "split_q4_k",
        SPLIT_Q5_K = "split_q5_k",
        SPLIT_Q6_K = "split_q6_k",
    }

    /// `dst[t]` = row `tokens[t]` (u32) of w as f32, cols wide. A token >= rows gives NaN. Grid: x over tokens, y over
    /// cols / 256.
    EmbedArgs(w: Planes, tokens: Ptr, dst: Ptr, rows: u32, cols: u32) [256, 1, 1] waves 8 {
        EMBED_F32 = "embed_f32",
        EMBED_F16 = "embed_f16",
        EMBED_BF16 = "embed_bf16",
        EMBED_Q4_0 = "embed_q4_0",
        EMBED_Q4_1 = "embed_q4_1",
        EMBED_Q5_0 = "embed_q5_0",
        EMBED_Q5_1 = "embed_q5_1",
        EMBED_Q8_0 = "embed_q8_0",
        EMBED_Q2_K = "embed_q2_k",
        EMBED_Q3_K = "embed_q3_k",
        EMBED_Q4_K = "embed_q4_k",
        EMBED_Q5_K = "embed_q5_k",
        EMBED_Q6_K = "embed_q6_k",
    }

    /// `dst[r] = x[r] / sqrt(mean(x[r]^2) + eps) * weight`, for rows of `width`. In place allowed. Grid: x over rows.
    RmsNormArgs(x: Ptr, weight: Ptr, dst: Ptr, width: u32, eps: f32) [256, 1, 1] waves 6 {
        RMS_NORM_F32 = "rms_norm_f32",
    }

    /// The same norm of row `rows[r]` (u32; r where none) of x, to dst (f32), to q and ds as quantize_q8 leaves them, or to
    /// both; width: a multiple of 32. Grid: x over rows.
    NormQ8Args(x: Ptr, rows: Ptr, weight: Ptr, dst: Ptr, q: Ptr, ds: Ptr, width: u32, eps: f32) [1024, 1, 1] waves 4 {
        RMS_NORM_Q8 = "rms_norm_q8",
    }

    /// The same, best for rows of 1,024 columns and less.
    NarrowNormQ8Args(x: Ptr, rows: Ptr, weight: Ptr, dst: Ptr, q: Ptr, ds: Ptr, width: u32, eps: f32) [256, 1, 1] waves 8 {
        RMS_NORM_Q8_NARROW = "rms_norm_q8_narrow",
    }

    /// `dst[i] = a[i] + b[i % period]`, i < n. In place allowed. Grid: x over n / 1024.
    AddArgs(a: Ptr, b: Ptr, dst: Ptr, n: u64, period: u64) [256, 1, 1] waves 8 {
        ADD_F32 = "add_f32",
    }

    /// `dst[i] = activation(gate[i]) * up[i]`, i < n. In place allowed. Grid: x over n / 1024.
    GluArgs(gate: Ptr, up: Ptr, dst: Ptr, n: u64) [256, 1, 1] waves 8 {
        GLU_SILU_F32 = "glu_silu_f32",
        GLU_GELU_F32 = "glu_gelu_f32",
    }

    /// Rotates the first n_rot elements of each head of x (tokens x n_heads x head_dim) in place; positions: u32 per
    /// token; table: (cos, sin) f32 pairs, `[position][n_rot / 2]`. Grid: x over tokens, y over heads.
    RopeArgs(x: Ptr, positions: Ptr, table: Ptr, n_heads: u32, head_dim: u32, n_rot: u32) [64, 1, 1] waves 8 {
        ROPE_CONSECUTIVE_F32 = "rope_consecutive_f32",
        ROPE_HALVES_F32 = "rope_halves_f32",
    }

    /// `dst[r] = softmax(scale * x[r])`, for rows of `width`. In place allowed. Grid: x over rows.
    SoftmaxArgs(x: Ptr, dst: Ptr, width: u32, scale: f32) [256, 1, 1] waves 8 {
        SOFTMAX_F32 = "softmax_f32",
    }

    /// `dst[r]` (u32) = index of the largest of `x[r]`, for rows of `width`: the first of equals, never a NaN; 0 if all
    /// are NaN. Grid: x over rows.
    ArgMaxArgs(x: Ptr, dst: Ptr, width: u32) [1024, 1, 1] waves 8 {
        ARG_MAX_F32 = "arg_max_f32",
    }

    /// First of a draw from n logits (src/device/sampling.rs), for sample_total and sample_pick: `found`, 16 bytes for
    /// each 2048 logits; `segments`, a u32 for each 32 of whole 2048; where params has penalties also `changed`, n
    /// logits. Grid: x over n / 2048.
    SampleScanArgs(logits: Ptr, params: Ptr, changed: Ptr, found: Ptr, segments: Ptr, n: u32) [256, 1, 1] waves 4 {
        SAMPLE_SCAN = "sample_scan",
    }

    /// `totals`: sums of weights, a u64 for each 2048 logits. Grid: x over n / 2048.
    SampleTotalArgs(logits: Ptr, params: Ptr, changed: Ptr, found: Ptr, totals: Ptr, n: u32) [256, 1, 1] waves 4 {
        SAMPLE_TOTAL = "sample_total",
    }

    /// `outcome`: the token, an error, or that it is undecided; then `search` and `histogram` are ready for
    /// sample_count. `totals` are read where the draw is from all logits. Grid: 1.
    SamplePickArgs(
        logits: Ptr, params: Ptr, changed: Ptr, found: Ptr, segments: Ptr, totals: Ptr, search: Ptr, histogram: Ptr,
        outcome: Ptr, n: u32
    ) [1024, 1, 1] waves 4 {
        SAMPLE_PICK = "sample_pick",
    }

    /// Adds to `histogram` (2048 u64) for digit 0 to 4 of the search for: 0 the end of top-k, 1 that of top-p, 2 the
    /// token. Grid: x over n / 2048.
    SampleCountArgs(
        logits: Ptr, params: Ptr, changed: Ptr, search: Ptr, histogram: Ptr, n: u32, what: u32, digit: u32
    ) [256, 1, 1] waves 4 {
        SAMPLE_COUNT = "sample_count",
    }

    /// Finds the digit in what sample_count left, and zeroes it; the last digit of 2 is the `outcome`. Grid: 1.
    SampleDescendArgs(params: Ptr, search: Ptr, histogram: Ptr, outcome: Ptr, what: u32, digit: u32)
        [1024, 1, 1] waves 4 {
        SAMPLE_DESCEND = "sample_descend",
    }

    /// Rounds x (f32, n_blocks of 32) to 8 bits: q i8; ds (d, d * sum of q) f32 a block, d = largest magnitude / 127.
    /// To nearest, ties to even; a block with a value that is not finite gets d NaN and q 0; one whose largest
    /// magnitude is below 1e-35 gets zeros. Grid: x over n_blocks / 32.
    QuantizeArgs(x: Ptr, q: Ptr, ds: Ptr, n_blocks: u64) [256, 1, 1] waves 8 {
        QUANTIZE_Q8 = "quantize_q8",
    }

    /// Of each part `dst[t][r] = dot(w[r], x[t]) + bias[r]`, added to what is there if `add`, for n <= N tokens; x as
    /// quantize_q8 leaves it, or f32 in `q` for a float weight. Grid: x over the parts' rows / `rows` of
    /// [`matvec_shape`]; `sharing` of the same.
    MatVecArgs(parts: Parts, q: Ptr, ds: Ptr, cols: u32, n: u32, sharing: u32, add: u32) [128, 1, 1] waves 2 {
        MATVEC_F32_N1 = "matvec_f32_n1",
        MATVEC_F32_N2 = "matvec_f32_n2",
        MATVEC_F32_N4 = "matvec_f32_n4",
        MATVEC_F32_N8 = "matvec_f32_n8",
        MATVEC_F16_N1 = "matvec_f16_n1",
        MATVEC_F16_N2 = "matvec_f16_n2",
        MATVEC_F16_N4 = "matvec_f16_n4",
        MATVEC_F16_N8 = "matvec_f16_n8",
        MATVEC_BF16_N1 = "matvec_bf16_n1",
        MATVEC_BF16_N2 = "matvec_bf16_n2",
        MATVEC_BF16_N4 = "matvec_bf16_n4",
        MATVEC_BF16_N8 = "matvec_bf16_n8",
        MATVEC_Q4_0_N1 = "matvec_q4_0_n1",
        MATVEC_Q4_0_N2 = "matvec_q4_0_n2",
        MATVEC_Q4_0_N4 = "matvec_q4_0_n4",
        MATVEC_Q4_0_N8 = "matvec_q4_0_n8",
        MATVEC_Q4_1_N1 = "matvec_q4_1_n1",
        MATVEC_Q4_1_N2 = "matvec_q4_1_n2",
        MATVEC_Q4_1_N4 = "matvec_q4_1_n4",
        MATVEC_Q4_1_N8 = "matvec_q4_1_n8",
        MATVEC_Q5_0_N1 = "matvec_q5_0_n1",
        MATVEC_Q5_0_N2 = "matvec_q5_0_n2",
        MATVEC_Q5_0_N4 = "matvec_q5_0_n4",
        MATVEC_Q5_0_N8 = "matvec_q5_0_n8",
        MATVEC_Q5_1_N1 = "matvec_q5_1_n1",
        MATVEC_Q5_1_N2 = "matvec_q5_1_n2",
        MATVEC_Q5_1_N4 = "matvec_q5_1_n4",
        MATVEC_Q5_1_N8 = "matvec_q5_1_n8",
        MATVEC_Q8_0_N1 = "matvec_q8_0_n1",
        MATVEC_Q8_0_N2 = "matvec_q8_0_n2",
        MATVEC_Q8_0_N4 = "matvec_q8_0_n4",
        MATVEC_Q8_0_N8 = "matvec_q8_0_n8",
        MATVEC_Q2_K_N1 = "matvec_q2_k_n1",
        MATVEC_Q2_K_N2 = "matvec_q2_k_n2",
        MATVEC_Q2_K_N4 = "matvec_q2_k_n4",
        MATVEC_Q2_K_N8 = "matvec_q2_k_n8",
        MATVEC_Q3_K_N1 = "matvec_q3_k_n1",
        MATVEC_Q3_K_N2 = "matvec_q3_k_n2",
        MATVEC_Q3_K_N4 = "matvec_q3_k_n4",
        MATVEC_Q3_K_N8 = "matvec_q3_k_n8",
        MATVEC_Q4_K_N1 = "matvec_q4_k_n1",
        MATVEC_Q4_K_N2 = "matvec_q4_k_n2",
        MATVEC_Q4_K_N4 = "matvec_q4_k_n4",
        MATVEC_Q4_K_N8 = "matvec_q4_k_n8",
        MATVEC_Q5_K_N1 = "matvec_q5_k_n1",
        MATVEC_Q5_K_N2 = "matvec_q5_k_n2",
        MATVEC_Q5_K_N4 = "matvec_q5_k_n4",
        MATVEC_Q5_K_N8 = "matvec_q5_k_n8",
        MATVEC_Q6_K_N1 = "matvec_q6_k_n1",
        MATVEC_Q6_K_N2 = "matvec_q6_k_n2",
        MATVEC_Q6_K_N4 = "matvec_q6_k_n4",
        MATVEC_Q6_K_N8 = "matvec_q6_k_n8",
    }

    /// q (part 0, to its dst), k and v (parts 1 and 2, to the cache) of one token, rotated as `to` says. A part has whole
    /// heads. Grid and `sharing` as of a matvec kernel with 2 rows a team.
    QkvArgs(parts: Parts, q: Ptr, ds: Ptr, cols: u32, sharing: u32, to: Append) [128, 1, 1] waves 2 {
        QKV_F32 = "qkv_f32",
        QKV_F16 = "qkv_f16",
        QKV_BF16 = "qkv_bf16",
        QKV_Q4_0 = "qkv_q4_0",
        QKV_Q4_1 = "qkv_q4_1",
        QKV_Q5_0 = "qkv_q5_0",
        QKV_Q5_1 = "qkv_q5_1",
        QKV_Q8_0 = "qkv_q8_0",
        QKV_Q2_K = "qkv_q2_k",
        QKV_Q3_K = "qkv_q3_k",
        QKV_Q4_K = "qkv_q4_k",
        QKV_Q5_K = "qkv_q5_k",
        QKV_Q6_K = "qkv_q6_k",
    }

    /// Gate and up of one token. Grid and `sharing` as of a matvec kernel with as many rows a team as both have.
    GluMatVecArgs(to: Gated, q: Ptr, ds: Ptr, cols: u32, sharing: u32) [128, 1, 1] waves 2 {
        GLU_F32 = "glu_f32",
        GLU_F16 = "glu_f16",
        GLU_BF16 = "glu_bf16",
        GLU_Q4_0 = "glu_q4_0",
        GLU_Q4_1 = "glu_q4_1",
        GLU_Q5_0 = "glu_q5_0",
        GLU_Q5_1 = "glu_q5_1",
        GLU_Q8_0 = "glu_q8_0",
        GLU_Q2_K = "glu_q2_k",
        GLU_Q3_K = "glu_q3_k",
        GLU_Q4_K = "glu_q4_k",
        GLU_Q5_K = "glu_q5_k",
        GLU_Q6_K = "glu_q6_k",
    }

    /// Norms, rotation and the cache's cells, for all tokens of a step. head_dim <= 512. Grid: x over tokens, y over
    /// n_head + 2 * n_head_kv.
    HeadsArgs(h: Heads) [64, 1, 1] waves 8 {
        PREPARE_HEADS = "prepare_heads",
    }

    /// Attention of few tokens, for heads padded to D, H query heads a group. Grid: x over splits, y over kv heads times
    /// runs of H of a kv head's query heads, z over tokens.
    AttendArgs(a: Attend) [128, 1, 1] waves 1 {
        ATTEND_D32_H1 = "attend_d32_h1",
        ATTEND_D32_H4 = "attend_d32_h4",
        ATTEND_D32_H8 = "attend_d32_h8",
        ATTEND_D64_H1 = "attend_d64_h1",
        ATTEND_D64_H4 = "attend_d64_h4",
        ATTEND_D64_H8 = "attend_d64_h8",
        ATTEND_D128_H1 = "attend_d128_h1",
        ATTEND_D128_H4 = "attend_d128_h4",
        ATTEND_D128_H8 = "attend_d128_h8",
        ATTEND_D256_H1 = "attend_d256_h1",
        ATTEND_D256_H4 = "attend_d256_h4",
        ATTEND_D512_H1 = "attend_d512_h1",
        ATTEND_D512_H2 = "attend_d512_h2",
    }

    /// Rows of `width` f32 as f16, the input of matrix products: h `[row][width up to a multiple of 32]`, zeros behind
    /// the row; scale f32 a row, a power of two. A value is h * scale; scale is NaN, and h anything, for a row with a
    /// value that is not finite. x is aligned to 16 bytes. Grid: x over rows.
    HalfRowsArgs(x: Ptr, h: Ptr, scale: Ptr, width: u32) [256, 1, 1] waves 4 {
        HALF_ROWS = "half_rows",
    }

    /// The same of `x[r] / sqrt(mean(x[r]^2) + eps) * weight`.
    HalfRowsNormArgs(x: Ptr, weight: Ptr, h: Ptr, scale: Ptr, width: u32, eps: f32) [256, 1, 1] waves 4 {
        HALF_ROWS_RMS_NORM = "half_rows_rms_norm",
    }

    /// The same of `activation(gate) * up`.
    HalfRowsGluArgs(gate: Ptr, up: Ptr, h: Ptr, scale: Ptr, width: u32) [256, 1, 1] waves 4 {
        HALF_ROWS_SILU = "half_rows_silu",
        HALF_ROWS_GELU = "half_rows_gelu",
    }

    /// `dst[t][r] = scale[t] * dot(w[r], x[t]) + bias[r]`, and `+ dst[t][r]` if `add` is not 0, by f16 matrix tiles;
    /// weights are rounded to f16; x and scale as half_rows leaves them; bias f32 or none. Grid: x over n, y over rows,
    /// by the number at the end of the name.
    MatMulArgs(w: Planes, x: Ptr, scale: Ptr, bias: Ptr, dst: Ptr, rows: u32, cols: u32, n: u32, add: u32)
        [256, 1, 1] waves 2 {
        MATMUL_F32_64 = "matmul_f32_64",
        MATMUL_F16_64 = "matmul_f16_64",
        MATMUL_BF16_64 = "matmul_bf16_64",
        MATMUL_Q4_0_64 = "matmul_q4_0_64",
        MATMUL_Q4_1_64 = "matmul_q4_1_64",
        MATMUL_Q5_0_64 = "matmul_q5_0_64",
        MATMUL_Q5_1_64 = "matmul_q5_1_64",
        MATMUL_Q8_0_64 = "matmul_q8_0_64",
        MATMUL_Q2_K_64 = "matmul_q2_k_64",
        MATMUL_Q3_K_64 = "matmul_q3_k_64",
        MATMUL_Q4_K_64 = "matmul_q4_k_64",
        MATMUL_Q5_K_64 = "matmul_q5_k_64",
        MATMUL_Q6_K_64 = "matmul_q6_k_64",
        MATMUL_F16_128 = "matmul_f16_128",
        MATMUL_BF16_128 = "matmul_bf16_128",
        MATMUL_Q4_0_128 = "matmul_q4_0_128",
        MATMUL_Q4_1_128 = "matmul_q4_1_128",
        MATMUL_Q5_0_128 = "matmul_q5_0_128",
        MATMUL_Q5_1_128 = "matmul_q5_1_128",
        MATMUL_Q8_0_128 = "matmul_q8_0_128",
        MATMUL_Q2_K_128 = "matmul_q2_k_128",
        MATMUL_Q3_K_128 = "matmul_q3_k_128",
        MATMUL_Q4_K_128 = "matmul_q4_k_128",
        MATMUL_Q5_K_128 = "matmul_q5_k_128",
        MATMUL_Q6_K_128 = "matmul_q6_k_128",
    }

    /// Causal attention of many tokens, for heads padded to D. q, out: f32 `[token][head][head_dim]`, q rotated and
    /// aligned to 16 bytes; k, v: a layer's cache, f16 `[block][kv head][64 positions][D]`; tiles: u32 (first token,
    /// count, sequence, position of the first), at most 64 tokens, 32 of D 512; table: u32, a row of `table_stride`
    /// blocks a sequence. Grid: x over heads (times 2 of D 256, 4 of D 512), y over tiles.
    PrefillAttentionArgs(q: Ptr, k: Ptr, v: Ptr, tiles: Ptr, table: Ptr, out: Ptr, n_head: u32, n_head_kv: u32,
        head_dim: u32, table_stride: u32, scale: f32) [128, 1, 1] waves 1 {
        PREFILL_ATTENTION_D32 = "prefill_attention_d32",
        PREFILL_ATTENTION_D64 = "prefill_attention_d64",
        PREFILL_ATTENTION_D128 = "prefill_attention_d128",
        PREFILL_ATTENTION_D256 = "prefill_attention_d256",
        PREFILL_ATTENTION_D512 = "prefill_attention_d512",
    }
}

/// Grid of `transpose_f32`: x over tiles of columns, y (at most 32768) and z over tiles of rows.
pub fn transpose_grid(rows: u32, cols: u32) -> [u32; 3] {
    let tiles = rows.div_ceil(32);
    [cols.div_ceil(32), tiles.min(TRANSPOSE_Y), tiles.div_ceil(TRANSPOSE_Y)]
}

/// As in kernels/transpose.hip; gridDim.y may be 65535 at most.
const TRANSPOSE_Y: u32 = 32768;

/// How a matvec kernel divides its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatVecShape {
    /// Rows that a group makes.
    pub rows: u32,
    /// Teams of 32 lanes that share a row: 1, 2 or 4, of a group's 4.
    pub sharing: u32,
}

/// Columns that a lane of a matvec kernel takes at a time: 16 bytes of quants, of 2 and 3 bits 8.
pub fn unit_cols(ty: TensorType) -> u32 {
    use TensorType::*;
    match ty {
        F32 | F16 | BF16 => 8,
        Q8_0 => 16,
        _ => 32,
    }
}

/// For weights of `rows` rows in all, `cols` columns, and `n` tokens.
pub fn matvec_shape(ty: TensorType, rows: u32, cols: u32, n: u32) -> MatVecShape {
    // As in kernels/matvec.hip.
    let team_rows = match (n, ty) {
        (2..=4, TensorType::Q2_K) => 2,
        (2..=4, _) => 4,
        _ => 2,
    };
    // A lane takes one unit at a time. Sums of several tokens cost more to bring together: then a row is shared only
    // if there are too few to fill a GPU.
    let enough = if n <= 1 { u32::MAX } else { 8192 / n.next_power_of_two() };
    let (units, teams) = (cols / unit_cols(ty), rows.div_ceil(team_rows));
    let mut sharing = 1;
    while sharing < 4 && units > 32 * sharing && teams.saturating_mul(sharing) < enough {
        sharing *= 2;
    }
    MatVecShape { rows: 4 / sharing * team_rows, sharing }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_lie_as_c_lays_them_out() {
        let offsets: Vec<_> = MATVEC_Q4_K_N1.signature().args.iter().map(|a| a.offset).collect();
        assert_eq!(offsets, [0, 168, 176, 184, 188, 192, 196]);
        let names: std::collections::HashSet<_> = SIGNATURES.iter().map(|s| s.name).collect();
        assert_eq!(names.len(), SIGNATURES.len(), "two kernels of one name");
    }
}
