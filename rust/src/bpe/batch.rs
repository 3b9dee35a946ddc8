//! Encodes many texts on several threads. The result does not depend on how the work is divided.

use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::encoder::{Allowed, Encoder};
use super::error::EncodeError;
use super::id::Id;

/// Bytes of text in one job of a thread.
const JOB_BYTES: usize = 1 << 17;

/// Longer texts are split where the pattern allows it, so that several threads can work on one.
const CUT_BYTES: usize = 4 * JOB_BYTES;

/// The concatenated ids of many texts.
pub struct Encoded<I> {
    pub ids: Vec<I>,
    /// Where each text starts in `ids`, and where the last one ends.
    pub offsets: Vec<u64>,
}

/// A text or a part of one.
struct Segment {
    text: usize,
    from: usize,
    to: usize,
}

/// The output of one thread: ids of the jobs it took, one after another.
struct Share<I> {
    ids: Vec<I>,
    /// The number of each job, and where its ids end.
    jobs: Vec<(usize, usize)>,
    /// The number of each segment of these jobs, and how many ids it has.
    segments: Vec<(usize, usize)>,
}

/// Encodes each text, with the id `first` before each if given, on up to `threads` threads.
pub fn encode_batch<I: Id, T: AsRef<[u8]> + Sync>(
    encoder: &Encoder,
    texts: &[T],
    allowed: &Allowed,
    first: Option<u32>,
    threads: usize,
) -> Result<Encoded<I>, EncodeError> {
    let segments = segments(encoder, texts, allowed);
    let jobs = jobs(&segments);
    let threads = threads.min(jobs.len()).max(1);
    let bytes: usize = segments.iter().map(|s| s.to - s.from).sum();
    let next = AtomicUsize::new(0);
    let work = || -> Result<Share<I>, EncodeError> {
        let mut worker = encoder.worker();
        // Enough for most text; pages that are never written to take no memory.
        let ids = Vec::with_capacity((bytes / 3 + segments.len()) / threads + 8);
        let mut share = Share { ids, jobs: Vec::new(), segments: Vec::new() };
        loop {
            let index = next.fetch_add(1, Relaxed);
            let Some(job) = jobs.get(index) else { break };
            for (at, segment) in job.clone().zip(&segments[job.clone()]) {
                let before = share.ids.len();
                if let Some(first) = first.filter(|_| segment.from == 0) {
                    share.ids.push(I::of(first));
                }
                let text = &texts[segment.text].as_ref()[segment.from..segment.to];
                encoder.encode_into(&mut worker, text, allowed, &mut share.ids)?;
                share.segments.push((at, share.ids.len() - before));
            }
            share.jobs.push((index, share.ids.len()));
        }
        encoder.leave(worker);
        Ok(share)
    };
    let shares = match threads {
        1 => vec![work()?],
        _ => std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let own = work();
            let others = others.into_iter().map(|other| other.join().expect("encoding does not panic"));
            std::iter::once(own).chain(others).collect::<Result<Vec<_>, _>>()
        })?,
    };
    let mut offsets = vec![0; texts.len() + 1];
    for &(segment, n) in shares.iter().flat_map(|share| &share.segments) {
        offsets[segments[segment].text + 1] += n as u64;
    }
    for text in 0..texts.len() {
        offsets[text + 1] += offsets[text];
    }
    Ok(Encoded { ids: joined(shares, jobs.len()), offsets })
}

/// Where ids are copied to, and the ids.
type Placed<'a, I> = (&'a mut [MaybeUninit<I>], &'a [I]);

/// The ids of all jobs in order. Each thread copies one share, because the first touch of new memory takes as long as
/// the copy.
fn joined<I: Id>(mut shares: Vec<Share<I>>, n_jobs: usize) -> Vec<I> {
    if let [only] = &mut shares[..] {
        return std::mem::take(&mut only.ids);
    }
    let mut of_job: Vec<(usize, &[I])> = vec![(0, &[]); n_jobs];
    for (index, share) in shares.iter().enumerate() {
        let mut from = 0;
        for &(job, to) in &share.jobs {
            of_job[job] = (index, &share.ids[from..to]);
            from = to;
        }
    }
    let n = shares.iter().map(|share| share.ids.len()).sum();
    let mut ids = Vec::with_capacity(n);
    let mut copies: Vec<Vec<Placed<'_, I>>> = Vec::new();
    copies.resize_with(shares.len(), Vec::new);
    let mut rest = &mut ids.spare_capacity_mut()[..n];
    for (index, from) in of_job {
        let (to, behind) = rest.split_at_mut(from.len());
        copies[index].push((to, from));
        rest = behind;
    }
    assert!(rest.is_empty(), "every share's ids are those of its jobs");
    let copy = |copies: Vec<Placed<'_, I>>| {
        for (to, from) in copies {
            to.iter_mut().zip(from).for_each(|(to, &from)| {
                to.write(from);
            });
        }
    };
    std::thread::scope(|scope| {
        let own = copies.pop();
        copies.into_iter().for_each(|others| drop(scope.spawn(move || copy(others))));
        own.into_iter().for_each(copy);
    });
    // SAFETY: each copy has the length of its source, and together they cover the first `n` items.
    unsafe { ids.set_len(n) };
    ids
}

fn segments<T: AsRef<[u8]>>(encoder: &Encoder, texts: &[T], allowed: &Allowed) -> Vec<Segment> {
    let mut segments = Vec::with_capacity(texts.len());
    let may_cut = allowed.may_cut_at_lines();
    for (index, text) in texts.iter().enumerate() {
        let text = text.as_ref();
        let mut from = 0;
        while may_cut && text.len() - from > CUT_BYTES {
            let Some(cut) = encoder.splitter().last_cut(&text[from..from + CUT_BYTES]) else { break };
            segments.push(Segment { text: index, from, to: from + cut });
            from += cut;
        }
        segments.push(Segment { text: index, from, to: text.len() });
    }
    segments
}

/// Adjacent segments that together make a job.
fn jobs(segments: &[Segment]) -> Vec<Range<usize>> {
    let mut jobs = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, segment) in segments.iter().enumerate() {
        bytes += segment.to - segment.from + 1;
        if bytes >= JOB_BYTES || index + 1 == segments.len() {
            jobs.push(start..index + 1);
            (start, bytes) = (index + 1, 0);
        }
    }
    jobs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpe::Vocabulary;
    use crate::split::Splitter;

    const NANOCHAT: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";

    #[test]
    fn ids_of_jobs_come_in_order_whoever_took_them() {
        let share = |jobs: &[(usize, &[u16])]| {
            let mut share = Share { ids: Vec::new(), jobs: Vec::new(), segments: Vec::new() };
            for (job, ids) in jobs {
                share.ids.extend_from_slice(ids);
                share.jobs.push((*job, share.ids.len()));
            }
            share
        };
        let shares =
            vec![share(&[(1, &[3, 4, 5]), (4, &[8])]), share(&[]), share(&[(0, &[1, 2]), (2, &[]), (3, &[6, 7])])];
        assert_eq!(joined(shares, 5), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(joined(vec![share(&[(0, &[1]), (1, &[2])])], 2), [1, 2]);
        assert_eq!(joined(vec![share(&[]), share(&[(0, &[])])], 1), [0; 0]);
    }

    #[test]
    #[cfg_attr(miri, ignore = "texts that are cut are too long for it")]
    fn threads_and_cuts_do_not_change_the_result() {
        let order: Vec<u8> = (0..=u8::MAX).collect();
        let merges = vec![(97, 98), (256, 99), (32, 257), (10, 10)];
        let vocabulary = Vocabulary::new(&order, merges, vec![("<b>".to_owned(), 260)]).unwrap();
        let encoder = Encoder::new(Splitter::new(NANOCHAT).unwrap(), vocabulary, &[""; 0]);
        let line = "abc abcab, <b> 12345\n\n  x\n\u{e9}\n";
        let texts: Vec<String> = [0, 1, 7, 40_000, 0, 3, 5_000, 2].map(|n| line.repeat(n)).to_vec();
        for (allowed, first) in [(&Allowed::default(), None), (encoder.allow_all(), Some(260))] {
            let expected: Vec<Vec<u16>> = texts
                .iter()
                .map(|text| {
                    let ids = encoder.encode::<u16>(text.as_bytes(), allowed).unwrap();
                    first.map(|id| id as u16).into_iter().chain(ids).collect()
                })
                .collect();
            for threads in [1, 3] {
                let encoded = encode_batch::<u16, _>(&encoder, &texts, allowed, first, threads).unwrap();
                assert_eq!(encoded.ids, expected.concat());
                let lengths: Vec<usize> = encoded.offsets.windows(2).map(|w| (w[1] - w[0]) as usize).collect();
                assert_eq!(lengths, expected.iter().map(Vec::len).collect::<Vec<_>>());
            }
        }
    }
}
