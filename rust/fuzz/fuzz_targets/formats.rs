//! Any merges, ranks, special tokens and count tables: what is read is a vocabulary that gives every text back, or an
//! error, never a panic. What Python makes of the files around them is tested in tests/text/test_formats.py.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use rustbpe_py::bpe::{Allowed, Encoder, Vocabulary, merges_of_ranks};
use rustbpe_py::specials::Specials;
use rustbpe_py::split::Splitter;
use rustbpe_py::train::{Corpus, SavedCounts, learn_merges};

static SPLITTERS: LazyLock<[Splitter; 3]> = LazyLock::new(|| {
    [r"\p{L}+|\s+(?!\S)|\s+|.", r"[^x]+|x", r"' ?\p{L}+"].map(|pattern| Splitter::new(pattern).unwrap())
});

/// Merges of ids that mostly exist, of few bytes, so that many spell the same and some double in length.
fn merges(u: &mut Unstructured<'_>) -> Result<Vec<(u32, u32)>> {
    let mut merges = Vec::new();
    for known in 256..256 + u.int_in_range(0..=40)? {
        let id = |u: &mut Unstructured<'_>| -> Result<u32> {
            Ok(match u.int_in_range(0..=7)? {
                0..=3 => u.int_in_range(b'a'..=b'c')?.into(),
                4..=6 if known > 256 => u.int_in_range(256..=known - 1)?,
                _ => u.int_in_range(0..=known + 1)?,
            })
        };
        merges.push((id(u)?, id(u)?));
    }
    Ok(merges)
}

fn vocabulary(u: &mut Unstructured<'_>) -> Result<()> {
    let mut order: Vec<u8> = (0..=u8::MAX).collect();
    for _ in 0..u.int_in_range(0..=4)? {
        order.swap(u.arbitrary::<u8>()?.into(), u.arbitrary::<u8>()?.into());
    }
    if u.ratio(1, 16)? {
        order[0] = u.arbitrary()?;
    }
    let merges = merges(u)?;
    let first = 256 + merges.len() as u32;
    let mut specials: Vec<(String, u32)> = Vec::new();
    for _ in 0..u.int_in_range(0..=3)? {
        let id = if u.ratio(1, 8)? { u.arbitrary()? } else { first + u.int_in_range(0..=5)? };
        specials.push((u.choose(&["<a>", "<a>b", "b", "<", ""])?.to_string(), id));
    }
    let Ok(vocabulary) = Vocabulary::new(&order, merges, specials) else { return Ok(()) };
    let tokens: Vec<Box<[u8]>> = (0..first).map(|id| vocabulary.token(id).unwrap().into()).collect();
    let _ = merges_of_ranks(&tokens);
    let splitter = u.choose(&*SPLITTERS)?.clone();
    let frequent: [&[u8]; 2] = [b"abcab", b"a b"];
    let encoder = Encoder::new(splitter, vocabulary, &frequent);
    let exact = u.ratio(1, 4)?;
    let rest = u.bytes(u.len())?;
    let text: Vec<u8> = match exact {
        true => rest.to_vec(),
        false => rest.iter().flat_map(|&byte| [b"abc <>x"[usize::from(byte % 7)], b'a' + byte / 86]).collect(),
    };
    for allowed in [&Allowed::default(), encoder.allow_all()] {
        let ids: Vec<u32> = encoder.encode(&text, allowed).unwrap();
        assert_eq!(encoder.decode(&ids).unwrap(), text);
        assert_eq!(encoder.starts(&ids).unwrap().len(), ids.len());
    }
    Ok(())
}

/// Tokens as a rank file lists them, in any order and with others among them.
fn ranks(u: &mut Unstructured<'_>) -> Result<()> {
    let mut tokens: Vec<Box<[u8]>> = (0..=u8::MAX).map(|byte| Box::from([byte])).collect();
    if u.ratio(1, 8)? {
        tokens.truncate(u.int_in_range(0..=256)?);
    }
    for _ in 0..u.int_in_range(0..=30)? {
        let n = u.int_in_range(0..=11)?;
        let letters = u.bytes(n)?;
        tokens.push(letters.iter().map(|byte| b'a' + byte % 3).collect());
    }
    if let Ok((order, merges)) = merges_of_ranks(&tokens) {
        let vocabulary = Vocabulary::new(&order, merges, Vec::new()).expect("merges that were found join known tokens");
        (0..tokens.len()).for_each(|id| assert_eq!(vocabulary.token(id as u32).unwrap(), &tokens[id][..]));
    }
    Ok(())
}

/// A saved table with some bytes changed and its hash made right again, so that more than the hash is tested.
fn saved(u: &mut Unstructured<'_>) -> Result<()> {
    let mut counts = rustbpe_py::train::PieceCounts::default();
    counts.add(b"ab", 3);
    counts.add(b"a piece of more than fifteen bytes", 1 << u.int_in_range(0..=63)?);
    let specials = Specials::new(["<a>".to_owned()]).unwrap();
    let mut bytes = SavedCounts::to_bytes("p+", specials.names(), &counts);
    for _ in 0..u.int_in_range(0..=4)? {
        let at = u.choose_index(bytes.len())?;
        bytes[at] = u.arbitrary()?;
    }
    if u.ratio(1, 4)? {
        bytes.truncate(u.int_in_range(0..=bytes.len())?);
    }
    if let Some((content, hash)) = bytes.split_last_chunk_mut::<8>() {
        let right = |h: u64, &byte: &u8| (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        *hash = content.iter().fold(0xcbf2_9ce4_8422_2325, right).to_le_bytes();
    }
    if let Ok(table) = SavedCounts::from_bytes(&bytes) {
        let mut twice = table.counts.clone();
        twice.absorb(table.counts);
        let _ = learn_merges(Corpus::new(&twice).unwrap(), 50, |_| Ok::<_, ()>(()));
    }
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let mut u = Unstructured::new(data);
    let _ = match u.choose(&[0, 0, 1, 2]) {
        Ok(0) => vocabulary(&mut u),
        Ok(1) => ranks(&mut u),
        _ => saved(&mut u),
    };
});
