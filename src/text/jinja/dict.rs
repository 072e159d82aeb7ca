//! Python's dict: entries in the order of insertion, found by equal keys (1, 1.0 and True are one).

use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::rc::Rc;
use std::sync::LazyLock;

use hashbrown::HashTable;

use super::fault::{Result, type_error};
use super::meter::{Charge, Rt, no_memory};
use super::number;
use super::value::{Value, nested};

/// Entries up to which a search goes through all.
const SMALL: usize = 8;

pub(super) struct Dict {
    entries: Vec<(Value, Value)>,
    /// Hashes and indices of the entries; empty while the dict is small.
    index: HashTable<(u64, usize)>,
    depth: u32,
    _charge: Charge,
}

/// A dict that is being filled.
pub(super) struct DictBuilder {
    dict: Dict,
}

static HASH: LazyLock<RandomState> = LazyLock::new(RandomState::new);

fn hash_str(text: &str) -> u64 {
    HASH.hash_one(text)
}

/// Python's hash(): equal keys have equal hashes.
fn hash(rt: &Rt, key: &Value) -> Result<u64> {
    rt.deeper()?;
    Ok(match key {
        Value::Str(text) => {
            rt.work(text.len())?;
            hash_str(text.as_str())
        }
        Value::Undefined(_) => 1,
        Value::None => 2,
        Value::Tuple(list) => {
            let mut hasher = HASH.build_hasher();
            for item in &list.items {
                hash(rt, item)?.hash(&mut hasher);
            }
            hasher.finish()
        }
        Value::List(_) | Value::Dict(_) | Value::View(_) => {
            return Err(type_error(format!("unhashable type: '{}'", key.type_name())));
        }
        _ => match (number::to_i64_exactly(key), key) {
            (Some(integer), _) => HASH.hash_one(integer),
            (None, Value::Float(float)) => HASH.hash_one(float.to_bits()),
            (None, Value::Big(big)) => match number::to_f64_exactly(big) {
                Some(float) => HASH.hash_one(float.to_bits()),
                None => HASH.hash_one(&**big),
            },
            _ => 3,
        },
    })
}

impl Dict {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn depth(&self) -> u32 {
        self.depth
    }

    pub fn entry(&self, at: usize) -> Option<&(Value, Value)> {
        self.entries.get(at)
    }

    pub fn entries(&self) -> &[(Value, Value)] {
        &self.entries
    }

    pub fn get_str(&self, key: &str) -> Option<&Value> {
        let is = |at: usize| matches!(&self.entries[at].0, Value::Str(other) if other.as_str() == key);
        let at = if self.index.is_empty() {
            (0..self.entries.len()).find(|&at| is(at))
        } else {
            self.index.find(hash_str(key), |&(_, at)| is(at)).map(|&(_, at)| at)
        };
        at.map(|at| &self.entries[at].1)
    }

    fn find(&self, rt: &Rt, key: &Value, hash: u64) -> Result<Option<usize>> {
        let is = |at: usize| -> Result<bool> {
            let other = &self.entries[at].0;
            Ok(other.same(key) || other.equals(rt, key)?)
        };
        if self.index.is_empty() {
            for at in 0..self.entries.len() {
                if is(at)? {
                    return Ok(Some(at));
                }
            }
            return Ok(None);
        }
        let mut result = Ok(());
        let found = self.index.find(hash, |&(other, at)| {
            other == hash
                && is(at).unwrap_or_else(|error| {
                    result = Err(error);
                    true
                })
        });
        result.map(|()| found.map(|&(_, at)| at))
    }

    /// # Errors
    /// The key cannot be hashed.
    pub fn get(&self, rt: &Rt, key: &Value) -> Result<Option<&Value>> {
        if let Value::Str(text) = key {
            rt.work(text.len())?;
            return Ok(self.get_str(text.as_str()));
        }
        let hash = hash(rt, key)?;
        Ok(self.find(rt, key, hash)?.map(|at| &self.entries[at].1))
    }

    pub fn equals(&self, rt: &Rt, other: &Dict) -> Result<bool> {
        if self.len() != other.len() {
            return Ok(false);
        }
        for (key, value) in &self.entries {
            match other.get(rt, key)? {
                Some(found) if value.same(found) || value.equals(rt, found)? => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }
}

impl DictBuilder {
    pub fn new(rt: &Rt) -> Result<Self> {
        let charge = rt.charge(size_of::<Dict>())?;
        Ok(Self { dict: Dict { entries: Vec::new(), index: HashTable::new(), depth: 0, _charge: charge } })
    }

    /// As `dict[key] = value`: a key that is there stays where it is. Gives whether it was not.
    pub fn insert(&mut self, rt: &Rt, key: Value, value: Value) -> Result<bool> {
        let dict = &mut self.dict;
        dict.depth = dict.depth.max(key.depth()).max(value.depth());
        let key_hash = hash(rt, &key)?;
        if let Some(at) = dict.find(rt, &key, key_hash)? {
            dict.entries[at].1 = value;
            return Ok(false);
        }
        if dict.entries.len() == dict.entries.capacity() {
            let more = dict.entries.len().max(4);
            dict._charge.grow(more * (size_of::<(Value, Value)>() + 4 * size_of::<usize>()))?;
            dict.entries.try_reserve_exact(more).map_err(|_| no_memory(more))?;
        }
        dict.entries.push((key, value));
        let len = dict.entries.len();
        if len > SMALL {
            let from = if dict.index.is_empty() { 0 } else { len - 1 };
            for at in from..len {
                let at_hash = if at == len - 1 { key_hash } else { hash(rt, &dict.entries[at].0)? };
                dict.index.try_reserve(1, |&(hash, _)| hash).map_err(|_| no_memory(len))?;
                dict.index.insert_unique(at_hash, (at_hash, at), |&(hash, _)| hash);
            }
        }
        Ok(true)
    }

    pub fn finish(self) -> Result<Rc<Dict>> {
        let mut dict = self.dict;
        dict.depth = nested(dict.depth)?;
        Ok(Rc::new(dict))
    }
}
