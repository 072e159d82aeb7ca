//! Hyper-parameters as a file states them: the keys `{arch}.{name}`, typed and checked.

use crate::gguf::{Array, Metadata, Value};
use crate::{Error, Result, memory};

/// Largest value accepted for any dimension-like key: far above every model there is, far below
/// what could overflow a product of three of them in u64.
const MAX_DIM: u64 = 1 << 20;
/// The same for context lengths, in positions.
const MAX_CONTEXT: u64 = 1 << 31;

/// Reads `{arch}.{name}` keys.
#[derive(Clone, Copy)]
pub struct Keys<'a> {
    meta: &'a Metadata,
    arch: &'a str,
}

impl<'a> Keys<'a> {
    pub fn new(meta: &'a Metadata, arch: &'a str) -> Self {
        Keys { meta, arch }
    }

    pub fn arch(&self) -> &'a str {
        self.arch
    }

    /// The key in full.
    pub fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.arch)
    }

    fn missing(&self, name: &str) -> Error {
        Error::model(format!("the key {} is missing", self.key(name)))
    }

    /// A count of `least` to `most`.
    fn count(&self, name: &str, least: u64, most: u64) -> Result<Option<usize>> {
        let key = self.key(name);
        match self.meta.u64(&key)? {
            None => Ok(None),
            Some(v) => within(&key, v, least, most).map(Some),
        }
    }

    /// A dimension: 1 to 2^20.
    pub fn dim(&self, name: &str) -> Result<usize> {
        self.find_dim(name)?.ok_or_else(|| self.missing(name))
    }

    /// A dimension that the file may leave out.
    pub fn find_dim(&self, name: &str) -> Result<Option<usize>> {
        self.count(name, 1, MAX_DIM)
    }

    /// A count that may be 0, which is what a file says that leaves it out.
    pub fn number(&self, name: &str) -> Result<usize> {
        Ok(self.count(name, 0, MAX_DIM)?.unwrap_or(0))
    }

    /// A count; `default` where the file says 0 or leaves it out.
    pub fn number_or(&self, name: &str, default: usize) -> Result<usize> {
        Ok(match self.number(name)? {
            0 => default,
            n => n,
        })
    }

    /// One value for each of `n` layers: the file has one for all, or an array of exactly `n`. `least` is 0 or 1.
    pub fn find_per_layer(&self, name: &str, n: usize, least: u64) -> Result<Option<Vec<usize>>> {
        let key = self.key(name);
        let Some(Value::Array(array)) = self.meta.get(&key) else {
            return match self.count(name, least, MAX_DIM)? {
                Some(value) => Ok(Some(memory::filled(value, n, "hyper-parameters")?)),
                None => Ok(None),
            };
        };
        let values = integers(array).ok_or_else(|| Error::model(format!("{key} holds no whole numbers")))?;
        if values.len() != n {
            return Err(Error::model(format!("{key} has {} values for {n} layers", values.len())));
        }
        let each = values.into_iter().map(|v| match u64::try_from(v) {
            Ok(v) => within(&key, v, least, MAX_DIM),
            Err(_) => Err(Error::model(format!("{key} holds the negative count {v}"))),
        });
        memory::try_collect(each, "hyper-parameters").map(Some)
    }

    pub fn per_layer(&self, name: &str, n: usize, least: u64) -> Result<Vec<usize>> {
        self.find_per_layer(name, n, least)?.ok_or_else(|| self.missing(name))
    }

    /// Numbers of `n` layers: the file has one for all, or an array of exactly `n`.
    pub fn floats(&self, name: &str, n: usize) -> Result<Vec<f32>> {
        let key = self.key(name);
        let floats = match self.meta.get(&key) {
            Some(Value::Array(Array::F32(values))) => {
                memory::collect(values.iter().copied(), "hyper-parameters")
            }
            _ => memory::filled(self.float(name)?, n, "hyper-parameters"),
        }?;
        match floats.len() == n {
            true => Ok(floats),
            false => Err(Error::model(format!("{key} has {} values for {n} layers", floats.len()))),
        }
    }

    pub fn context_length(&self) -> Result<usize> {
        Ok(self.count("context_length", 1, MAX_CONTEXT)?.unwrap_or(2048))
    }

    /// A number of positions, 1 and more.
    pub fn find_positions(&self, name: &str) -> Result<Option<usize>> {
        self.count(name, 1, MAX_CONTEXT)
    }

    /// A number of positions that may be 0, which the file may leave out.
    pub fn positions_or(&self, name: &str, default: usize) -> Result<usize> {
        Ok(self.count(name, 0, MAX_CONTEXT)?.unwrap_or(default))
    }

    pub fn find_float(&self, name: &str) -> Result<Option<f32>> {
        self.meta.f32(&self.key(name))
    }

    pub fn float(&self, name: &str) -> Result<f32> {
        self.find_float(name)?.ok_or_else(|| self.missing(name))
    }

    pub fn float_or(&self, name: &str, default: f32) -> Result<f32> {
        Ok(self.find_float(name)?.unwrap_or(default))
    }

    /// A number above 0.
    pub fn positive(&self, name: &str) -> Result<f32> {
        self.positive_or(name, self.float(name)?)
    }

    /// A number above 0 that the file may leave out.
    pub fn positive_or(&self, name: &str, default: f32) -> Result<f32> {
        let value = self.float_or(name, default)?;
        if !(value.is_finite() && value > 0.0) {
            return Err(Error::model(format!("{} is {value}", self.key(name))));
        }
        Ok(value)
    }

    /// Whether each of `n` layers is of a kind: the file has an array of as many flags, or a period p, of which all
    /// layers but the last are (0: every layer is; 1: none).
    pub fn pattern(&self, name: &str, n: usize, period: u64) -> Result<Vec<bool>> {
        self.pattern_but(name, n, period, |period| period - 1)
    }

    /// The same of a period of which all layers but the first are.
    pub fn pattern_but_first(&self, name: &str, n: usize, period: u64) -> Result<Vec<bool>> {
        self.pattern_but(name, n, period, |_| 0)
    }

    /// Of all layers of a period but that of the number that `but` says.
    fn pattern_but(&self, name: &str, n: usize, period: u64, but: fn(u64) -> u64) -> Result<Vec<bool>> {
        if let Some(flags) = self.find_flags(name, n)? {
            return Ok(flags);
        }
        let period = self.meta.u64(&self.key(name))?.unwrap_or(period);
        let is = |layer: u64| period == 0 || layer % period != but(period);
        memory::collect((0..n as u64).map(is), "hyper-parameters")
    }

    /// An array of `n` flags.
    pub fn flags(&self, name: &str, n: usize) -> Result<Vec<bool>> {
        self.find_flags(name, n)?.ok_or_else(|| Error::model(format!("{} is no array", self.key(name))))
    }

    pub fn find_flags(&self, name: &str, n: usize) -> Result<Option<Vec<bool>>> {
        let key = self.key(name);
        let flags: Vec<bool> = match self.meta.get(&key) {
            Some(Value::Array(Array::Bool(flags))) => {
                memory::collect(flags.iter().copied(), "hyper-parameters")?
            }
            Some(Value::Array(array)) => {
                let numbers = integers(array);
                let numbers = numbers.ok_or_else(|| Error::model(format!("{key} holds no whole numbers")))?;
                memory::collect(numbers.into_iter().map(|n| n != 0), "hyper-parameters")?
            }
            _ => return Ok(None),
        };
        match flags.len() == n {
            true => Ok(Some(flags)),
            false => Err(Error::model(format!("{key} has {} values for {n} layers", flags.len()))),
        }
    }

    pub fn bool(&self, name: &str) -> Result<bool> {
        self.meta.bool(&self.key(name))?.ok_or_else(|| self.missing(name))
    }

    pub fn bool_or(&self, name: &str, default: bool) -> Result<bool> {
        Ok(self.meta.bool(&self.key(name))?.unwrap_or(default))
    }

    pub fn str(&self, name: &str) -> Result<Option<&'a str>> {
        self.meta.str(&self.key(name))
    }

    /// A norm's addend under the root: 0 to 1, without 1.
    pub fn epsilon(&self, name: &str) -> Result<f32> {
        let eps = self.float(name)?;
        if !(0.0..1.0).contains(&eps) {
            return Err(Error::model(format!("{} is {eps}", self.key(name))));
        }
        Ok(eps)
    }
}

fn within(key: &str, value: u64, least: u64, most: u64) -> Result<usize> {
    if !(least..=most).contains(&value) {
        return Err(Error::model(format!("{key} is {value}; it must be {least} to {most}")));
    }
    Ok(value as usize)
}

fn integers(array: &Array) -> Option<Vec<i128>> {
    fn of<T: Copy + Into<i128>>(values: &[T]) -> Option<Vec<i128>> {
        memory::collect(values.iter().map(|v| (*v).into()), "hyper-parameters").ok()
    }
    match array {
        Array::U32(v) => of(v),
        Array::I32(v) => of(v),
        Array::U64(v) => of(v),
        Array::I64(v) => of(v),
        _ => None,
    }
}
