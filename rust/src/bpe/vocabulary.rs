//! The tokens: 256 bytes in any order, one for each merge, then special tokens with any free ids.

use std::fmt;

use rustc_hash::FxHashMap;

use super::id::MAX_TOKENS;
use crate::specials::{BadSpecials, Specials};
use crate::{N_BYTES, Pair};

/// Limit on the bytes of all tokens together. Each merge in a broken file can double the length of a token.
const MAX_BYTES: usize = 1 << 30;

/// Invalid merges, ranks or special tokens, or an id that is not in the vocabulary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VocabularyError {
    MergeOfUnknown { merge: usize, id: u32, known: usize },
    TooLarge { merge: usize },
    TooMany { tokens: usize },
    BadByteOrder,
    BadSpecial(String),
    SpecialIsTaken { name: String, id: u32, first: usize },
    UnknownId { id: u32, size: usize },
    RankIsNoMerge { rank: usize, token: Box<[u8]> },
    RankAppearsTwice { rank: usize, token: Box<[u8]> },
}

impl fmt::Display for VocabularyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MergeOfUnknown { merge, id, known } => {
                write!(f, "merge {merge} joins id {id}, but only ids below {known} exist before it")
            }
            Self::TooLarge { merge } => {
                write!(f, "with merge {merge} the tokens are longer than {MAX_BYTES} bytes together")
            }
            Self::TooMany { tokens } => write!(f, "{tokens} tokens are more than the {MAX_TOKENS} there can be"),
            Self::BadByteOrder => write!(f, "the order of the bytes does not hold each of the 256 byte values once"),
            Self::BadSpecial(why) => f.write_str(why),
            Self::SpecialIsTaken { name, id, first } => write!(
                f,
                "special token {name:?} has id {id}, which another token has: special ids are distinct and from {first} on"
            ),
            Self::UnknownId { id, size } => write!(f, "id {id} is not in the vocabulary of {size} tokens"),
            Self::RankIsNoMerge { rank, token } => {
                write!(f, "rank {rank}, {:?}, is no merge of two tokens of lower rank", String::from_utf8_lossy(token))
            }
            Self::RankAppearsTwice { rank, token } => {
                write!(f, "rank {rank}, {:?}, has a lower rank already", String::from_utf8_lossy(token))
            }
        }
    }
}

impl std::error::Error for VocabularyError {}

impl From<BadSpecials> for VocabularyError {
    fn from(error: BadSpecials) -> Self {
        Self::BadSpecial(error.to_string())
    }
}

/// Tokens by id, ordinary ones first.
pub struct Vocabulary {
    pub(super) tokens: Vec<Box<[u8]>>,
    pub(super) specials: Specials,
    /// Ids of the special tokens, in the order of their names.
    pub(super) special_ids: Vec<u32>,
    merges: Vec<Pair>,
    byte_order: [u8; N_BYTES],
    size: usize,
}

impl Vocabulary {
    /// The bytes in the given order (ids 0 to 255), the merges (ids from 256), and special tokens with their ids.
    pub fn new(byte_order: &[u8], merges: Vec<Pair>, specials: Vec<(String, u32)>) -> Result<Self, VocabularyError> {
        let byte_order: [u8; N_BYTES] = byte_order.try_into().map_err(|_| VocabularyError::BadByteOrder)?;
        let mut sorted = byte_order;
        sorted.sort_unstable();
        if sorted.iter().enumerate().any(|(i, &byte)| i != byte as usize) {
            return Err(VocabularyError::BadByteOrder);
        }
        let tokens = tokens_of(&byte_order, &merges)?;
        let (names, special_ids): (Vec<String>, Vec<u32>) = specials.into_iter().unzip();
        let first = tokens.len();
        let mut size = first;
        for (index, (name, &id)) in names.iter().zip(&special_ids).enumerate() {
            if (id as usize) < first || special_ids[..index].contains(&id) {
                return Err(VocabularyError::SpecialIsTaken { name: name.clone(), id, first });
            }
            size = size.max(id as usize + 1);
        }
        if size > MAX_TOKENS {
            return Err(VocabularyError::TooMany { tokens: size });
        }
        Ok(Self { tokens, specials: Specials::new(names)?, special_ids, merges, byte_order, size })
    }

    /// One more than the largest id.
    pub fn size(&self) -> usize {
        self.size
    }

    pub fn merges(&self) -> &[Pair] {
        &self.merges
    }

    pub fn byte_order(&self) -> &[u8; N_BYTES] {
        &self.byte_order
    }

    pub fn specials(&self) -> impl Iterator<Item = (&str, u32)> {
        self.specials.names().iter().map(String::as_str).zip(self.special_ids.iter().copied())
    }

    /// The bytes of one token; for a special token, its name.
    pub fn token(&self, id: u32) -> Result<&[u8], VocabularyError> {
        if let Some(token) = self.tokens.get(id as usize) {
            return Ok(token);
        }
        let special = self.special_ids.iter().position(|&special| special == id);
        special
            .map(|index| self.specials.names()[index].as_bytes())
            .ok_or(VocabularyError::UnknownId { id, size: self.size })
    }

    /// Ids by bytes. Two merges may result in the same bytes; the first of them is the token.
    pub(super) fn ids(&self) -> FxHashMap<&[u8], u32> {
        let mut ids = FxHashMap::default();
        ids.reserve(self.tokens.len());
        for (id, token) in self.tokens.iter().enumerate() {
            ids.entry(&token[..]).or_insert(id as u32);
        }
        ids
    }
}

fn tokens_of(byte_order: &[u8; N_BYTES], merges: &[Pair]) -> Result<Vec<Box<[u8]>>, VocabularyError> {
    if N_BYTES + merges.len() > MAX_TOKENS {
        return Err(VocabularyError::TooMany { tokens: N_BYTES + merges.len() });
    }
    let mut tokens: Vec<Box<[u8]>> = byte_order.iter().map(|&byte| Box::from([byte])).collect();
    let mut total = N_BYTES;
    for (merge, &(left, right)) in merges.iter().enumerate() {
        let known = tokens.len();
        let token_of = |id: u32| tokens.get(id as usize).ok_or(VocabularyError::MergeOfUnknown { merge, id, known });
        let (left, right) = (token_of(left)?, token_of(right)?);
        total += left.len() + right.len();
        if total > MAX_BYTES {
            return Err(VocabularyError::TooLarge { merge });
        }
        let token = [&left[..], &right[..]].concat();
        tokens.push(token.into());
    }
    Ok(tokens)
}

/// The byte order and the merges for tokens in the order of their ranks, as in rank files. Each token from the 257th on
/// is merged from lower ones by the rule and must result in two parts.
pub fn merges_of_ranks(tokens: &[Box<[u8]>]) -> Result<([u8; N_BYTES], Vec<Pair>), VocabularyError> {
    if tokens.len() > MAX_TOKENS {
        return Err(VocabularyError::TooMany { tokens: tokens.len() });
    }
    let bytes = tokens.get(..N_BYTES).ok_or(VocabularyError::BadByteOrder)?;
    let mut byte_order = [0; N_BYTES];
    for (place, token) in byte_order.iter_mut().zip(bytes) {
        let &[byte] = &token[..] else { return Err(VocabularyError::BadByteOrder) };
        *place = byte;
    }
    let mut ids: FxHashMap<&[u8], u32> = FxHashMap::default();
    let mut merges = Vec::with_capacity(tokens.len() - N_BYTES);
    for (rank, token) in tokens.iter().enumerate() {
        if ids.contains_key(&token[..]) {
            return Err(VocabularyError::RankAppearsTwice { rank, token: token.clone() });
        }
        if rank >= N_BYTES {
            let Some(pair) = last_merge(token, &ids) else {
                return Err(VocabularyError::RankIsNoMerge { rank, token: token.clone() });
            };
            merges.push(pair);
        }
        ids.insert(token, rank as u32);
    }
    Ok((byte_order, merges))
}

/// The two tokens that the rule leaves of `token` when all lower ranks are known.
fn last_merge(token: &[u8], ids: &FxHashMap<&[u8], u32>) -> Option<Pair> {
    let mut ends: Vec<usize> = (0..=token.len()).collect();
    while ends.len() > 3 {
        let joined = ends.windows(3).enumerate();
        let ranked = joined.filter_map(|(i, w)| ids.get(&token[w[0]..w[2]]).map(|&id| (id, i)));
        let (_, at) = ranked.min()?;
        ends.remove(at + 1);
    }
    let &[start, middle, end] = &ends[..] else { return None };
    Some((*ids.get(&token[start..middle])?, *ids.get(&token[middle..end])?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_order() -> Vec<u8> {
        (0..=u8::MAX).collect()
    }

    fn error(merges: &[Pair], specials: &[(&str, u32)]) -> String {
        let specials = specials.iter().map(|&(name, id)| (name.to_owned(), id)).collect();
        Vocabulary::new(&in_order(), merges.to_vec(), specials).err().unwrap().to_string()
    }

    #[test]
    fn unusable_vocabularies_are_errors() {
        assert_eq!(error(&[(97, 98), (98, 258)], &[]), "merge 1 joins id 258, but only ids below 257 exist before it");
        assert!(error(&[], &[("", 256)]).contains("empty"));
        assert!(error(&[], &[("x", 256), ("x", 257)]).contains("appears twice"));
        assert!(error(&[(97, 98)], &[("x", 256)]).contains("from 257 on"));
        assert!(error(&[], &[("x", 256), ("y", 256)]).contains("has id 256"));
        assert!(error(&[], &[("x", u32::MAX)]).contains("more than"));
        let doubling: Vec<Pair> = (0..60).map(|i| if i == 0 { (97, 97) } else { (255 + i, 255 + i) }).collect();
        assert!(error(&doubling, &[]).contains("longer than"));
        for order in [vec![0; 256], in_order()[1..].to_vec()] {
            assert_eq!(Vocabulary::new(&order, vec![], vec![]).err(), Some(VocabularyError::BadByteOrder));
        }
    }

    #[test]
    fn special_tokens_may_leave_holes() {
        let vocabulary = Vocabulary::new(&in_order(), vec![(97, 98)], vec![("<e>".to_owned(), 300)]).unwrap();
        assert_eq!(
            (vocabulary.size(), vocabulary.token(256), vocabulary.token(300)),
            (301, Ok(&b"ab"[..]), Ok(&b"<e>"[..]))
        );
        assert_eq!(vocabulary.token(299), Err(VocabularyError::UnknownId { id: 299, size: 301 }));
    }

    #[test]
    fn merges_come_back_from_ranks() {
        let mut order = in_order();
        order.reverse();
        let merges = vec![(158, 157), (157, 156), (256, 156), (158, 257), (258, 258)];
        let vocabulary = Vocabulary::new(&order, merges.clone(), vec![]).unwrap();
        let mut ranks = vocabulary.tokens.clone();
        ranks.remove(259); // spells what 258 does
        let (back, found) = merges_of_ranks(&ranks).unwrap();
        assert_eq!((&back[..], &found[..]), (&order[..], &[(158, 157), (157, 156), (256, 156), (258, 258)][..]));
        ranks.push(b"abc".as_slice().into());
        assert!(merges_of_ranks(&ranks).err().unwrap().to_string().contains("lower rank already"));
        ranks.pop();
        ranks.push(b"zzzz".as_slice().into());
        assert!(merges_of_ranks(&ranks).err().unwrap().to_string().contains("no merge of two"));
    }
}
