//! Python's classes of characters.

use std::sync::LazyLock;

use fancy_regex::Regex;

fn matches(class: &Regex, c: char) -> bool {
    class.is_match(c.encode_utf8(&mut [0; 4])).unwrap_or(false)
}

macro_rules! classes {
    ($($(#[$doc:meta])* $name:ident $class:literal,)*) => {$(
        $(#[$doc])*
        pub(super) fn $name(c: char) -> bool {
            static CLASS: LazyLock<Regex> =
                LazyLock::new(|| Regex::new($class).expect("the expression is constant"));
            matches(&CLASS, c)
        }
    )*};
}

classes! {
    is_decimal r"^\p{Nd}$",
    is_letter r"^\p{L}$",
    /// Decimal digits and digits in circles, superscripts and the like.
    is_digit r"^(?:\p{Nd}|[\x{b2}\x{b3}\x{b9}\x{1369}-\x{1371}\x{19da}\x{2070}\x{2074}-\x{2079}\x{2080}-\x{2089}\x{2460}-\x{2468}\x{2474}-\x{247c}\x{2488}-\x{2490}\x{24ea}\x{24f5}-\x{24fd}\x{24ff}\x{2776}-\x{277e}\x{2780}-\x{2788}\x{278a}-\x{2792}\x{10a40}-\x{10a43}\x{10e60}-\x{10e68}\x{11052}-\x{1105a}\x{1f100}-\x{1f10a}])$",
    /// Numbers, and the ideographs that stand for some.
    is_numeric r"^[\p{N}㐅㒃㠪㭍一七万三九二五亖亿什仟仨伍佰億兆兩八六十千卄卅卌叁参參叄四壱壹幺廾廿弌弍弎弐拾捌柒漆玖百肆萬貮貳贰阡陆陌陸零\x{f96b}\x{f973}\x{f978}\x{f9b2}\x{f9d1}\x{f9d3}\x{f9fd}\x{2f890}𠀁𠁤𠃢𠄡𠤪𠦃𠦌𠦜𠫪𠫽𠬙𢎐𢦘𣬛𦉭]$",
    is_titlecase r"^\p{Lt}$",
    is_case_ignorable r"^\p{Case_Ignorable}$",
    is_upper r"^\p{Uppercase}$",
    is_lower r"^\p{Lowercase}$",
    is_identifier_start r"^[\p{XID_Start}_]$",
    is_identifier_part r"^\p{XID_Continue}$",
}

/// `\w`, and str.isalnum() with an underscore.
pub(super) fn is_word(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_alphanumeric() || c == '_' } else { is_letter(c) || is_numeric(c) }
}

/// Whether repr() writes the character as it is.
pub(super) fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return (' '..='~').contains(&c);
    }
    // Behind a letter, what joins with the character before it is not escaped.
    let mut text = [b'a', 0, 0, 0, 0];
    let len = c.encode_utf8(&mut text[1..]).len();
    let text = std::str::from_utf8(&text[..=len]).unwrap_or_default();
    !text.escape_debug().any(|c| c == '\\')
}

/// A character's titlecase.
pub(super) fn to_title(c: char, mut push: impl FnMut(char)) {
    match c {
        'Ǆ'..='ǆ' => push('ǅ'),
        'Ǉ'..='ǉ' => push('ǈ'),
        'Ǌ'..='ǌ' => push('ǋ'),
        'Ǳ'..='ǳ' => push('ǲ'),
        'ŉ' => "ʼN".chars().for_each(push),
        // Georgian has capitals, but not for titles.
        'ა'..='ჿ' => push(c),
        // Greek with an iota below: one character in titles, two in upper case.
        '\u{1f80}'..='\u{1faf}' => push(char::from_u32(c as u32 | 8).unwrap_or(c)),
        '\u{1fb3}' | '\u{1fc3}' | '\u{1ff3}' => push(char::from_u32(c as u32 + 9).unwrap_or(c)),
        _ => {
            // What is several characters in upper case (ß) has its first one only so.
            for (i, upper) in c.to_uppercase().enumerate() {
                if i == 0 {
                    push(upper);
                } else {
                    upper.to_lowercase().for_each(&mut push);
                }
            }
        }
    }
}

/// Pushes what str.lower() makes of the character `c` at byte `at` of `text`.
pub(super) fn to_lower(text: &str, at: usize, c: char, mut push: impl FnMut(char)) {
    if c != 'Σ' {
        return c.to_lowercase().for_each(push);
    }
    // At a word's end the letter has a form of its own.
    let before = text[..at].chars().rev().find(|&c| !is_ignorable(c)).is_some_and(is_cased);
    let after = text[at + c.len_utf8()..].chars().find(|&c| !is_ignorable(c)).is_some_and(is_cased);
    push(if before && !after { 'ς' } else { 'σ' });
}

/// What does not end a word: accents, apostrophes.
fn is_ignorable(c: char) -> bool {
    if c.is_ascii() { matches!(c, '\'' | '.' | ':' | '^' | '`') } else { is_case_ignorable(c) }
}

/// Pushes what str.casefold() makes of a character.
pub(super) fn fold(c: char, mut push: impl FnMut(char)) {
    match c {
        'ẞ' => "ss".chars().for_each(push),
        'İ' => c.to_lowercase().for_each(push),
        'ı' | '\u{13a0}'..='\u{13f5}' => push(c),
        // Cherokee folds to its capitals.
        '\u{ab70}'..='\u{abbf}' | '\u{13f8}'..='\u{13fd}' => c.to_uppercase().for_each(push),
        _ => c.to_uppercase().flat_map(char::to_lowercase).for_each(push),
    }
}

pub(super) fn is_cased(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_alphabetic() } else { is_upper(c) || is_lower(c) || is_titlecase(c) }
}
