//! Cutting text into the words that byte-pair encoding works on, as `tokenizer.ggml.pre` names it.
//!
//! Each row of [`ROWS`] gives the names and the steps. A step cuts each piece that the steps before it left: every
//! match becomes a piece, and so does the text between matches; no step sees past its piece's ends. The expressions
//! say what llama.cpp does where that differs from the model's own `tokenizer.json`: there, Lu, Ll and their kin
//! are all letters, and numbers are grouped as in [`Step::Thousands`].

use std::sync::{Mutex, OnceLock, PoisonError};

use regex_automata::Input;
use regex_automata::meta::{Cache, Regex};
use regex_automata::util::iter::Searcher;

use crate::gguf::Short;
use crate::{Error, Result, memory};

/// How one family of vocabularies cuts and spells text.
#[derive(Debug)]
pub(super) struct Row {
    names: &'static [&'static str],
    steps: &'static [Step],
    /// Words are spelled in [`super::byte_chars`]; otherwise in UTF-8, with tokens such as <0x0A> for lone bytes.
    pub byte_level: bool,
    /// Spaces become U+2581 first.
    pub escape_spaces: bool,
    /// A word that is a token is taken whole, whatever the merges say.
    pub ignore_merges: bool,
    /// The same for words of newlines only.
    pub whole_newlines: bool,
    /// BOS is added unless the file says otherwise.
    pub add_bos: bool,
    /// BOS is added whatever the file says.
    pub force_bos: bool,
    /// There is no BOS unless the file names one.
    pub no_default_bos: bool,
}

#[derive(Debug)]
enum Step {
    Regex(&'static str),
    /// Matches of an expression, and the runs of whitespace between them. A run leaves its last character to what
    /// follows: that is how `|\s+(?!\S)|\s+` ends the models' own expressions.
    Words(&'static str),
    /// The same with each run cut into pieces of the longest of these lengths, in characters, that fits.
    WordsAndRuns(&'static str, &'static [usize]),
    /// Runs of newlines, and what lies between them.
    Lines,
    /// Cuts runs of digits into threes counted from the right. `ascii`: only 0 to 9 are digits, and a run is cut
    /// off from what stands before it when it divides by three. Otherwise a run's first group keeps what stands
    /// before it, and the last is cut off from what follows.
    Thousands {
        ascii: bool,
    },
}

const BYTE_LEVEL: Row = Row {
    names: &[],
    steps: &[],
    byte_level: true,
    escape_spaces: false,
    ignore_merges: false,
    whole_newlines: false,
    add_bos: false,
    force_bos: false,
    no_default_bos: false,
};

/// English contractions in either case.
macro_rules! contraction {
    () => {
        "'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])"
    };
}
/// The usual end of an expression of words: newlines with the spaces before them.
macro_rules! newlines {
    () => {
        r"|\s*[\r\n]+"
    };
}
/// Llama 3's expression; the argument matches numbers.
macro_rules! llama3 {
    ($number:literal) => {
        concat!(
            contraction!(),
            r"|[^\r\n\p{L}\p{N}]?\p{L}+|",
            $number,
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*",
            newlines!()
        )
    };
}
/// GPT-4o's words: letters that are not a-z, then letters that are not A-Z; the argument matches what follows.
macro_rules! cased_words {
    ($letter:literal, $suffix:expr) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?[",
            $letter,
            "&&[^a-z]]*[",
            $letter,
            "&&[^A-Z]]+",
            $suffix,
            r"|[^\r\n\p{L}\p{N}]?[",
            $letter,
            "&&[^a-z]]+[",
            $letter,
            "&&[^A-Z]]*",
            $suffix
        )
    };
}
/// DeepSeek 3's words: a punctuation mark with the ASCII letters after it, or letters and marks with what precedes.
macro_rules! marked_words {
    () => {
        concat!(
            r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
            r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
        )
    };
}
macro_rules! han {
    () => {
        concat!(
            r"\u{4E00}-\u{9FFF}\u{3400}-\u{4DBF}\u{20000}-\u{2A6DF}\u{2A700}-\u{2B73F}\u{2B740}-\u{2B81F}",
            r"\u{2B820}-\u{2CEAF}\u{2CEB0}-\u{2EBEF}\u{F900}-\u{FAFF}\u{2F800}-\u{2FA1F}"
        )
    };
}

const DIGIT: Step = Step::Regex(r"\p{N}");
const THREE_DIGITS: Step = Step::Regex(r"\p{N}{1,3}");
const GPT2: Step = Step::Words(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+");
const LLAMA3: Step = Step::Words(llama3!(r"\p{N}{1,3}"));
const QWEN2: Step = Step::Words(llama3!(r"\p{N}"));
const GPT4O: Step = Step::Words(concat!(
    cased_words!(r"\p{L}", concat!("(?:", contraction!(), ")?")),
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*",
    newlines!()
));
const NO_STOPS: Step = Step::Regex(r" ?[^(\s|.,!?\u{2026}\u{3002}\u{FF0C}\u{3001}\u{964}\u{6D4}\u{60C})]+");
/// Chinese and Japanese.
const CJK: Step = Step::Regex(r"[\u{4E00}-\u{9FA5}\u{3040}-\u{309F}\u{30A0}-\u{30FF}]+");
/// Chinese, Japanese, Korean and all between U+0800 and U+4E00 that is no space.
const EAST: Step = Step::Regex(r"[[\u{800}-\u{9FA5}\u{AC00}-\u{D7FF}]&&\S]+");

/// DeepSeek LLM's list of letters with case.
const DEEPSEEK_LETTERS: Step = Step::Regex(concat!(
    r"\s?[A-Za-z\u{B5}\u{C0}-\u{D6}\u{D8}-\u{F6}\u{F8}-\u{1BA}\u{1BC}-\u{1BF}\u{1C4}-\u{293}\u{295}-\u{2AF}",
    r"\u{370}-\u{373}\u{376}\u{377}\u{37B}-\u{37D}\u{37F}\u{386}\u{388}-\u{38A}\u{38C}\u{38E}-\u{3A1}\u{3A3}-\u{3F5}",
    r"\u{3F7}-\u{481}\u{48A}-\u{52F}\u{531}-\u{556}\u{10A0}-\u{10C5}\u{13A0}-\u{13F5}\u{13F8}-\u{13FD}",
    r"\u{1C90}-\u{1CBA}\u{1CBD}-\u{1CBF}\u{1D00}-\u{1D2B}\u{1D6B}-\u{1D77}\u{1D79}-\u{1D9A}\u{1E00}-\u{1F15}",
    r"\u{1F18}-\u{1F1D}\u{1F20}-\u{1F45}\u{1F48}-\u{1F4D}\u{1F50}-\u{1F57}\u{1F59}\u{1F5B}\u{1F5D}\u{1F5F}-\u{1F7D}",
    r"\u{1F80}-\u{1FB4}\u{1FB6}-\u{1FBC}\u{1FBE}\u{1FC2}-\u{1FC4}\u{1FC6}-\u{1FCC}\u{1FD0}-\u{1FD3}",
    r"\u{1FD6}-\u{1FDB}\u{1FE0}-\u{1FEC}\u{1FF2}-\u{1FF4}\u{1FF6}-\u{1FFC}\u{2102}\u{2107}\u{210A}-\u{2113}\u{2115}",
    r"\u{2119}-\u{211D}\u{2124}\u{2126}\u{2128}\u{212A}-\u{212D}\u{212F}-\u{2134}\u{2139}\u{213C}-\u{213F}",
    r"\u{2145}-\u{2149}\u{214E}\u{2183}\u{2184}\u{2C00}-\u{2C7B}\u{2C7E}-\u{2CE4}\u{2CEB}-\u{2CEE}\u{2CF2}\u{2CF3}",
    r"\u{A640}-\u{A66D}\u{A680}-\u{A69B}\u{A722}-\u{A76F}\u{A771}-\u{A787}\u{A78B}-\u{A78E}\u{AB70}-\u{ABBF}",
    r"\u{FB00}-\u{FB06}\u{FB13}-\u{FB17}\u{FF21}-\u{FF3A}\u{FF41}-\u{FF5A}\u{10400}-\u{1044F}\u{104B0}-\u{104D3}",
    r"\u{104D8}-\u{104FB}\u{10C80}-\u{10CB2}\u{10CC0}-\u{10CF2}\u{118A0}-\u{118DF}\u{1E900}-\u{1E943}]+"
));

static ROWS: &[Row] = &[
    Row {
        names: &["default"],
        steps: &[
            Step::Regex(r"[\p{P}\$\+<=>\^~\|]+"),
            GPT2,
            Step::Regex(r"\p{N}+"),
            Step::Regex("[0-9][0-9][0-9]"),
        ],
        ..BYTE_LEVEL
    },
    Row {
        names: &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "gigachat",
            "jina-v2-es",
            "jina-v2-de",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
            "mpt",
            "olmo",
            "jais",
            "exaone4",
            "trillion",
            "granite-docling",
        ],
        steps: &[GPT2],
        ..BYTE_LEVEL
    },
    Row {
        names: &[
            "smollm",
            "starcoder",
            "refact",
            "command-r",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        steps: &[DIGIT, GPT2],
        ..BYTE_LEVEL
    },
    Row {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        steps: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
        ..BYTE_LEVEL
    },
    Row { names: &["dbrx", "smaug-bpe"], steps: &[LLAMA3], ..BYTE_LEVEL },
    Row { names: &["chatglm-bpe"], steps: &[LLAMA3], no_default_bos: true, ..BYTE_LEVEL },
    Row {
        names: &["glm4", "glm5"],
        steps: &[LLAMA3],
        ignore_merges: true,
        no_default_bos: true,
        ..BYTE_LEVEL
    },
    Row {
        names: &[
            "qwen2",
            "deepseek-r1-qwen",
            "kormo",
            "f2llmv2",
            "megrez",
            "stablelm2",
            "hunyuan",
            "solar-open",
            "grok-2",
        ],
        steps: &[QWEN2],
        ..BYTE_LEVEL
    },
    Row { names: &["laguna"], steps: &[Step::Lines, QWEN2], ..BYTE_LEVEL },
    Row {
        names: &["qwen35"],
        steps: &[Step::Words(concat!(
            contraction!(),
            r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
            newlines!()
        ))],
        ..BYTE_LEVEL
    },
    Row {
        names: &["ufakzeka"],
        steps: &[Step::Words(concat!(
            r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*",
            newlines!()
        ))],
        ..BYTE_LEVEL
    },
    Row {
        names: &["minicpm5"],
        steps: &[THREE_DIGITS, Step::Words(llama3!(r"\p{N}+"))],
        ignore_merges: true,
        ..BYTE_LEVEL
    },
    Row {
        names: &["jais-2"],
        steps: &[Step::WordsAndRuns(
            concat!(
                contraction!(),
                r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*",
                newlines!()
            ),
            &[512, 256, 128, 64, 32, 16, 8, 4, 2, 1],
        )],
        ..BYTE_LEVEL
    },
    Row {
        names: &["bailingmoe", "bailingmoe2", "llada-moe"],
        steps: &[Step::Words(concat!(
            contraction!(),
            r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]"
        ))],
        ..BYTE_LEVEL
    },
    Row {
        names: &["seed-coder"],
        steps: &[Step::Words(concat!(
            contraction!(),
            r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+",
            newlines!()
        ))],
        ..BYTE_LEVEL
    },
    Row {
        names: &["exaone-moe"],
        steps: &[Step::Words(concat!(
            contraction!(),
            r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]"
        ))],
        ..BYTE_LEVEL
    },
    Row { names: &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], steps: &[GPT4O], ..BYTE_LEVEL },
    Row {
        names: &["granite-embed-multi-97m"],
        steps: &[Step::Words(concat!(
            cased_words!(r"[\p{L}\p{M}]", concat!("(?:", contraction!(), ")?")),
            r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*",
            newlines!()
        ))],
        ignore_merges: true,
        ..BYTE_LEVEL
    },
    Row {
        names: &["tekken"],
        steps: &[Step::Words(concat!(
            cased_words!(r"\p{L}", ""),
            r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*",
            newlines!()
        ))],
        ignore_merges: true,
        add_bos: true,
        ..BYTE_LEVEL
    },
    Row {
        names: &["tiny_aya", "cohere2moe"],
        steps: &[
            Step::Thousands { ascii: false },
            Step::Words(concat!(
                r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+(?:",
                contraction!(),
                r")?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*",
                newlines!()
            )),
        ],
        ..BYTE_LEVEL
    },
    Row {
        names: &["youtu"],
        steps: &[
            Step::Regex(concat!(
                r"[\u{AC00}-\u{D7A3}\u{3131}-\u{318E}]+",
                r"|[\u{FF01}\u{2026}\u{201C}\u{201D}\u{2018}\u{2019}\u{2014}\u{FF1A}\u{FF1B}\u{FF0C}",
                r"\u{3001}-\u{303F}\u{FE30}-\u{FE4F}]+",
                r"|[\u{3105}-\u{312F}]+|[\u{4E00}-\u{9FA5}\u{3040}-\u{309F}\u{30A0}-\u{30FF}]+"
            )),
            Step::Words(concat!(
                r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+(?:",
                contraction!(),
                r")?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*",
                newlines!()
            )),
        ],
        ignore_merges: true,
        ..BYTE_LEVEL
    },
    Row {
        names: &["deepseek-llm"],
        steps: &[
            Step::Regex(r"[\r\n]"),
            DEEPSEEK_LETTERS,
            Step::Regex(r"\s?[!-/:-~\u{FF01}-\u{FF0F}\u{FF1A}-\u{FF5E}\u{2018}-\u{201F}\u{3001}-\u{3002}]+"),
            Step::Regex(r"\s+\z"),
            EAST,
            Step::Regex(r"\p{N}+"),
        ],
        ..BYTE_LEVEL
    },
    Row {
        names: &["deepseek-coder"],
        steps: &[Step::Regex(r"[\r\n]"), Step::Regex(r"\s?\p{L}+"), Step::Regex(r"\s?\p{P}+"), EAST, DIGIT],
        ..BYTE_LEVEL
    },
    Row {
        names: &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        steps: &[
            THREE_DIGITS,
            CJK,
            Step::Words(concat!(marked_words!(), r"| ?[\p{P}\p{S}]+[\r\n]*", newlines!())),
        ],
        ..BYTE_LEVEL
    },
    Row {
        names: &["spark2_5"],
        steps: &[THREE_DIGITS, CJK, Step::Words(concat!(marked_words!(), r"| ?[\p{P}\p{S}]+|[\r\n]")), DIGIT],
        ..BYTE_LEVEL
    },
    Row {
        names: &["afmoe"],
        steps: &[
            Step::Thousands { ascii: false },
            Step::Regex(concat!(
                r"[\u{4E00}-\u{9FFF}\u{3400}-\u{4DBF}\u{8C48}-\u{FAFF}\u{3040}-\u{309F}\u{30A0}-\u{30FF}",
                r"\u{FF65}-\u{FF9F}\u{2F00}-\u{2FDF}\u{E40}-\u{E7F}\u{E80}-\u{EFF}\u{1780}-\u{17FF}\u{1000}-\u{109F}",
                r"\u{AA60}-\u{AA7F}\u{A9E0}-\u{A9FF}\u{AC00}-\u{D7AF}\u{1100}-\u{11FF}]+"
            )),
            Step::Words(concat!(marked_words!(), r"| ?[\p{P}\p{S}]+[\r\n]*", newlines!())),
        ],
        ..BYTE_LEVEL
    },
    Row {
        names: &["falcon"],
        steps: &[Step::Regex(r"[\p{P}\$\+<=>\^~\|`]+"), GPT2, Step::Regex("[0-9][0-9][0-9]")],
        ..BYTE_LEVEL
    },
    Row { names: &["poro-chat", "bloom", "gpt3-finnish"], steps: &[NO_STOPS], ..BYTE_LEVEL },
    Row { names: &["viking"], steps: &[NO_STOPS, DIGIT], ..BYTE_LEVEL },
    Row {
        names: &["chameleon"],
        steps: &[
            Step::Regex("<sentinel:[0-9]+>"),
            Step::Regex("IMGIMG[A-I]{1,4}Z"),
            Step::Regex(r"[\t\n]|    |  "),
            DIGIT,
            Step::Regex(r"[\p{P}!-/:-@\[-`{-~]"),
            GPT2,
        ],
        add_bos: true,
        ..BYTE_LEVEL
    },
    Row {
        names: &["kimi-k2"],
        steps: &[Step::Words(concat!(
            "[",
            han!(),
            r"]+|[^\r\n\p{L}\p{N}]?[\p{L}&&[^",
            han!(),
            "]]+(?:",
            contraction!(),
            r")?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*",
            newlines!()
        ))],
        ..BYTE_LEVEL
    },
    Row {
        names: &["superbpe"],
        steps: &[Step::Regex(r"\p{N}+"), Step::Thousands { ascii: true }],
        ..BYTE_LEVEL
    },
    Row {
        names: &["gemma4", "granite-embed-multi-311m"],
        steps: &[Step::Lines],
        byte_level: false,
        escape_spaces: true,
        whole_newlines: true,
        force_bos: true,
        ..BYTE_LEVEL
    },
    Row {
        names: &["sarvam-moe"],
        steps: &[Step::Lines],
        byte_level: false,
        escape_spaces: true,
        ..BYTE_LEVEL
    },
];

/// What memory is for, in errors.
const WORDS: &str = "the words of the text";

/// Bytes that an expression takes while it is compiled, and that a search with it takes at most.
const COMPILING: usize = 12 << 20;
const SEARCHING: usize = 8 << 20;

/// One row's steps, compiled.
#[derive(Debug)]
pub(super) struct PreTokenizer {
    row: &'static Row,
    regexes: Vec<OnceLock<Compiled>>,
}

impl PreTokenizer {
    /// `name`: the file's `tokenizer.ggml.pre`.
    pub fn new(name: &str) -> Result<Self> {
        let row = ROWS.iter().find(|row| row.names.contains(&name)).ok_or_else(|| Error::Unsupported {
            what: "pre-tokenizer (tokenizer.ggml.pre)",
            name: Short(name).to_string(),
            supported: ROWS.iter().flat_map(|row| row.names).copied().collect::<Vec<_>>().join(", "),
        })?;
        Ok(Self { row, regexes: row.steps.iter().map(|_| OnceLock::new()).collect() })
    }

    pub fn row(&self) -> &'static Row {
        self.row
    }

    /// Ends of the words of `text`, in order; the last is the text's.
    pub fn split(&self, text: &str) -> Result<Vec<usize>> {
        let mut ends = memory::filled(text.len(), 1, WORDS)?;
        for (step, regex) in self.row.steps.iter().zip(&self.regexes) {
            let mut cut = memory::vec(ends.len().max(text.len() / 4), WORDS)?;
            let mut each = |work: &mut CutWord<'_>| {
                let mut start = 0;
                for &end in &ends {
                    work(start, end, &mut cut)?;
                    push(end, &mut cut)?;
                    start = end;
                }
                Ok(())
            };
            match step {
                Step::Regex(source) => compiled(regex, &[source])?.search(|regex, cache| {
                    each(&mut |start, end, cut| cut_matches(regex, cache, text, start, end, cut))
                })?,
                Step::Words(source) => compiled(regex, &[source, SPACES])?.search(|regex, cache| {
                    each(&mut |start, end, cut| cut_words(regex, cache, &[], text, start, end, cut))
                })?,
                Step::WordsAndRuns(source, lengths) => {
                    compiled(regex, &[source, SPACES])?.search(|regex, cache| {
                        each(&mut |start, end, cut| cut_words(regex, cache, lengths, text, start, end, cut))
                    })?
                }
                Step::Lines => each(&mut |start, end, cut| cut_lines(text, start, end, cut))?,
                Step::Thousands { ascii } => {
                    each(&mut |start, end, cut| cut_thousands(text, start, end, *ascii, cut))?;
                }
            }
            ends = cut;
        }
        Ok(ends)
    }
}

/// Appends to the ends those of the words between two places.
type CutWord<'a> = dyn FnMut(usize, usize, &mut Vec<usize>) -> Result<()> + 'a;

/// The second expression of [`Step::Words`], tried where the first does not match.
const SPACES: &str = r"\s+";

/// An expression, and the memory of searches with it, kept for the next ones.
#[derive(Debug)]
struct Compiled {
    regex: Regex,
    caches: Mutex<Vec<Cache>>,
}

/// Matching takes time in proportion to the text.
fn compiled<'a>(cell: &'a OnceLock<Compiled>, sources: &[&str]) -> Result<&'a Compiled> {
    if let Some(compiled) = cell.get() {
        return Ok(compiled);
    }
    let regex = memory::with_room(COMPILING, "the pre-tokenizer's expressions", || {
        Regex::new_many(sources)
            .map_err(|err| Error::Internal(format!("pre-tokenizer expression {}: {err}", sources[0])))
    })??;
    Ok(cell.get_or_init(|| Compiled { regex, caches: Mutex::default() }))
}

impl Compiled {
    fn search(&self, search: impl FnOnce(&Regex, &mut Cache) -> Result<()>) -> Result<()> {
        let caches = || self.caches.lock().unwrap_or_else(PoisonError::into_inner);
        memory::with_room(SEARCHING, WORDS, || {
            let kept = caches().pop();
            let mut cache = kept.unwrap_or_else(|| self.regex.create_cache());
            search(&self.regex, &mut cache)?;
            // one that grew into the memory set aside is not kept
            memory::check()?;
            memory::push(&mut caches(), cache, WORDS)
        })?
    }
}

/// Cuts at `at`, once.
fn push(at: usize, cut: &mut Vec<usize>) -> Result<()> {
    if at > cut.last().copied().unwrap_or(0) {
        memory::push(cut, at, WORDS)?;
    }
    Ok(())
}

fn cut_matches(
    regex: &Regex,
    cache: &mut Cache,
    text: &str,
    start: usize,
    end: usize,
    cut: &mut Vec<usize>,
) -> Result<()> {
    let mut searcher = Searcher::new(Input::new(&text[start..end]));
    while let Some(found) = searcher.advance(|input| Ok(regex.search_with(cache, input))) {
        push(start + found.start(), cut)?;
        push(start + found.end(), cut)?;
    }
    Ok(())
}

/// `regex`: an expression of words, and [`SPACES`].
fn cut_words(
    regex: &Regex,
    cache: &mut Cache,
    lengths: &[usize],
    text: &str,
    start: usize,
    end: usize,
    cut: &mut Vec<usize>,
) -> Result<()> {
    let text = &text[..end];
    let mut at = start;
    while let Some(found) = regex.search_with(cache, &Input::new(&text[start..]).range(at - start..)) {
        let run = start + found.start()..start + found.end();
        push(run.start, cut)?;
        at = run.end;
        if found.pattern().as_usize() == 1 {
            let last = text[run.clone()].char_indices().next_back().map_or(0, |(last, _)| run.start + last);
            if at < end && last > run.start {
                at = last;
            }
            cut_run(lengths, text, run.start, at, cut)?;
        }
        push(at, cut)?;
    }
    Ok(())
}

/// `lengths`: longest first.
fn cut_run(lengths: &[usize], text: &str, start: usize, end: usize, cut: &mut Vec<usize>) -> Result<()> {
    if lengths.is_empty() {
        return Ok(());
    }
    let ends = text[start..end].char_indices().skip(1).map(|(at, _)| start + at).chain([end]);
    let ends = memory::collect(ends, WORDS)?;
    let mut done = 0;
    while let Some(length) = lengths.iter().find(|&&length| length <= ends.len() - done) {
        done += length;
        push(ends[done - 1], cut)?;
    }
    Ok(())
}

fn cut_lines(text: &str, start: usize, end: usize, cut: &mut Vec<usize>) -> Result<()> {
    let bytes = text.as_bytes();
    (start + 1..end)
        .filter(|&at| (bytes[at - 1] == b'\n') != (bytes[at] == b'\n'))
        .try_for_each(|at| memory::push(cut, at, WORDS))
}

fn cut_thousands(text: &str, start: usize, end: usize, ascii: bool, cut: &mut Vec<usize>) -> Result<()> {
    let is_digit = |c: char| if ascii { c.is_ascii_digit() } else { c.is_numeric() };
    // Starts of the run's digits, and its end.
    let mut run = Vec::new();
    let mut flush = |run: &mut Vec<usize>, run_end: usize| -> Result<()> {
        if run.is_empty() {
            return Ok(());
        }
        let skipped = if ascii { run_end } else { run[0] };
        let first = run.len() % 3;
        memory::push(run, run_end, WORDS)?;
        let cuts = run[first..].iter().copied().step_by(3).filter(|&at| at != skipped && at > start);
        memory::reserve(cut, run.len(), WORDS)?;
        cut.extend(cuts);
        run.clear();
        Ok(())
    };
    for (at, c) in text[start..end].char_indices() {
        if is_digit(c) {
            memory::push(&mut run, start + at, WORDS)?;
        } else {
            flush(&mut run, start + at)?;
        }
    }
    flush(&mut run, end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(name: &str, text: &str) -> Vec<String> {
        let mut start = 0;
        let ends = PreTokenizer::new(name).unwrap().split(text).unwrap();
        ends.iter().map(|&end| text[std::mem::replace(&mut start, end)..end].to_owned()).collect()
    }

    #[test]
    fn names_are_unique_and_every_expression_compiles() {
        let mut names: Vec<_> = ROWS.iter().flat_map(|row| row.names).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for name in names {
            assert_eq!(words(name, "").concat(), "");
            assert_eq!(words(name, "It's 1234 \r\n\t x 語!").concat(), "It's 1234 \r\n\t x 語!", "{name}");
        }
    }

    #[test]
    fn an_unknown_name_is_refused_by_name() {
        let error = PreTokenizer::new("gpt-17").unwrap_err().to_string();
        assert!(error.contains("gpt-17") && error.contains("llama-bpe"), "{error}");
    }

    #[test]
    fn thousands_count_from_the_right() {
        assert_eq!(words("superbpe", "ab1234567 89"), ["ab", "1", "234", "567", " ", "89"]);
        assert_eq!(words("tiny_aya", "ab1234 123"), ["ab", "1", "234", " ", "123"]);
    }
}
