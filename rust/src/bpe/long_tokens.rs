//! The tokens that are too long for a [`Key`](crate::key::Key), which the tables of short pieces cannot hold.

use rustc_hash::FxHashMap;

use super::vocabulary::Vocabulary;
use crate::key;

/// Ids of these tokens, by their bytes.
pub struct LongTokens {
    ids: FxHashMap<Box<[u8]>, u32>,
    /// Length in bytes of the longest one, 0 if there are none.
    longest: usize,
}

impl LongTokens {
    pub fn new(vocabulary: &Vocabulary) -> Self {
        let long = vocabulary.ids().into_iter().filter(|(token, _)| token.len() > key::MAX_LEN);
        let ids: FxHashMap<Box<[u8]>, u32> = long.map(|(token, id)| (token.into(), id)).collect();
        let longest = ids.keys().map(|token| token.len()).max().unwrap_or(0);
        Self { ids, longest }
    }

    /// The id of the token with exactly these bytes, which are too long for a key.
    pub fn get(&self, token: &[u8]) -> Option<u32> {
        (token.len() <= self.longest).then(|| self.ids.get(token).copied()).flatten()
    }
}
