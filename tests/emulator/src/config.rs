//! What the environment asks for.

use std::env;
use std::path::PathBuf;
use std::thread;

use crate::card::{CARDS, Card};
use crate::launch::Options;

/// Variables are named ROCMFORGE_EMULATOR_ and one of these.
#[derive(Clone, Debug)]
pub struct Config {
    /// CARD: targets, one device each; the default is one gfx1100, "none" is no device.
    pub cards: Vec<Card>,
    /// VERSION: what hipRuntimeGetVersion tells.
    pub version: i32,
    /// FAIL: calls that fail, see [`Order`].
    pub fail: Vec<Order>,
    /// SCHEDULE: lazy (the default) does asynchronous work when something waits for it; eager, at once.
    pub lazy: bool,
    /// LOG: the file to which reports of stopped kernels are appended, instead of stderr.
    pub log: Option<PathBuf>,
    /// COUNTERS: the file to which each launch's counters are appended.
    pub counters: Option<PathBuf>,
    /// THREADS, LIMIT, READS.
    pub options: Options,
}

/// An order to fail: `[NAME:]N[+]:CODE`, the N-th call (of that function; from then on, with +) returns CODE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub name: Option<String>,
    pub n: u64,
    pub from_then_on: bool,
    pub code: i32,
}

impl Order {
    pub fn parse(text: &str) -> Result<Order, String> {
        let wrong = || format!("{text:?} is no [NAME:]N[+]:CODE");
        let (rest, code) = text.trim().rsplit_once(':').ok_or_else(wrong)?;
        let (name, n) = match rest.rsplit_once(':') {
            Some((name, n)) => (Some(name.to_owned()), n),
            None => (None, rest),
        };
        let (n, from_then_on) = n.strip_suffix('+').map_or((n, false), |n| (n, true));
        Ok(Order {
            name,
            n: n.parse().map_err(|_| wrong())?,
            from_then_on,
            code: code.parse().map_err(|_| wrong())?,
        })
    }

    /// Orders with commas between them.
    pub fn parse_all(text: &str) -> Result<Vec<Order>, String> {
        text.split(',').filter(|order| !order.trim().is_empty()).map(Order::parse).collect()
    }

    /// `calls` counts this call too: of all functions, of this one.
    pub fn hits(&self, name: &str, calls: u64, calls_of_it: u64) -> bool {
        let n = match &self.name {
            None => calls,
            Some(of) if of == name => calls_of_it,
            Some(_) => return false,
        };
        n == self.n || self.from_then_on && n > self.n
    }
}

impl Config {
    /// `settings` are lines KEY=VALUE; what they leave out, the environment says.
    pub fn read(settings: &str) -> Result<Config, String> {
        let pairs: Vec<_> = settings
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(|line| line.split_once('=').ok_or_else(|| format!("{line:?} is no KEY=VALUE")))
            .collect::<Result<_, _>>()?;
        const KEYS: [&str; 10] =
            ["CARD", "MEMORY", "VERSION", "FAIL", "SCHEDULE", "LOG", "COUNTERS", "READS", "THREADS", "LIMIT"];
        if let Some((key, _)) = pairs.iter().find(|(key, _)| !KEYS.contains(&key.trim())) {
            return Err(format!("no setting {key}; there are {}", KEYS.join(", ")));
        }
        let get = |key: &str| {
            let given = pairs.iter().find(|(k, _)| k.trim() == key).map(|(_, value)| value.trim().to_owned());
            given.or_else(|| env::var(format!("ROCMFORGE_EMULATOR_{key}")).ok()).filter(|v| !v.is_empty())
        };
        fn number<T: std::str::FromStr>(key: &str, value: Option<String>, default: T) -> Result<T, String> {
            match value {
                None => Ok(default),
                Some(text) => text.parse().map_err(|_| format!("{key}: {text:?} is no number")),
            }
        }
        let memory = get("MEMORY").map(|text| bytes(&text)).transpose()?;
        let targets = get("CARD").unwrap_or_else(|| "gfx1100".into());
        let targets = targets.split(',').map(str::trim).filter(|target| *target != "none");
        let cards = targets.map(|target| {
            let mut card = Card::find(target).ok_or_else(|| {
                let known: Vec<_> = CARDS.iter().map(|card| card.target).collect();
                format!("no card {target}; there are {}", known.join(", "))
            })?;
            card.memory = memory.unwrap_or(card.memory);
            Ok(card)
        });
        Ok(Config {
            cards: cards.collect::<Result<_, String>>()?,
            version: number("VERSION", get("VERSION"), 60_342_131)?,
            fail: Order::parse_all(&get("FAIL").unwrap_or_default())?,
            lazy: match get("SCHEDULE").as_deref() {
                None | Some("lazy") => true,
                Some("eager") => false,
                Some(other) => return Err(format!("SCHEDULE: {other:?} is neither lazy nor eager")),
            },
            log: get("LOG").map(PathBuf::from),
            counters: get("COUNTERS").map(PathBuf::from),
            options: Options {
                threads: number(
                    "THREADS",
                    get("THREADS"),
                    thread::available_parallelism().map_or(1, usize::from),
                )?,
                limit: number("LIMIT", get("LIMIT"), 1 << 30)?,
                reads: match get("READS").as_deref() {
                    None | Some("0") => false,
                    Some("1") => true,
                    Some(other) => return Err(format!("READS: {other:?} is neither 0 nor 1")),
                },
            },
        })
    }
}

/// "512M": bytes, with K, M or G for powers of 1024.
fn bytes(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: Option<u64> = digits.parse().ok();
    number.and_then(|n| n.checked_mul(1 << shift)).ok_or_else(|| format!("MEMORY: {text:?} is no size"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_to_fail() {
        let order = |name: Option<&str>, n, from_then_on, code| Order {
            name: name.map(str::to_owned),
            n,
            from_then_on,
            code,
        };
        assert_eq!(
            Order::parse_all("7:999, hipMalloc:2:2,hipFree:1+:100").unwrap(),
            [
                order(None, 7, false, 999),
                order(Some("hipMalloc"), 2, false, 2),
                order(Some("hipFree"), 1, true, 100)
            ]
        );
        assert!(order(None, 7, false, 1).hits("hipFree", 7, 1));
        assert!(!order(None, 7, false, 1).hits("hipFree", 8, 7));
        assert!(order(Some("hipFree"), 2, true, 1).hits("hipFree", 9, 3));
        assert!(!order(Some("hipFree"), 2, true, 1).hits("hipMalloc", 9, 2));
        for wrong in ["", "7", "x:1", "hipMalloc:1", "hipMalloc:1:x"] {
            assert!(Order::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn settings() {
        let config = Config::read("CARD=gfx1201,gfx1103\nMEMORY=3M\nSCHEDULE=eager\n").unwrap();
        assert_eq!(config.cards.iter().map(|c| c.target).collect::<Vec<_>>(), ["gfx1201", "gfx1103"]);
        assert_eq!(config.cards[0].memory, 3 << 20);
        assert!(!config.lazy);
        assert!(Config::read("CARD=none").unwrap().cards.is_empty());
        for wrong in ["CARD=gfx1", "COLOUR=red", "CARD", "MEMORY=much", "SCHEDULE=never", "READS=all"] {
            assert!(Config::read(wrong).is_err(), "{wrong}");
        }
    }
}
