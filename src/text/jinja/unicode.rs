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
    is_digit r"^(?:\p{Nd}|[²³¹⁰⁴-⁹₀-₉①-⑨⑴-⑼⒈-⒐⓪⓵-⓽⓿❶-❾➀-➈➊-➒፩-፱])$",
    is_numeric r"^\p{N}$",
    is_titlecase r"^\p{Lt}$",
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

pub(super) fn is_cased(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_alphabetic() } else { is_upper(c) || is_lower(c) || is_titlecase(c) }
}
