//! The template engine against Python's jinja2, set up as Hugging Face transformers does (tests/data/jinja/make.py).

use crate::common;

use std::fmt::Write as _;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use rocmforge::text::jinja;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

/// Cases that differ and stay so: name and reason.
const DIFFERENCES: &[(&str, &str)] = &[
    ("str replace format translate 29", BYTES),
    ("str other 17", "names of characters need Unicode's table of names; refused with a message"),
    ("autoescape and others 1", AUTOESCAPE),
    ("autoescape and others 2", AUTOESCAPE),
    ("autoescape and others 3", AUTOESCAPE),
    ("infinities 3", INFINITY),
    ("infinities 9", INFINITY),
];
const BYTES: &str = "str.encode() makes bytes, for which a prompt has no use; refused with a message";
const AUTOESCAPE: &str = "autoescape is for HTML; refused with a message";
const INFINITY: &str =
    "jinja2 writes an infinite constant into its Python code as the name inf, which is not defined";

/// What the engine makes of a template at the time that make.py fixes.
fn render(source: &str, context: &Json) -> Result<String, String> {
    catch_unwind(|| jinja::render(source, context, Some(clock())).map_err(|err| err.to_string()))
        .unwrap_or_else(|_| Err(PANICKED.to_owned()))
}

const PANICKED: &str = "it panicked";

fn clock() -> chrono::NaiveDateTime {
    let date = chrono::NaiveDate::from_ymd_opt(2026, 3, 5).unwrap();
    date.and_hms_micro_opt(7, 8, 9, 12345).unwrap()
}

/// A line of cases.jsonl.
#[derive(serde::Deserialize)]
struct Case {
    name: String,
    template: String,
    #[serde(default = "no_variables")]
    context: Json,
    #[serde(flatten)]
    expected: Expected,
}

fn no_variables() -> Json {
    Json::Object(Default::default())
}

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Expected {
    Text(String),
    /// The template itself calls raise_exception with this message.
    Raised(String),
    /// Python's error, whose wording is not ours.
    Error(serde::de::IgnoredAny),
}

impl Expected {
    fn holds(&self, got: &Result<String, String>) -> bool {
        match (self, got) {
            (Self::Text(wanted), Ok(got)) => wanted == got,
            (Self::Raised(message), Err(got)) => got.contains(message.as_str()),
            (Self::Error(_), Err(got)) => !got.is_empty() && got != PANICKED,
            _ => false,
        }
    }
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/jinja").join(name)
}

fn lines<T: serde::de::DeserializeOwned>(name: &str) -> Vec<T> {
    let text = fs::read_to_string(data(name)).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|err| panic!("{err}: {line}")))
        .collect()
}

#[test]
fn cases_are_jinja2s() {
    let cases: Vec<Case> = lines("cases.jsonl");
    assert!(cases.len() >= 500, "{} cases only", cases.len());
    let mut report = String::new();
    let mut wrong = 0;
    for case in &cases {
        let got = render(&case.template, &case.context);
        let holds = case.expected.holds(&got);
        let listed = DIFFERENCES.iter().any(|&(name, _)| name == case.name);
        if holds == listed {
            wrong += 1;
            let why = if listed { " is listed as different but equal" } else { "" };
            let _ = writeln!(
                report,
                "{}{why}\n    template {:?}\n    expected {:?}\n    got      {got:?}",
                case.name, case.template, case.expected
            );
            if let (Expected::Text(wanted), Ok(got)) = (&case.expected, &got) {
                let (wanted, got) = from_first_difference(wanted, got);
                let _ = writeln!(report, "    from the first difference: {wanted:?}, got {got:?}");
            }
        }
    }
    for (name, _) in DIFFERENCES {
        assert!(cases.iter().any(|case| case.name == *name), "no case is named {name:?}");
    }
    assert!(wrong == 0, "{report}{wrong} of {} cases differ", cases.len());
}

/// At most 60 characters of each, from where they part.
fn from_first_difference(a: &str, b: &str) -> (String, String) {
    let equal = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count();
    let rest = |text: &str| text.chars().skip(equal).take(60).collect();
    (rest(a), rest(b))
}

#[derive(serde::Deserialize)]
struct Conversation {
    name: String,
    context: Json,
}

/// A line of templates.jsonl.
#[derive(serde::Deserialize)]
struct Outcomes {
    template: String,
    expected: Vec<String>,
}

/// As make.py writes it: the text's bytes and hash, or `raised: ` and the message, or `error`.
fn same(expected: &str, got: &Result<String, String>) -> bool {
    match got {
        Ok(text) => {
            let hash = Sha256::digest(text.as_bytes());
            let start: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
            expected == format!("{} {start}", text.len())
        }
        Err(error) if error.is_empty() || error == PANICKED => false,
        Err(error) => match expected.strip_prefix("raised: ") {
            Some(message) => error.contains(message),
            None => expected == "error",
        },
    }
}

#[test]
fn templates_of_the_peer_are_jinja2s() {
    let folder = common::models::templates();
    let conversations: Vec<Conversation> =
        serde_json::from_slice(&fs::read(data("conversations.json")).unwrap()).unwrap();
    let templates: Vec<Outcomes> = lines("templates.jsonl");
    assert!(templates.len() >= 70 && conversations.len() >= 16, "{} templates only", templates.len());
    let mut report = String::new();
    let (mut wrong, mut all) = (0, 0);
    for Outcomes { template, expected } in &templates {
        let source = fs::read_to_string(folder.join(format!("{template}.jinja"))).unwrap();
        assert_eq!(expected.len(), conversations.len(), "{template}");
        for (conversation, expected) in conversations.iter().zip(expected) {
            let got = render(&source, &conversation.context);
            all += 1;
            if !same(expected, &got) {
                wrong += 1;
                let _ = writeln!(
                    report,
                    "make.py --show {template} {}\n    expected {expected}",
                    conversation.name
                );
                match got {
                    Ok(text) => {
                        let _ = writeln!(report, "    got {} bytes:", text.len());
                        text.lines().take(5).for_each(|line| {
                            let _ = writeln!(report, "        {line:.200}");
                        });
                    }
                    Err(error) => {
                        let _ = writeln!(report, "    got the error: {error}");
                    }
                }
            }
        }
    }
    assert!(wrong == 0, "{report}{wrong} of {all} texts differ");
}
