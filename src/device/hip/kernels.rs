//! Every kernel of kernels/: name, arguments, threads of a block, stated occupancy. Host and device agree by
//! this table; tests hold each target's code object to it.

use std::marker::PhantomData;

use super::planes;
use crate::gguf::TensorType;
use crate::gguf::tensor_type::computed_types;
use crate::{Error, Result};

/// Address in device memory; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Ptr(pub u64);

/// A weight's planes, as kernels/types.hpp lays them out: each field of the GGUF block in a plane of its own,
/// `[row][block][field bytes]`, 256-byte aligned, the widest field first. A float type is one plane of values. Unused
/// entries are null.
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
    /// `gated`'s, kernels/activations.hpp.
    pub f: u32,
}

/// Of a product of few tokens with their experts: `ids` u32 `[token][n_used]`, null where there are no experts; `scales`:
/// of each weight f32 an expert, or null; x has a row for all of a token's experts, or if `each` is not 0 for one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Pairs {
    pub ids: Ptr,
    pub scales: [Ptr; 2],
    pub n_used: u32,
    pub each: u32,
}

/// Of a product of many tokens with their experts, in the order that sort_pairs leaves: `tiles` of 4 u32, null where there
/// are no experts; the row of x, u32 a place; the pair, u32 a place, which is the row of dst and of scale; `scale`: f32 an
/// expert, or null.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Sorted {
    pub tiles: Ptr,
    pub x_rows: Ptr,
    pub pairs: Ptr,
    pub scale: Ptr,
}

/// A choice of experts, as [`crate::plan::Routing`] has it; gating: 0 softmax, 1 sigmoid, 2 softmax of the chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct Routing {
    pub n_experts: u32,
    pub n_used: u32,
    pub gating: u32,
    pub least_sum: f32,
    pub scale: f32,
    pub n_groups: u32,
    pub n_groups_used: u32,
    pub per_id: u32,
}

/// Queries, keys and values of a step's tokens, f32 `[token][head][head_dim]`, values `value_dim`, and where they go: q in
/// place, k and v to a layer's cache, f16 `[block][kv head][64 positions][head_pad]`, in which a key's elements behind the
/// first value_dim stand from `rest_at` on (head_pad: all in order). Norms: f32 `[head_dim]` or none. `table`: u32, a row of
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
    pub value_dim: u32,
    pub head_pad: u32,
    pub rest_at: u32,
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
    /// u32: indices of the tokens that attend; null: all do.
    pub chosen: Ptr,
    pub parts: Ptr,
    pub tickets: Ptr,
    pub out: Ptr,
    pub oq: Ptr,
    pub ods: Ptr,
    /// f32, of each head one more score without a value; or null.
    pub sinks: Ptr,
    /// u32 a token: the last position that it attends to; null: its own.
    pub lasts: Ptr,
    pub n_head: u32,
    pub n_head_kv: u32,
    pub head_dim: u32,
    pub value_dim: u32,
    pub table_stride: u32,
    /// Positions are split over this many groups at most.
    pub splits: u32,
    /// A token attends to the last `window` positions, its own included, from the last multiple of `chunk` on; [`UNBOUNDED`]
    /// where that is no bound.
    pub window: u32,
    pub chunk: u32,
    pub scale: f32,
    /// Scores s become cap * tanh(s / cap); 0: stay.
    pub cap: f32,
    /// Scores fall with the distance, by each head's slope as [`Scores`](crate::plan::Scores) has it; 0: they do not.
    pub alibi: f32,
}

/// A gated delta rule: q, k f32 `[token][n_k][k_len]`, v, out `[token][n_v][v_len]`, beta `[token][n_v]`, g too or, if
/// `g_by_row`, `[token][n_v][k_len]`; `runs`: u32, for each sequence its first token, the number of them, the slot that is
/// read (!0: zeros) and that is written; state f32 `[slot][n_v][v_len][k_len]`. `turns`: value head h goes with key head
/// h % n_k, else with h / (n_v / n_k). q, k, g and state are aligned to 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct Delta {
    pub q: Ptr,
    pub k: Ptr,
    pub v: Ptr,
    pub g: Ptr,
    pub beta: Ptr,
    pub runs: Ptr,
    pub state: Ptr,
    pub out: Ptr,
    pub n_k: u32,
    pub n_v: u32,
    pub k_len: u32,
    pub v_len: u32,
    pub turns: u32,
    pub g_by_row: u32,
    pub scale: f32,
}

/// More than positions that kernels take; behind a token a distance is larger.
pub const UNBOUNDED: u32 = 1 << 31;

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
    /// The kernel of this name, which takes A, when the library is compiled.
    const fn named(name: &str) -> Self {
        let mut id = 0;
        while !is_same(SIGNATURES[id].name, name) {
            id += 1;
        }
        Kernel { id, args: PhantomData }
    }

    const fn each_named<const N: usize>(names: [Option<&str>; N]) -> [Option<Self>; N] {
        let mut kernels = [const { None }; N];
        let mut i = 0;
        while i < N {
            if let Some(name) = names[i] {
                kernels[i] = Some(Self::named(name));
            }
            i += 1;
        }
        kernels
    }

    /// Index into [`SIGNATURES`].
    pub const fn id(self) -> usize {
        self.id
    }

    pub const fn signature(self) -> &'static Signature {
        &SIGNATURES[self.id]
    }
}

const fn is_same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut same = a.len() == b.len();
    let mut i = 0;
    while same && i < a.len() {
        same = a[i] == b[i];
        i += 1;
    }
    same
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
values!(u32, u64, f32, Planes, Parts, Append, Gated, Pairs, Sorted, Routing, Heads, Attend, Delta);

/// Arguments of a kernel: `repr(C)`, so that fields lie as in the kernel's argument block.
///
/// # Safety
/// `ARGS` states each field's offset and size truly, and every bit pattern of a field may be copied.
pub unsafe trait Args: Copy {
    const ARGS: &'static [Arg];
}

/// A kernel for each tensor type that has one.
pub struct ByType<A: 'static>([Option<Kernel<A>>; TensorType::N_SUPPORTED]);

impl<A> ByType<A> {
    pub fn find(&self, ty: TensorType) -> Option<Kernel<A>> {
        self.0[ty.supported_index()?]
    }

    /// `Error::Internal` where there is none: plans have none but supported types.
    pub fn of(&self, ty: TensorType) -> Result<Kernel<A>> {
        self.find(ty).ok_or_else(|| Error::Internal(format!("no kernel of {ty} takes these arguments")))
    }
}

/// Whether a family of kernels (all, quantized, but_f32) has one of a type.
macro_rules! has {
    (quantized float $name:ident) => {
        false
    };
    (but_f32 float F32) => {
        false
    };
    ($family:ident $kind:ident $name:ident) => {
        true
    };
}

/// Names of a kernel, `"name"`, or of one for each type of a family, `"before the type's name" family "behind it"`.
macro_rules! names {
    ($name:literal) => {
        [Some($name)]
    };
    ($before:literal $family:ident $behind:literal) => {
        computed_types!(names @ $before $family $behind;)
    };
    (
        @ $before:literal $family:ident $behind:literal;
        $($name:ident = $id:literal, $function:ident, $kind:ident, $len:literal, $bytes:literal, $planes:tt;)*
    ) => {
        [$(if has!($family $kind $name) {
            Some(concat!($before, stringify!($function), $behind))
        } else {
            None
        }),*]
    };
}

macro_rules! constant {
    ($constant:ident $args:ident $name:literal) => {
        pub const $constant: Kernel<$args> = Kernel::named($name);
    };
    ($constant:ident $args:ident $($names:tt)*) => {
        pub static $constant: ByType<$args> = ByType(Kernel::each_named(names!($($names)*)));
    };
}

macro_rules! kernels {
    ($($(#[$doc:meta])* $args:ident ( $($field:ident: $ty:ty),* ) $block:tt
        $(waves $waves:literal { $($constant:ident = $name:literal $($family:ident $behind:literal)?),* $(,)? }),+)*) => {
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

            $($(constant! { $constant $args $name $($family $behind)? })*)+
        )*

        /// What all of a name's kernels have in common, with their names.
        const GROUPS: &[(Signature, &[Option<&str>])] = &[$($($((
            Signature { name: "", args: $args::ARGS, block: $block, waves: $waves },
            &names!($name $($family $behind)?),
        ),)*)+)*];
    };
}

const N_KERNELS: usize = {
    let (mut n, mut group) = (0, 0);
    while group < GROUPS.len() {
        let mut name = 0;
        while name < GROUPS[group].1.len() {
            n += GROUPS[group].1[name].is_some() as usize;
            name += 1;
        }
        group += 1;
    }
    n
};

/// All kernels, in the order of their ids.
pub const SIGNATURES: &[Signature] = &{
    let mut all = [GROUPS[0].0; N_KERNELS];
    let (mut n, mut group) = (0, 0);
    while group < GROUPS.len() {
        let (signature, names) = GROUPS[group];
        let mut name = 0;
        while name < names.len() {
            if let Some(name) = names[name] {
                all[n] = Signature { name, ..signature };
                n += 1;
            }
            name += 1;
        }
        group += 1;
    }
    all
};

// Buffers are row-major. `rows`, `cols` are the weight's: cols inputs, rows outputs; `n` counts tokens.
kernels! {
    /// dst (cols x rows) = transpose of src (rows x cols). Grid: x over cols / 32; y and z over rows / 32, at most
    /// 32768 on y ([`transpose_grid`]).
    TransposeArgs(src: Ptr, dst: Ptr, rows: u32, cols: u32) [32, 32, 1] waves 8 {
        TRANSPOSE_F32 = "transpose_f32",
    }

    /// Reads n bytes (a multiple of 16) and leaves the xor of their 32-bit words, one per block, in dst:
    /// measures read bandwidth. Grid: x over n / 32768.
    ReadArgs(src: Ptr, dst: Ptr, n: u64) [256, 1, 1] waves 6 {
        READ_BYTES = "read_bytes",
    }

    /// GGUF blocks, as in the file, to planes. src: aligned to 4 bytes. Grid: x over n_blocks / 256.
    SplitArgs(src: Ptr, planes: Planes, n_blocks: u64) [256, 1, 1] waves 8 {
        SPLIT = "split_" quantized "",
    }

    /// `dst[t]` = row `tokens[t]` (u32) of w as f32, cols wide. A token >= rows gives NaN. Grid: x over tokens, y over
    /// cols / 1024.
    EmbedArgs(w: Planes, tokens: Ptr, dst: Ptr, rows: u32, cols: u32) [256, 1, 1] waves 8 {
        EMBED = "embed_" all "",
    }

    /// `dst[r] = x[r] / sqrt(mean(x[r]^2) + eps) * weight + bias`, for rows of `width`; `kind` 1: of the row less its mean;
    /// 2: by the sum in place of the mean. weight, bias: f32 or null. In place allowed. Grid: x over rows.
    NormArgs(x: Ptr, weight: Ptr, bias: Ptr, dst: Ptr, width: u32, eps: f32, kind: u32) [256, 1, 1] waves 4 {
        NORM_F32 = "norm_f32",
    }

    /// The same norm of row `rows[r]` (u32; r where none) of x, to dst (f32), to q and ds as quantize_q8 leaves them, or to
    /// both; width: a multiple of 32. Grid: x over rows.
    NormQ8Args(x: Ptr, rows: Ptr, weight: Ptr, bias: Ptr, dst: Ptr, q: Ptr, ds: Ptr, width: u32, eps: f32, kind: u32)
        [1024, 1, 1] waves 4 {
        NORM_Q8 = "norm_q8",
    }

    /// The same, best for rows of 2,048 columns and less.
    NarrowNormQ8Args(x: Ptr, rows: Ptr, weight: Ptr, bias: Ptr, dst: Ptr, q: Ptr, ds: Ptr, width: u32, eps: f32, kind: u32)
        [256, 1, 1] waves 4 {
        NORM_Q8_NARROW = "norm_q8_narrow",
    }

    /// `dst[i] = f(x[i])`, i < n; f: the function of that number in kernels/activations.hpp, c and d its constants. In place
    /// allowed. Grid: x over n / 1024.
    UnaryArgs(x: Ptr, dst: Ptr, n: u64, f: u32, c: f32, d: f32) [256, 1, 1] waves 8 {
        UNARY_F32 = "unary_f32",
    }

    /// `dst[i] = f(a[i]) * b[i / each_b]`, their sum, or the clamped unit of both, i < n, which is below 2^32 where each_b is
    /// not 1; f as in unary_f32. In place allowed. Grid: x over n / 1024.
    BinaryArgs(a: Ptr, b: Ptr, dst: Ptr, n: u64, each_b: u32, f: u32, c: f32, d: f32) [256, 1, 1] waves 8 {
        BINARY_F32 = "binary_f32",
    }

    /// `dst[t][i] = x[t][i] * scale[i / each_scale] + bias[i / each_bias]`, or `x / scale + bias` if `divides`, for rows of
    /// `width`; scale, bias: f32 or null. In place allowed. Grid: x over rows, y over width / 1024.
    AffineArgs(x: Ptr, scale: Ptr, bias: Ptr, dst: Ptr, width: u32, each_scale: u32, each_bias: u32, divides: u32)
        [256, 1, 1] waves 8 {
        AFFINE_F32 = "affine_f32",
    }

    /// `dst[t][c]` = sum over i of `weight[c][i] * x[t - k + 1 + i][c]`, plus `bias[c]` (f32 or null), then silu if `silu`;
    /// weight f32 `[width][k]`; sequences: u32 a token; runs as in [`Delta`]; state f32 `[slot][k - 1][width]`, the inputs
    /// before a run, the oldest first. Grid: x over tokens, y over width / 256.
    ConvArgs(
        x: Ptr, weight: Ptr, bias: Ptr, sequences: Ptr, runs: Ptr, state: Ptr, dst: Ptr, width: u32, k: u32, silu: u32
    ) [256, 1, 1] waves 8 {
        CONV_F32 = "conv_f32",
    }

    /// The gated delta rule, for keys of as many elements as the name's end at most, a multiple of 4. Grid: x over v_len /
    /// 16, y over n_v, z over sequences.
    DeltaArgs(d: Delta) [128, 1, 1] waves 4 {
        DELTA_NET_K64 = "delta_net_k64",
    }, waves 2 {
        DELTA_NET_K128 = "delta_net_k128",
    }, waves 1 {
        DELTA_NET_K256 = "delta_net_k256",
    }

    /// dst = x (tokens x n_heads x head_dim) with n_rot elements of each head rotated, from `first` on; positions: u32 per
    /// token; table: (cos, sin) f32 pairs, `[position][n_rot / 2]`; `halves` as in [`Append`]. In place allowed. Grid: x
    /// over tokens, y over heads.
    RopeArgs(
        x: Ptr, dst: Ptr, positions: Ptr, table: Ptr, n_heads: u32, head_dim: u32, first: u32, n_rot: u32,
        halves: u32
    ) [64, 1, 1] waves 8 {
        ROPE_F32 = "rope_f32",
    }

    /// Parts of `len` elements of rows of `width`, n elements of a row in all, to rows of `to_width`: from `first` and every
    /// `step` on, to `to_first` and every `to_step`. Grid: x over rows, y over n / 256.
    ColumnsArgs(
        x: Ptr, dst: Ptr, width: u32, to_width: u32, n: u32, len: u32, first: u32, step: u32, to_first: u32, to_step: u32
    ) [256, 1, 1] waves 8 {
        COLUMNS_F32 = "columns_f32",
    }

    /// `dst[t] = x[t] * (1 + scale * ln(1 + positions[t] / length))`, in whole numbers; rows of `width`. In place allowed.
    /// Grid: x over rows, y over width / 256.
    TemperArgs(x: Ptr, dst: Ptr, positions: Ptr, width: u32, length: u32, scale: f32) [256, 1, 1] waves 8 {
        TEMPER_F32 = "temper_f32",
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
    /// [`matvec_shape`]; `sharing` of the same. With experts, which only those of one token take: of part 0, `dst[pair][r]
    /// = scale * dot + bias[r]`; y over a token's experts, z over tokens.
    MatVecArgs(parts: Parts, q: Ptr, ds: Ptr, cols: u32, n: u32, sharing: u32, add: u32, pairs: Pairs)
        [128, 1, 1] waves 2 {
        MATVEC_N1 = "matvec_" all "_n1",
        MATVEC_N2 = "matvec_" all "_n2",
        MATVEC_N4 = "matvec_" all "_n4",
        MATVEC_N8 = "matvec_" all "_n8",
    }

    /// q (part 0, to its dst), k and v (parts 1 and 2, to the cache) of one token, rotated as `to` says. A part has whole
    /// heads. Grid and `sharing` as of a matvec kernel with 2 rows a team.
    QkvArgs(parts: Parts, q: Ptr, ds: Ptr, cols: u32, sharing: u32, to: Append) [128, 1, 1] waves 2 {
        QKV = "qkv_" all "",
    }

    /// Gate and up of one token, or of each of its experts. Grid and `sharing` as of a matvec kernel with as many rows a
    /// team as both have.
    GluMatVecArgs(to: Gated, q: Ptr, ds: Ptr, cols: u32, sharing: u32, pairs: Pairs) [128, 1, 1] waves 2 {
        GLU_MATVEC = "glu_" all "",
    }

    /// Norms, rotation and the cache's cells, for all tokens of a step. head_dim <= 512 where it does more than copy. Grid: x over tokens, y over
    /// n_head + 2 * n_head_kv, or + n_head_kv where keys hold the values.
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
        ATTEND_LATENT_H1 = "attend_latent_h1",
        ATTEND_LATENT_H4 = "attend_latent_h4",
    }

    /// Rows of `width` f32 as f16, the input of matrix products: h `[row][width up to a multiple of 32]`, zeros behind
    /// the row; scale f32 a row, a power of two. A value is h * scale; scale is NaN, and h anything, for a row with a
    /// value that is not finite. x is aligned to 16 bytes. The scale is written `copies` times, one behind the other.
    /// Grid: x over rows.
    HalfRowsArgs(x: Ptr, h: Ptr, scale: Ptr, width: u32, copies: u32) [256, 1, 1] waves 4 {
        HALF_ROWS = "half_rows",
    }

    /// The same, once, of `x[r] / sqrt(mean(x[r]^2) + eps) * weight`.
    HalfRowsNormArgs(x: Ptr, weight: Ptr, h: Ptr, scale: Ptr, width: u32, eps: f32) [256, 1, 1] waves 4 {
        HALF_ROWS_RMS_NORM = "half_rows_rms_norm",
    }

    /// The same of a gated unit; f as in [`Gated`].
    HalfRowsGluArgs(gate: Ptr, up: Ptr, h: Ptr, scale: Ptr, width: u32, f: u32) [256, 1, 1] waves 4 {
        HALF_ROWS_GLU = "half_rows_glu",
    }

    /// `dst[t][r] = scale[t] * dot(w[r], x[t]) + bias[r]`, and `+ dst[t][r]` if `add` is not 0, by f16 matrix tiles;
    /// weights are rounded to f16; x and scale as half_rows leaves them; bias f32 or none. Grid: x over n, y over rows,
    /// by the number at the end of the name; with experts x over tiles.
    MatMulArgs(w: Planes, x: Ptr, scale: Ptr, bias: Ptr, dst: Ptr, rows: u32, cols: u32, n: u32, add: u32, sorted: Sorted)
        [256, 1, 1] waves 2 {
        MATMUL_64 = "matmul_" all "_64",
        MATMUL_128 = "matmul_" but_f32 "_128",
    }

    /// Attention of many tokens, for heads padded to D. q: f32 `[token][head][head_dim]`, rotated and aligned to 16
    /// bytes; out: the same of value_dim; k, v: a layer's cache, f16 `[block][kv head][64 positions][D]`; tiles: u32
    /// (first token, count, sequence, position of the first), at most 64 tokens, 32 of D 512 and latent; table: u32, a row
    /// of `table_stride` blocks a sequence; window, chunk, cap, alibi, sinks, lasts: as in [`Attend`]. Grid: x over heads
    /// (times 2 of D 256, 4 of D 512 and latent), y over tiles.
    PrefillAttentionArgs(q: Ptr, k: Ptr, v: Ptr, tiles: Ptr, table: Ptr, out: Ptr, sinks: Ptr, lasts: Ptr,
        n_head: u32, n_head_kv: u32, head_dim: u32, value_dim: u32, table_stride: u32, window: u32, chunk: u32,
        scale: f32, cap: f32, alibi: f32)
        [128, 1, 1] waves 1 {
        PREFILL_ATTENTION_D32 = "prefill_attention_d32",
        PREFILL_ATTENTION_D64 = "prefill_attention_d64",
        PREFILL_ATTENTION_D128 = "prefill_attention_d128",
        PREFILL_ATTENTION_D256 = "prefill_attention_d256",
        PREFILL_ATTENTION_D512 = "prefill_attention_d512",
        PREFILL_ATTENTION_LATENT = "prefill_attention_latent",
    }

    /// Each token's experts by its logits (f32, n x n_experts), as src/device/routing.rs defines the choice: ids (u32) and
    /// weights (f32), n x n_used. bias: f32 an expert, or null. At most 1,024 experts. Grid: x over tokens.
    RouteArgs(logits: Ptr, bias: Ptr, ids: Ptr, weights: Ptr, routing: Routing) [64, 1, 1] waves 2 {
        ROUTE = "route",
    }

    /// Pairs of tokens and experts in the order of their experts (u32 `ids`, below 1,024): `pairs` and, of each, `tokens`
    /// (pair / n_used); tiles (expert, first place, last place + 1, 0) of 64 places, n_small of them, and then of 128,
    /// n_large; those of no places are 0. Grid: 1.
    SortPairsArgs(ids: Ptr, pairs: Ptr, tokens: Ptr, tiles: Ptr, n_pairs: u32, n_used: u32, n_small: u32, n_large: u32)
        [1024, 1, 1] waves 4 {
        SORT_PAIRS = "sort_pairs",
    }

    /// `dst[t]` = sum over k, in order, of `weights[t][k] * x[t][k]`, or of `x[t][k]` where weights is null, rows of `width`,
    /// f32; on top of `add[t]` unless that is null, which dst may be. Grid: x over tokens, y over width / 1024.
    CombineArgs(x: Ptr, weights: Ptr, add: Ptr, dst: Ptr, width: u32, n_used: u32) [256, 1, 1] waves 8 {
        COMBINE = "combine",
    }

    /// `dst[t][k] = weights[t][k] * x[t]`, rows of `width`, f32. Grid: x over pairs of t and k, y over width / 1024.
    SpreadArgs(x: Ptr, weights: Ptr, dst: Ptr, width: u32, n_used: u32) [256, 1, 1] waves 8 {
        SPREAD = "spread",
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

/// For weights of `rows` rows in all, `cols` columns, and `n` tokens.
pub fn matvec_shape(ty: TensorType, rows: u32, cols: u32, n: u32) -> MatVecShape {
    // `FEW_ROWS` of kernels/matvec.hip.
    let team_rows = match (n, ty) {
        (2..=4, TensorType::Q2_K) => 2,
        (2..=4, _) => 4,
        _ => 2,
    };
    // A lane takes one unit at a time. Sums of several tokens cost more to bring together: then a row is shared only
    // if there are too few to fill a GPU.
    let enough = if n <= 1 { u32::MAX } else { 8192 / n.next_power_of_two() };
    let (units, teams) = (cols / planes::unit_cols(ty), rows.div_ceil(team_rows));
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
        let offsets: Vec<_> =
            MATVEC_N1.of(TensorType::Q4_K).unwrap().signature().args.iter().map(|a| a.offset).collect();
        assert_eq!(offsets, [0, 168, 176, 184, 188, 192, 196, 200]);
        let names: std::collections::HashSet<_> = SIGNATURES.iter().map(|s| s.name).collect();
        assert_eq!(names.len(), SIGNATURES.len(), "two kernels of one name");
    }
}
