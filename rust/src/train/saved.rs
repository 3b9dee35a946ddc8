//! A count table as bytes, so that the counts of many machines can be added up for training.
//!
//! Little-endian: a magic line, the pattern and the special tokens used for counting, then every piece with its count,
//! sorted by bytes, so that equal tables give equal files; at the end, a hash of everything before it.

use std::fmt;

use super::counts::PieceCounts;

const MAGIC: &[u8] = b"rustbpe counts 1\n";

/// Limit on the text that a table can have counted, so that sums over many tables and pairs fit into 64 bits.
const MAX_BYTES: u64 = 1 << 56;

/// A table, and the pattern and special tokens used for counting.
pub struct SavedCounts {
    pub pattern: String,
    pub specials: Vec<String>,
    pub counts: PieceCounts,
}

/// The bytes are not a count table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedError(&'static str);

impl fmt::Display for SavedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a usable count table: {}", self.0)
    }
}

impl std::error::Error for SavedError {}

impl SavedCounts {
    pub fn to_bytes(pattern: &str, specials: &[String], counts: &PieceCounts) -> Vec<u8> {
        let mut pieces: Vec<(Box<[u8]>, u64)> = Vec::with_capacity(counts.len());
        counts.for_each(|piece, count| pieces.push((piece.into(), count)));
        pieces.sort_unstable();
        let mut out = MAGIC.to_vec();
        write_text(&mut out, pattern);
        out.extend((specials.len() as u32).to_le_bytes());
        specials.iter().for_each(|name| write_text(&mut out, name));
        out.extend((pieces.len() as u64).to_le_bytes());
        for (piece, count) in pieces {
            out.extend((piece.len() as u32).to_le_bytes());
            out.extend(count.to_le_bytes());
            out.extend(piece);
        }
        let hash = hash(&out);
        out.extend(hash.to_le_bytes());
        out
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SavedError> {
        let Some(mut rest) = bytes.strip_prefix(MAGIC) else {
            return Err(SavedError("it does not begin as one of this version does"));
        };
        let Some((content, end)) = bytes.split_last_chunk::<8>() else {
            return Err(SavedError("it is cut off"));
        };
        if hash(content) != u64::from_le_bytes(*end) {
            return Err(SavedError("it is cut off or was changed"));
        }
        Self::read(&mut rest).ok_or(SavedError("it holds other things than it says"))
    }

    fn read(rest: &mut &[u8]) -> Option<Self> {
        let pattern = read_text(rest)?;
        let n_specials = read_u32(rest)?;
        let specials = (0..n_specials).map(|_| read_text(rest)).collect::<Option<_>>()?;
        let n_pieces = u64::from_le_bytes(*read(rest)?);
        let mut counts = PieceCounts::default();
        let mut left = MAX_BYTES;
        for _ in 0..n_pieces {
            let len = read_u32(rest)? as usize;
            let count = u64::from_le_bytes(*read(rest)?);
            let (piece, after) = rest.split_at_checked(len)?;
            if piece.is_empty() || count == 0 {
                return None;
            }
            left = left.checked_sub(count.checked_mul(len as u64)?)?;
            counts.add(piece, count);
            *rest = after;
        }
        (rest.len() == 8 && counts.len() as u64 == n_pieces).then_some(Self { pattern, specials, counts })
    }
}

/// FNV-1a, 64 bits.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

fn read<'r, const N: usize>(rest: &mut &'r [u8]) -> Option<&'r [u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(head)
}

fn read_u32(rest: &mut &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(*read(rest)?))
}

fn read_text(rest: &mut &[u8]) -> Option<String> {
    let len = read_u32(rest)? as usize;
    let (text, after) = rest.split_at_checked(len)?;
    *rest = after;
    String::from_utf8(text.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_comes_back_and_broken_ones_do_not() {
        let mut counts = PieceCounts::default();
        counts.add(b"short", 3);
        counts.add(b"a piece of more than fifteen bytes", 1 << 50);
        let bytes = SavedCounts::to_bytes("p+", &["<|x|>".to_owned()], &counts);
        let back = SavedCounts::from_bytes(&bytes).unwrap();
        assert_eq!((back.pattern.as_str(), &back.specials[..]), ("p+", &["<|x|>".to_owned()][..]));
        assert_eq!(SavedCounts::to_bytes(&back.pattern, &back.specials, &back.counts), bytes);
        for len in 0..bytes.len() {
            assert!(SavedCounts::from_bytes(&bytes[..len]).is_err(), "cut to {len}");
            let mut changed = bytes.clone();
            changed[len] ^= 1;
            assert!(SavedCounts::from_bytes(&changed).is_err(), "changed at {len}");
        }
    }

    #[test]
    fn a_table_of_more_text_than_there_is_is_refused() {
        for (count, ok) in [(1 << 52, true), (1 << 53, false), (u64::MAX, false)] {
            let mut counts = PieceCounts::default();
            counts.add(b"eight by", count);
            counts.add(b"te", 1 << 54);
            let read = SavedCounts::from_bytes(&SavedCounts::to_bytes("p+", &[], &counts));
            assert_eq!(read.is_ok(), ok, "{count}");
        }
    }
}
