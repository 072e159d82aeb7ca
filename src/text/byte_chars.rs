//! GPT-2's spelling of bytes: each of the 256 bytes as one printable character.
//!
//! Printable Latin-1 stands for itself; the other 68 bytes are U+0100, U+0101, ... in order.

const fn stands_for_itself(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF)
}

const TO_CHAR: [u16; 256] = {
    let mut table = [0; 256];
    let (mut byte, mut next) = (0, 0x100);
    while byte < 256 {
        if stands_for_itself(byte as u8) {
            table[byte] = byte as u16;
        } else {
            table[byte] = next;
            next += 1;
        }
        byte += 1;
    }
    table
};

/// Bytes by code point, -1 for those that spell none.
const TO_BYTE: [i16; 0x144] = {
    let mut table = [-1; 0x144];
    let mut byte = 0;
    while byte < 256 {
        table[TO_CHAR[byte] as usize] = byte as i16;
        byte += 1;
    }
    table
};

pub(super) fn char_of(byte: u8) -> char {
    char::from_u32(u32::from(TO_CHAR[usize::from(byte)])).unwrap_or(char::REPLACEMENT_CHARACTER)
}

pub(super) fn byte_of(c: char) -> Option<u8> {
    TO_BYTE.get(c as usize).and_then(|&byte| u8::try_from(byte).ok())
}

/// Appends the spelling of `bytes` to `out`.
pub(super) fn encode(bytes: &[u8], out: &mut String) {
    out.extend(bytes.iter().map(|&byte| char_of(byte)));
}

/// Appends the bytes that `text` spells; a text with other characters stands for its own bytes.
pub(super) fn decode(text: &str, out: &mut Vec<u8>) {
    let start = out.len();
    for c in text.chars() {
        match byte_of(c) {
            Some(byte) => out.push(byte),
            None => {
                out.truncate(start);
                out.extend_from_slice(text.as_bytes());
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_character() {
        for byte in 0..=255u8 {
            assert_eq!(byte_of(char_of(byte)), Some(byte));
        }
        assert_eq!(char_of(b' '), '\u{120}');
        assert_eq!(char_of(b'\n'), '\u{10A}');
        assert_eq!(byte_of('\u{AD}'), None);
        assert_eq!(byte_of('\u{2581}'), None);
    }
}
