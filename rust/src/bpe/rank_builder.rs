//! Finds the pair that each token of a vocabulary is joined from, by applying the rule to the tokens themselves.

use super::merge::LongMerger;
use super::ranks::Ranks;
use super::vocabulary::Vocabulary;

/// Finds the one pair that each token is joined from.
///
/// Two neighbors can only join to a token in the state that the rule, applied to that token's bytes alone, reaches when
/// two parts are left, because nothing outside the token is involved before. So the tokens are merged in the order of
/// their lengths, each with the ranks of shorter ones. A token that leaves more than two parts is never reached.
pub fn ranks_of(vocabulary: &Vocabulary) -> Ranks {
    let ids = vocabulary.ids();
    let mut ranks = Ranks::without_pairs(vocabulary, ids.len());
    let mut by_length: Vec<(&[u8], u32)> = ids.into_iter().filter(|(token, _)| token.len() > 1).collect();
    by_length.sort_unstable_by_key(|(token, _)| token.len());
    let (mut merger, mut parts) = (LongMerger::default(), Vec::new());
    for (token, id) in by_length {
        parts.clear();
        merger.merge_any(&ranks, token, &mut parts);
        if let &[left, right] = &parts[..] {
            ranks.insert(left, right, id);
        }
        if let &[left, right] = token {
            ranks.insert_bytes(left, right, id);
        }
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpe::id::NO_TOKEN;

    #[test]
    fn a_token_is_joined_from_what_the_rule_leaves_of_it() {
        let order: Vec<u8> = (0..=u8::MAX).rev().collect();
        let byte = |b: u8| 255 - u32::from(b);
        // abc is learned as ab + c, but bc has the lower rank, so abc is joined from a + bc.
        let merges = vec![(byte(b'b'), byte(b'c')), (byte(b'a'), byte(b'b')), (257, byte(b'c')), (256, byte(b'd'))];
        let ranks = ranks_of(&Vocabulary::new(&order, merges, vec![]).unwrap());
        assert_eq!((ranks.joined(byte(b'b'), byte(b'c')), ranks.joined_bytes(b'b', b'c')), (256, 256));
        assert_eq!((ranks.joined(byte(b'a'), 256), ranks.joined(256, byte(b'd'))), (258, 259));
        assert_eq!((ranks.joined(257, byte(b'c')), ranks.joined_bytes(b'd', b'b')), (NO_TOKEN, NO_TOKEN));
        assert_eq!(ranks.byte_ids[usize::from(b'a')], byte(b'a'));
    }
}
