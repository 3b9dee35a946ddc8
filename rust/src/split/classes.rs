//! The classes that the family's patterns distinguish: letters, numbers, whitespace, line ends and everything else.
//!
//! The tables are made once, from the Unicode data of the regular expression engine, so that the hand-written
//! scanner and the automaton can never disagree about a character.

use std::sync::LazyLock;

use regex_syntax::hir::{Class as HirClass, HirKind};

/// The class of a character. `NonAscii` is only for bytes: the character must be decoded first.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Other,
    Letter,
    Number,
    Space,
    LineEnd,
    NonAscii,
}

impl Class {
    pub fn is_space(self) -> bool {
        matches!(self, Self::Space | Self::LineEnd)
    }
}

/// Classes of the first byte of a character.
pub static OF_BYTE: [Class; 256] = {
    let mut table = [Class::Other; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b'a'..=b'z' | b'A'..=b'Z' => Class::Letter,
            b'0'..=b'9' => Class::Number,
            b'\r' | b'\n' => Class::LineEnd,
            b' ' | b'\t' | 0x0b | 0x0c => Class::Space,
            0x80.. => Class::NonAscii,
            _ => Class::Other,
        };
        byte += 1;
    }
    table
};

const BLOCK: usize = 256;
const N_BLOCKS: usize = 0x11_0000 / BLOCK;

/// Two levels, because most blocks of 256 characters are alike; all of it takes a few tens of kilobytes.
struct Table {
    block_of: Box<[u8; N_BLOCKS]>,
    blocks: Vec<[Class; BLOCK]>,
}

static TABLE: LazyLock<Table> = LazyLock::new(Table::new);

impl Table {
    fn new() -> Self {
        let mut flat = vec![Class::Other; N_BLOCKS * BLOCK];
        for (property, class) in [(r"\p{L}", Class::Letter), (r"\p{N}", Class::Number), (r"\s", Class::Space)] {
            let hir = regex_syntax::parse(property).expect("a property of Unicode parses");
            let HirKind::Class(HirClass::Unicode(members)) = hir.kind() else { unreachable!("a property is a class") };
            for range in members.ranges() {
                flat[range.start() as usize..=range.end() as usize].fill(class);
            }
        }
        flat['\r' as usize] = Class::LineEnd;
        flat['\n' as usize] = Class::LineEnd;
        let mut blocks: Vec<[Class; BLOCK]> = Vec::new();
        let mut block_of = Box::new([0_u8; N_BLOCKS]);
        for (index, block) in flat.as_chunks::<BLOCK>().0.iter().enumerate() {
            let known = blocks.iter().position(|other| other == block).unwrap_or_else(|| {
                blocks.push(*block);
                blocks.len() - 1
            });
            block_of[index] = u8::try_from(known).expect("Unicode has fewer than 256 kinds of blocks here");
        }
        Self { block_of, blocks }
    }
}

/// Class and width in bytes of the character that starts at `at` of valid UTF-8.
#[inline(always)]
pub fn decode(text: &[u8], at: usize) -> (Class, usize) {
    match OF_BYTE[text[at] as usize] {
        Class::NonAscii => decode_wide(text, at),
        class => (class, 1),
    }
}

#[inline(never)]
fn decode_wide(text: &[u8], at: usize) -> (Class, usize) {
    let first = text[at];
    let more = |i: usize| u32::from(text[at + i] & 0x3f);
    let (code, width) = match first {
        ..0xe0 => (u32::from(first & 0x1f) << 6 | more(1), 2),
        0xe0..0xf0 => (u32::from(first & 0x0f) << 12 | more(1) << 6 | more(2), 3),
        _ => (u32::from(first & 0x07) << 18 | more(1) << 12 | more(2) << 6 | more(3), 4),
    };
    let table = &*TABLE;
    let block = table.block_of[code as usize / BLOCK];
    (table.blocks[block as usize][code as usize % BLOCK], width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_has_the_class_the_engine_gives_it() {
        let engine = regex_automata::meta::Regex::new_many(&[r"[\r\n]", r"\p{L}", r"\p{N}", r"\s", r"(?s:.)"]).unwrap();
        let named = [Class::LineEnd, Class::Letter, Class::Number, Class::Space, Class::Other];
        for character in '\0'..=char::MAX {
            let mut buffer = [0; 4];
            let text = character.encode_utf8(&mut buffer);
            let expected = named[engine.find(&*text).unwrap().pattern().as_usize()];
            assert_eq!(decode(text.as_bytes(), 0), (expected, text.len()), "{character:?}");
        }
    }
}
