//! Matrix instructions as pure functions of register blocks: a block is `[register][lane]`.
//!
//! Hardware's order of summation and its intermediate roundings are not published. Here products and sums
//! are taken in f64 in order of ascending k, starting from C, and rounded once (to nearest even) to the
//! output's format: closer to the true sum than hardware, so a kernel's tolerance has to cover the difference.
//! Integer sums are exact, then wrapped, or saturated where the instruction asks for it.

pub mod element;
pub mod mfma;
pub mod wmma;

pub type Lanes = [u32; 64];

/// `acc[i][j] += sum over k of a[i][k] * b[k][j]`, all row-major.
fn multiply_f64(n: usize, k: usize, a: &[f64], b: &[f64], acc: &mut [f64]) {
    for (row, acc) in a.chunks_exact(k).zip(acc.chunks_exact_mut(n)) {
        for (&x, b) in row.iter().zip(b.chunks_exact(n)) {
            for (sum, &y) in acc.iter_mut().zip(b) {
                *sum += x * y;
            }
        }
    }
}

/// The same in integers: at most 32 products of two bytes and no C, which cannot overflow.
fn multiply_i32(n: usize, k: usize, a: &[i32], b: &[i32], acc: &mut [i32]) {
    for (row, acc) in a.chunks_exact(k).zip(acc.chunks_exact_mut(n)) {
        for (&x, b) in row.iter().zip(b.chunks_exact(n)) {
            for (sum, &y) in acc.iter_mut().zip(b) {
                *sum += x * y;
            }
        }
    }
}

/// `c + products`, wrapped or saturated to 32 bits.
fn accumulate_i32(c: i32, products: i32, clamp: bool) -> i32 {
    if clamp { c.saturating_add(products) } else { c.wrapping_add(products) }
}
