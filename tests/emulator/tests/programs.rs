//! C++ compiled for each emulated target, run by the emulator, compared with the same computation on the host:
//! what data/programs.hip's kernels do between them covers most of what compilers emit.

#[allow(dead_code)] // the build needs more of it
#[path = "../../../tools/build/compiler.rs"]
mod compiler;
#[allow(dead_code)] // the build and the library need more of it
#[path = "../../../src/device/hip/code_object/targets.rs"]
mod targets;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

use amdhip64::code_object::CodeObject;
use amdhip64::counters::{Class, Counters};
use amdhip64::isa::{Arch, Disassembly, Program};
use amdhip64::launch::{Function, Launch, Options};
use amdhip64::memory::{Kind, Memory};
use amdhip64::stop::{Fault, Stop};
use half::{bf16, f16};

const TARGETS: [&str; 4] = ["gfx1100", "gfx1201", "gfx942", "gfx90a"];

/// The one that compiles the kernels too.
fn clang() -> &'static Path {
    static CLANG: OnceLock<PathBuf> = OnceLock::new();
    CLANG.get_or_init(|| {
        let found = compiler::Search::of_environment().find_all();
        found.unwrap_or_else(|why| panic!("{why}")).swap_remove(0).path
    })
}

/// The code object of programs.hip, made once per target.
fn compiled(target: &str) -> &'static [u8] {
    static OBJECTS: [OnceLock<Vec<u8>>; TARGETS.len()] = [const { OnceLock::new() }; TARGETS.len()];
    let at = TARGETS.iter().position(|t| *t == target).unwrap();
    OBJECTS[at].get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/programs.hip");
        let object =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("programs-{}-{target}", std::process::id()));
        let output = Command::new(clang())
            .args(
                "-x hip --cuda-device-only -nogpuinc -nogpulib --no-gpu-bundle-output -fuse-cuid=none"
                    .split(' '),
            )
            .args(["-O3", "-mcode-object-version=5", &format!("--offload-arch={target}"), "-o"])
            .args([&object, &source])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let bytes = std::fs::read(&object).unwrap();
        std::fs::remove_file(&object).unwrap();
        bytes
    })
}

/// A card with the code object loaded.
struct Card {
    arch: Arch,
    object: CodeObject,
    disassembly: Disassembly,
    base: u64,
    memory: Memory,
}

impl Card {
    fn new(target: &str) -> Self {
        let bytes = compiled(target);
        let object = CodeObject::parse(bytes).unwrap();
        let arch = Arch::parse(target).unwrap();
        let disassembly = Disassembly::of(bytes, &arch).unwrap();
        let mut memory = Memory::default();
        let base = memory.allocate(object.image.len() as u64, Kind::Constant).unwrap();
        memory.write(base, &object.relocated(base)).unwrap();
        Card { arch, object, disassembly, base, memory }
    }

    fn upload(&mut self, bytes: &[u8]) -> u64 {
        let address = self.memory.allocate(bytes.len() as u64, Kind::Device).unwrap();
        self.memory.write(address, bytes).unwrap();
        address
    }

    fn download(&self, address: u64, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        self.memory.read(address, &mut data).unwrap();
        data
    }

    fn launch(
        &mut self,
        name: &str,
        grid: [u32; 2],
        block: [u32; 2],
        args: &[Arg],
    ) -> Result<Counters, Box<Stop>> {
        let kernel = self.object.kernels[name].clone();
        let program = Program::new(&self.disassembly, name, &self.arch, self.base).unwrap();
        let mut kernarg = vec![0; kernel.metadata.kernarg as usize];
        for (arg, place) in args.iter().zip(&kernel.metadata.args) {
            let bytes = match *arg {
                Arg::Address(a) => a.to_le_bytes().to_vec(),
                Arg::Int(n) => n.to_le_bytes().to_vec(),
                Arg::Float(x) => x.to_le_bytes().to_vec(),
            };
            assert_eq!(bytes.len(), place.size as usize);
            kernarg[place.offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        let function = Arc::new(Function { kernel, arch: self.arch.clone(), program });
        let launch = Launch {
            function,
            grid: [grid[0], grid[1], 1],
            block: [block[0], block[1], 1],
            dynamic_lds: 0,
            kernarg,
        };
        launch.run(&mut self.memory, &Options { threads: 1, limit: 1 << 20, reads: false })
    }

    fn run(&mut self, name: &str, groups: usize, block: usize, args: &[Arg]) -> Counters {
        let result = self.launch(name, [groups as u32, 1], [block as u32, 1], args);
        result.unwrap_or_else(|stop| panic!("{}: {stop}", self.arch.name))
    }
}

#[derive(Clone, Copy)]
enum Arg {
    Address(u64),
    Int(i32),
    Float(f32),
}
use Arg::{Address, Float, Int};

/// Plain numbers as bytes and back.
trait Number: Copy {
    fn bytes(values: &[Self]) -> Vec<u8>;
    fn from(bytes: &[u8]) -> Vec<Self>;
}

macro_rules! number {
    ($($type:ty)*) => {$(
        impl Number for $type {
            fn bytes(values: &[Self]) -> Vec<u8> {
                values.iter().flat_map(|v| v.to_le_bytes()).collect()
            }
            fn from(bytes: &[u8]) -> Vec<Self> {
                bytes.chunks_exact(size_of::<$type>()).map(|b| <$type>::from_le_bytes(b.try_into().unwrap())).collect()
            }
        }
    )*};
}
number!(u8 i8 u16 i16 u32 i32 u64 i64 f32 f64 f16 bf16);

impl Card {
    fn put<T: Number>(&mut self, values: &[T]) -> u64 {
        self.upload(&T::bytes(values))
    }

    /// Room for `n` values that are all ones, so that what a kernel leaves out is seen.
    fn room<T: Number>(&mut self, n: usize) -> u64 {
        self.upload(&vec![0xff; n * size_of::<T>()])
    }

    fn get<T: Number>(&self, address: u64, n: usize) -> Vec<T> {
        T::from(&self.download(address, n * size_of::<T>()))
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// In -1..1.
    fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Bits of every kind, the special values among them.
    fn any32(&mut self) -> f32 {
        const SPECIAL: [u32; 12] = [
            0,
            1 << 31,
            1,
            0x807f_ffff,
            0x0080_0000,
            0x7f7f_ffff,
            0x7f80_0000,
            0xff80_0000,
            0x7fc0_0000,
            0x3f80_0000,
            0x7e80_0001,
            0x0040_0000,
        ];
        let bits = self.bits();
        f32::from_bits(if bits & 7 == 0 { SPECIAL[(bits >> 8) as usize % 12] } else { (bits >> 32) as u32 })
    }

    fn any64(&mut self) -> f64 {
        const SPECIAL: [u64; 7] = [
            0,
            1 << 63,
            1,
            0x7ff0_0000_0000_0000,
            0x7fef_ffff_ffff_ffff,
            0x0010_0000_0000_0000,
            0x7fd0_0000_0000_0001,
        ];
        let bits = self.bits();
        f64::from_bits(if bits & 7 == 0 { SPECIAL[(bits >> 8) as usize % 7] } else { self.bits() })
    }
}

/// Equal bits, or NaN both.
fn same<T: Number + PartialEq + std::fmt::Debug>(what: &str, target: &str, got: &[T], want: &[T]) {
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let (g_bytes, w_bytes) = (T::bytes(&[*g]), T::bytes(&[*w]));
        #[allow(clippy::eq_op)]
        let nan = g != g && w != w;
        assert!(g_bytes == w_bytes || nan, "{target}: {what}[{i}] is {g:?} instead of {w:?}");
    }
    assert_eq!(got.len(), want.len());
}

const N: usize = 5000;

#[test]
fn ieee_operations_are_exact() {
    let mut random = Random(1);
    let (p, q): (Vec<f32>, Vec<f32>) = (0..N).map(|_| (random.any32(), random.any32())).unzip();
    let (x, y): (Vec<f64>, Vec<f64>) = (0..N).map(|_| (random.any64(), random.any64())).unzip();
    for target in TARGETS {
        let mut card = Card::new(target);
        let (out, a, b) = (card.room::<f32>(5 * N), card.put(&p), card.put(&q));
        card.run("exact32", N.div_ceil(256), 256, &[Address(out), Address(a), Address(b), Int(N as i32)]);
        let got = card.get::<f32>(out, 5 * N);
        let want =
            |f: fn(f32, f32) -> f32| -> Vec<f32> { p.iter().zip(&q).map(|(&p, &q)| f(p, q)).collect() };
        same("p / q", target, &got[..N], &want(|p, q| p / q));
        same("sqrt p", target, &got[N..2 * N], &want(|p, _| p.sqrt()));
        same("fma", target, &got[2 * N..3 * N], &want(|p, q| p.mul_add(q, -p)));
        // The compiler contracts the product and the sum.
        let rounded = want(|p, q| q.trunc().mul_add(p.round_ties_even(), p.floor()));
        same("floor, trunc, rint", target, &got[3 * N..4 * N], &rounded);
        same("min, max", target, &got[4 * N..], &want(|p, q| p.min(q) - (-p).max(q.abs())));

        let (out, a, b) = (card.room::<f64>(4 * N), card.put(&x), card.put(&y));
        card.run("exact64", N.div_ceil(256), 256, &[Address(out), Address(a), Address(b), Int(N as i32)]);
        let got = card.get::<f64>(out, 4 * N);
        let want =
            |f: fn(f64, f64) -> f64| -> Vec<f64> { x.iter().zip(&y).map(|(&p, &q)| f(p, q)).collect() };
        same("f64 p / q", target, &got[..N], &want(|p, q| p / q));
        same("f64 sqrt p", target, &got[N..2 * N], &want(f64::sqrt_of));
        same("f64 fma", target, &got[2 * N..3 * N], &want(|p, q| p.mul_add(q, -p)));
        let mixed = x.iter().zip(&y).enumerate().map(|(i, (&p, &q))| {
            (q as i32 as f64).mul_add(if p < q { 3.0 } else { -0.5 }, p as f32 as f64) + i as f64
        });
        same("f64 conversions", target, &got[3 * N..], &mixed.collect::<Vec<_>>());
    }
}

trait SqrtOf {
    fn sqrt_of(p: f64, q: f64) -> f64;
}

impl SqrtOf for f64 {
    fn sqrt_of(p: f64, _: f64) -> f64 {
        p.sqrt()
    }
}

#[test]
fn sixteen_bit_floats() {
    let mut random = Random(2);
    let mut any16 = || f16::from_bits(random.bits() as u16);
    let (p, q): (Vec<f16>, Vec<f16>) = (0..2 * N).map(|_| (any16(), any16())).unzip();
    let f: Vec<f32> = (0..N).map(|_| random.unit() * 100.0).collect();
    let wide = |a: f16| a.to_f32();
    for target in TARGETS {
        let mut card = Card::new(target);
        let (out, sums) = (card.room::<f16>(4 * N), card.room::<f32>(N));
        let (a, b, c) = (card.put(&p), card.put(&q), card.put(&f));
        let args = [Address(out), Address(sums), Address(a), Address(b), Address(c), Int(N as i32)];
        card.run("exact16", N.div_ceil(256), 256, &args);
        let got = card.get::<f16>(out, 4 * N);
        let want = |g: &dyn Fn(usize) -> f16| (0..N).map(g).collect::<Vec<_>>();
        same("p * q", target, &got[..N], &want(&|i| f16::from_f32(wide(p[i]) * wide(q[i]))));
        same("p / q", target, &got[N..2 * N], &want(&|i| f16::from_f64(p[i].to_f64() / q[i].to_f64())));
        let difference = want(&|i| f16::from_f32(wide(f16::from_f32(f[i])) - wide(q[i])));
        same("f - q", target, &got[2 * N..3 * N], &difference);
        let select = want(&|i| if p[i] > q[i] { -p[i] } else { f16::from_bits(q[i].to_bits() & 0x7fff) });
        same("select", target, &got[3 * N..], &select);
        let mixed = (0..N).map(|i| wide(p[i]).mul_add(f[i], wide(q[i]))).collect::<Vec<_>>();
        same("mixed", target, &card.get::<f32>(sums, N), &mixed);

        let out = card.room::<f16>(6 * N);
        card.run("pairs16", N.div_ceil(256), 256, &[Address(out), Address(a), Address(b), Int(N as i32)]);
        let got = card.get::<f16>(out, 6 * N);
        let both = |g: &dyn Fn(usize) -> f16| (0..2 * N).map(g).collect::<Vec<_>>();
        same("pairs p * q", target, &got[..2 * N], &both(&|i| f16::from_f32(wide(p[i]) * wide(q[i]))));
        same("pairs p + q", target, &got[2 * N..4 * N], &both(&|i| f16::from_f32(wide(p[i]) + wide(q[i]))));
        same("swapped", target, &got[4 * N..], &both(&|i| if i % 2 == 0 { q[i + 1] } else { p[i - 1] }));

        let w: Vec<bf16> = p[..N].iter().map(|v| bf16::from_f32(v.to_f32())).collect();
        let (out, a) = (card.room::<bf16>(N), card.put(&w));
        card.run("bfloat", N.div_ceil(256), 256, &[Address(out), Address(a), Address(c), Int(N as i32)]);
        let want = (0..N).map(|i| bf16::from_f32(w[i].to_f32() * f[i])).collect::<Vec<_>>();
        same("bf16", target, &card.get::<bf16>(out, N), &want);
    }
}

#[test]
fn transcendental_functions() {
    let mut random = Random(3);
    let p: Vec<f32> = (0..N).map(|_| random.unit() * 20.0).collect();
    for target in TARGETS {
        let mut card = Card::new(target);
        let (out, a) = (card.room::<f32>(5 * N), card.put(&p));
        card.run("functions", N.div_ceil(256), 256, &[Address(out), Address(a), Int(N as i32)]);
        let got = card.get::<f32>(out, 5 * N);
        let close = |what: &str, at: usize, relative: f64, absolute: f64, f: fn(f64) -> f64| {
            for (i, &p) in p.iter().enumerate() {
                let (got, want) = (got[at * N + i] as f64, f(p as f64));
                let error = (got - want).abs();
                assert!(
                    error <= want.abs() * relative + absolute,
                    "{target}: {what} {p} is {got} instead of {want}"
                );
            }
        };
        close("exp", 0, 2.5e-7, 0.0, f64::exp);
        close("log", 1, 2.5e-7, 1e-7, |p| p.abs().ln());
        close("sin", 2, 0.0, 3e-6, f64::sin);
        close("pow", 3, 5e-7, 0.0, |p| p.abs().powf(0.75));
        let scaled = p.iter().enumerate().map(|(i, p)| p * 2f32.powi(i as i32 % 40 - 20)).collect::<Vec<_>>();
        same("ldexp", target, &got[4 * N..], &scaled);
    }
}

#[test]
fn integers_of_all_widths() {
    let mut random = Random(4);
    let p: Vec<i32> = (0..N)
        .map(|i| if i == 7 { i32::MIN } else { random.bits() as i32 >> (random.bits() & 31) })
        .collect();
    let q: Vec<i32> =
        (0..N).map(|_| (random.bits() as i32 >> (random.bits() & 31)).max(i32::MIN + 2) | 1).collect();
    let r: Vec<i64> = (0..N).map(|_| random.bits() as i64 >> (random.bits() & 63)).collect();
    let bytes: Vec<i8> = (0..N).map(|_| random.bits() as i8).collect();
    let shorts: Vec<u16> = (0..N).map(|_| random.bits() as u16).collect();
    let signed: Vec<i16> = (0..N).map(|_| random.bits() as i16).collect();
    for target in TARGETS {
        let mut card = Card::new(target);
        let (out, wide) = (card.room::<i32>(7 * N), card.room::<i64>(3 * N));
        let (a, b, c) = (card.put(&p), card.put(&q), card.put(&r));
        let args = [Address(out), Address(wide), Address(a), Address(b), Address(c), Int(N as i32)];
        card.run("integers", N.div_ceil(256), 256, &args);
        let (got, got_wide) = (card.get::<i32>(out, 7 * N), card.get::<i64>(wide, 3 * N));
        let check = |what, at: usize, f: &dyn Fn(i32, i32) -> i32| {
            let want = p.iter().zip(&q).map(|(&p, &q)| f(p, q)).collect::<Vec<_>>();
            same(what, target, &got[at * N..][..N], &want);
        };
        check("p / q", 0, &|p, q| p.wrapping_div(q));
        check("p % q", 1, &|p, q| p.wrapping_rem(q));
        check("unsigned p / q", 2, &|p, q| (p as u32 / q as u32) as i32);
        check("p >> q", 3, &|p, q| p >> (q & 31));
        check("bits", 4, &|p, q| {
            (p.count_ones() + 100 * (q | 1).leading_zeros() + 10000 * (p | 65536).trailing_zeros()) as i32
        });
        check("reversed, rotated", 5, &|p, q| p.reverse_bits() ^ q.rotate_left(7));
        check("high product", 6, &|p, q| ((p as u32 as u64 * q as u32 as u64) >> 32) as i32);
        let check = |what, at: usize, f: &dyn Fn(i64, i32, i32) -> i64| {
            let want = (0..N).map(|i| f(r[i], p[i], q[i])).collect::<Vec<_>>();
            same(what, target, &got_wide[at * N..][..N], &want);
        };
        check("r / q", 0, &|r, _, q| r.wrapping_div(q as i64));
        check("r * p + (r >> p)", 1, &|r, p, _| r.wrapping_mul(p as i64).wrapping_add(r >> (p & 63)));
        check("r % p", 2, &|r, p, _| (r as u64 % (p | 1) as u32 as u64) as i64);

        let (out, mid) = (card.room::<u8>(2 * N), card.room::<u16>(2 * N));
        let (a, b, c) = (card.put(&bytes), card.put(&shorts), card.put(&signed));
        let args = [Address(out), Address(mid), Address(a), Address(b), Address(c), Int(N as i32)];
        card.run("narrow", N.div_ceil(256), 256, &args);
        let each = |f: &dyn Fn(i32, i32, i32) -> i32| {
            (0..N).map(|i| f(bytes[i] as i32, shorts[i] as i32, signed[i] as i32)).collect::<Vec<_>>()
        };
        let as_u8 = |v: Vec<i32>| v.into_iter().map(|v| v as u8).collect::<Vec<_>>();
        let as_u16 = |v: Vec<i32>| v.into_iter().map(|v| v as u16).collect::<Vec<_>>();
        let got = card.get::<u8>(out, 2 * N);
        same("bytes", target, &got[..N], &as_u8(each(&|p, q, s| p.wrapping_add(q * 3).wrapping_add(s))));
        same(
            "chosen bytes",
            target,
            &got[N..],
            &as_u8(each(&|p, q, s| if p < s as i8 as i32 { p } else { q >> 8 })),
        );
        let got = card.get::<u16>(mid, 2 * N);
        let quotients = each(&|p, q, s| (p * s) as u16 as i32 / (q | 1));
        same("shorts", target, &got[..N], &as_u16(quotients));
        let shifted = each(&|_, q, s| if q as i16 as i32 > s { q << (s & 15) } else { s >> (q & 15) });
        same("shifted shorts", target, &got[N..], &as_u16(shifted));
    }
}

fn diverge(p: i32) -> (i32, i32) {
    let (mut v, mut f) = (p, p as f32);
    v = match v & 7 {
        0 => v.wrapping_mul(3),
        1 => v / 7,
        2 => (f * 1.5) as i32,
        3 => {
            while v & 0xff != 0 {
                v = v.wrapping_mul(5).wrapping_add(1);
                f += 1.0;
            }
            v
        }
        4 => f as u32 as i32,
        5 => v ^ 0x55,
        6 => v.wrapping_abs(),
        _ => ((v as i64 as u64).wrapping_mul(12_345_678_901) >> 32) as i32,
    };
    for k in 0..p & 15 {
        if k == 7 {
            continue;
        }
        v = v.wrapping_add(k.wrapping_mul(if k & 1 != 0 { v } else { 3 }));
        if v & 0xfff == 0x7f {
            break;
        }
    }
    (v, ((f / 3.0).round_ties_even() as i32).wrapping_add(v as i8 as i32))
}

#[test]
fn diverging_lanes() {
    let mut random = Random(5);
    // Conversions of negative floats to unsigned and of large ones are undefined in C++.
    let p: Vec<i32> = (0..N).map(|_| (random.bits() >> 40) as i32).collect();
    for target in TARGETS {
        let mut card = Card::new(target);
        let (out, a) = (card.room::<i32>(2 * N), card.put(&p));
        let counters = card.run("diverge", N.div_ceil(256), 256, &[Address(out), Address(a), Int(N as i32)]);
        let got = card.get::<i32>(out, 2 * N);
        let (first, second): (Vec<i32>, Vec<i32>) = p.iter().map(|&p| diverge(p)).unzip();
        same("v", target, &got[..N], &first);
        same("f", target, &got[N..], &second);
        assert!(counters.waves[Class::Branch as usize] > 100);
    }
}

#[test]
fn groups_share_lds() {
    let mut random = Random(6);
    let (groups, n) = (5, 1000);
    let p: Vec<f32> = (0..groups * n).map(|_| (random.bits() & 1023) as f32).collect();
    let (rows, columns) = (70, 45);
    for target in TARGETS {
        let mut card = Card::new(target);
        let (out, a) = (card.room::<f32>(groups), card.put(&p));
        card.run("reduce", groups, 256, &[Address(out), Address(a), Int(n as i32)]);
        let want = p.chunks(n).map(|p| p.iter().sum()).collect::<Vec<f32>>();
        same("sum", target, &card.get::<f32>(out, groups), &want);

        let out = card.room::<f32>(rows * columns);
        let grid = [columns.div_ceil(32) as u32, rows.div_ceil(32) as u32];
        let args = [Address(out), Address(a), Int(rows as i32), Int(columns as i32)];
        let counters =
            card.launch("transpose", grid, [32, 32], &args).unwrap_or_else(|stop| panic!("{stop}"));
        let want = (0..rows * columns).map(|i| p[i % rows * columns + i / rows]).collect::<Vec<_>>();
        same("transposed", target, &card.get::<f32>(out, rows * columns), &want);
        assert_eq!(counters.bytes_written, 4 * (rows * columns) as u64);
        assert_eq!(counters.bank_conflicts, 0);

        let keys: Vec<u64> = (0..1024).map(|_| random.bits()).collect();
        let a = card.put(&keys);
        card.run("sort", 2, 256, &[Address(a)]);
        let mut want = keys;
        want.chunks_mut(512).for_each(<[u64]>::sort);
        same("sorted", target, &card.get::<u64>(a, 1024), &want);
    }
}

#[test]
fn atomic_operations() {
    let mut random = Random(7);
    let p: Vec<i32> = (0..N).map(|_| (random.bits() >> 33) as i32).collect();
    for target in TARGETS {
        let mut card = Card::new(target);
        let (counts, sum, most) = (card.put(&[0i32; 65]), card.put(&[0f32]), card.put(&[0u64; 8]));
        let wide = card.put(&[0u64; 16]);
        let a = card.put(&p);
        card.run(
            "atomics",
            2,
            256,
            &[Address(counts), Address(sum), Address(most), Address(wide), Address(a), Int(N as i32)],
        );
        let mut want = [0; 65];
        p.iter().for_each(|p| want[(p & 63) as usize] += 1);
        want[64] = *p.iter().max().unwrap();
        same("counts", target, &card.get::<i32>(counts, 65), &want);
        let want = p.iter().map(|p| p & 15).sum::<i32>() as f32;
        same("sum", target, &card.get::<f32>(sum, 1), &[want]);
        let want: Vec<u64> = (0..8)
            .map(|k| p.iter().filter(|p| *p & 7 == k).map(|&p| (p as u64) << 8).max().unwrap())
            .collect();
        same("most", target, &card.get::<u64>(most, 8), &want);
        let mut want = [0; 16];
        p.iter().for_each(|p| want[(p & 15) as usize] += (*p as u64) << 20);
        same("wide", target, &card.get::<u64>(wide, 16), &want);
    }
}

#[test]
fn inference_kernels() {
    let mut random = Random(8);
    let (rows, blocks) = (3, 40);
    let weights: Vec<u8> = (0..rows * blocks)
        .flat_map(|_| {
            let scale = f16::from_f32(random.unit()).to_le_bytes();
            scale.into_iter().chain((0..32).map(|_| random.bits() as u8)).collect::<Vec<_>>()
        })
        .collect();
    let x: Vec<i8> = (0..32 * blocks).map(|_| random.bits() as i8).collect();
    let scales: Vec<f32> = (0..blocks).map(|_| random.unit()).collect();
    let (heads, n) = (2, 150);
    let query: Vec<f32> = (0..heads * 128).map(|_| random.unit()).collect();
    let mut half = |count: usize| (0..count).map(|_| f16::from_f32(random.unit())).collect::<Vec<_>>();
    let (keys, values) = (half(n * 128), half(n * 128));
    let candidates: Vec<f32> = (0..2048).map(|_| random.unit()).collect();
    let ints: Vec<i32> = (0..N).map(|_| random.bits() as i32).collect();
    for target in TARGETS {
        let mut card = Card::new(target);
        let (out, w, a, s) = (card.room::<f32>(rows), card.put(&weights), card.put(&x), card.put(&scales));
        card.run(
            "dot_q8",
            rows,
            256,
            &[Address(out), Address(w), Address(a), Address(s), Int(blocks as i32)],
        );
        for (row, got) in card.get::<f32>(out, rows).into_iter().enumerate() {
            let want: f64 = (0..blocks)
                .map(|b| {
                    let block = &weights[(row * blocks + b) * 34..][..34];
                    let dot: i32 = (0..32).map(|k| block[2 + k] as i8 as i32 * x[32 * b + k] as i32).sum();
                    f16::from_le_bytes([block[0], block[1]]).to_f64() * scales[b] as f64 * dot as f64
                })
                .sum();
            assert!((got as f64 - want).abs() < 0.1, "{target}: row {row} is {got} instead of {want}");
        }

        let (out, q) = (card.room::<f32>(heads * 128), card.put(&query));
        let (k, v) = (card.put(&keys), card.put(&values));
        let args = [Address(out), Address(q), Address(k), Address(v), Int(n as i32), Float(0.088)];
        card.run("attention", heads, 64, &args);
        let got = card.get::<f32>(out, heads * 128);
        for head in 0..heads {
            let q = &query[head * 128..][..128];
            let score =
                |t: usize| (0..128).map(|d| q[d] as f64 * keys[t * 128 + d].to_f64()).sum::<f64>() * 0.088;
            let weights: Vec<f64> = (0..n).map(|t| score(t).exp()).collect();
            let total: f64 = weights.iter().sum();
            for d in 0..128 {
                let want = (0..n).map(|t| weights[t] * values[t * 128 + d].to_f64()).sum::<f64>() / total;
                let got = got[head * 128 + d] as f64;
                assert!((got - want).abs() < 1e-5, "{target}: head {head}, {d} is {got} instead of {want}");
            }
        }

        let (out, index, a) = (card.room::<f32>(5 * 256), card.room::<i32>(5 * 256), card.put(&candidates));
        card.run("largest", 1, 256, &[Address(out), Address(index), Address(a), Int(5)]);
        let (got, got_index) = (card.get::<f32>(out, 5 * 256), card.get::<i32>(index, 5 * 256));
        for thread in 0..256 {
            let mut own: Vec<(f32, i32)> = (0..8).map(|j| (candidates[j * 256 + thread], j as i32)).collect();
            own.sort_by(|a, b| b.0.total_cmp(&a.0));
            let got: Vec<_> = (0..5).map(|k| (got[k * 256 + thread], got_index[k * 256 + thread])).collect();
            assert_eq!(got, own[..5], "{target}: thread {thread}");
        }

        let (out, a) = (card.room::<i32>(N), card.put(&ints));
        card.run("lookup", N.div_ceil(256), 256, &[Address(out), Address(a), Int(N as i32)]);
        let table = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
        let want = ints.iter().map(|i| table[(i & 15) as usize] * table[N & 15]).collect::<Vec<i32>>();
        same("looked up", target, &card.get::<i32>(out, N), &want);
    }
}

#[test]
fn what_is_wrong_stops_the_kernel() {
    for target in TARGETS {
        let mut card = Card::new(target);
        let out = card.room::<f32>(256);
        let stop = card.launch("reads_unwritten", [1, 1], [256, 1], &[Address(out)]).unwrap_err();
        assert_eq!(stop.fault, Fault::UnwrittenRegister { register: "v77".into() }, "{target}");
        assert_eq!(stop.lane, Some(0));
        assert!(stop.instruction.starts_with("v_add_f32"), "{stop}");
        let zero = card.put(&[0i32]);
        let stop = card.launch("runs_forever", [1, 1], [256, 1], &[Address(zero)]).unwrap_err();
        assert!(matches!(stop.fault, Fault::Endless { .. }), "{target}: {stop}");
    }
}
