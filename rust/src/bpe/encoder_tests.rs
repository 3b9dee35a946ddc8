use super::*;
use crate::Pair;
use proptest::prelude::*;

const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

fn encoder(merges: &[Pair], frequent: &[&str]) -> Encoder {
    let order: Vec<u8> = (0..=u8::MAX).collect();
    let first = 256 + merges.len() as u32;
    let specials = vec![("<|bos|>".to_owned(), first), ("<|end|>".to_owned(), first + 1)];
    let vocabulary = Vocabulary::new(&order, merges.to_vec(), specials).unwrap();
    Encoder::new(Splitter::new(WORDS).unwrap(), vocabulary, frequent)
}

const MERGES: [Pair; 8] = [(97, 98), (256, 99), (32, 257), (99, 99), (258, 100), (60, 124), (100, 100), (262, 262)];

fn encode(encoder: &Encoder, text: &str) -> Vec<u32> {
    encoder.encode(text.as_bytes(), &Allowed::default()).unwrap()
}

proptest! {
    #[test]
    fn any_bytes_come_back(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[a-d ]{0,80}.{0,20}") {
        let encoder = encoder(&MERGES, &["cab"]);
        let bytes = [text.as_bytes(), &bytes].concat();
        for _ in 0..2 {
            let ids: Vec<u32> = encoder.encode(&bytes, &Allowed::default()).unwrap();
            prop_assert_eq!(encoder.decode(&ids).unwrap(), &bytes[..]);
        }
    }

    #[test]
    fn what_is_remembered_changes_nothing(text in "[a-d ]{0,200}|(a|b|c| ){0,40}d{10,90}") {
        let plain = encode(&encoder(&MERGES, &[]), &text);
        let warm = encoder(&MERGES, &["abc", "cab", " abcdd", "dddddddddddd", "x"]);
        prop_assert_eq!(&encode(&warm, &text), &plain);
        prop_assert_eq!(&encode(&warm, &text), &plain);
        let narrow: Vec<u16> = warm.encode(text.as_bytes(), &Allowed::default()).unwrap();
        prop_assert_eq!(narrow.into_iter().map(u32::from).collect::<Vec<_>>(), plain);
    }
}

#[test]
fn text_gets_a_special_token_only_where_it_is_allowed() {
    let encoder = encoder(&MERGES, &[]);
    let text = b"ab<|bos|>ab<|end|>";
    let ids = |allowed: &Allowed| encoder.encode::<u32>(text, allowed).unwrap();
    assert!(ids(&Allowed::default()).iter().all(|&id| id < 264));
    assert_eq!(ids(encoder.allow_all()), [256, 264, 256, 265]);
    let one = encoder.allow(["<|end|>".to_owned()]).unwrap();
    assert_eq!(ids(&one).iter().filter(|&&id| id >= 264).collect::<Vec<_>>(), [&265]);
    assert_eq!(encoder.decode(&ids(&one)).unwrap(), text);
    assert!(encoder.allow(["<|x|>".to_owned()]).is_err());
}

#[test]
fn unknown_ids_are_errors() {
    let encoder = encoder(&[(97, 98)], &[]);
    assert_eq!(encoder.decode(&[97, 256, 257]).unwrap(), b"aab<|bos|>");
    assert!(encoder.decode(&[97, 259]).is_err());
    assert!(encoder.decode(&[u32::MAX]).is_err());
}
