//! Many texts on several threads. Which thread does what changes nothing in the result.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::encoder::{Allowed, EncodeError, Encoder, Id};

/// Text that a thread takes at once.
const JOB_BYTES: usize = 1 << 17;

/// Longer texts are cut, where the pattern has places for it, so that several threads can work on one.
const CUT_BYTES: usize = 4 * JOB_BYTES;

/// The ids of many texts, one after the other.
pub struct Encoded<I> {
    pub parts: Vec<Vec<I>>,
    /// Where each text starts among all ids, and where the last one ends.
    pub offsets: Vec<u64>,
}

impl<I> Encoded<I> {
    pub fn len(&self) -> usize {
        self.parts.iter().map(Vec::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A text or a part of one.
struct Segment {
    text: usize,
    from: usize,
    to: usize,
}

/// Encodes each text, with `first` put before each where there is one, on up to `threads` threads.
pub fn encode_batch<I: Id, T: AsRef<[u8]> + Sync>(
    encoder: &Encoder,
    texts: &[T],
    allowed: &Allowed,
    first: Option<u32>,
    threads: usize,
) -> Result<Encoded<I>, EncodeError> {
    let segments = segments(encoder, texts, allowed);
    let jobs = jobs(&segments);
    let mut done: Vec<Mutex<(Vec<I>, Vec<usize>)>> = Vec::new();
    done.resize_with(jobs.len(), Mutex::default);
    let next = AtomicUsize::new(0);
    let work = || -> Result<(), EncodeError> {
        let mut worker = encoder.worker();
        loop {
            let index = next.fetch_add(1, Relaxed);
            let Some(job) = jobs.get(index) else { break };
            let segments = &segments[job.clone()];
            let bytes: usize = segments.iter().map(|s| s.to - s.from).sum();
            let mut ids = Vec::with_capacity(bytes / 3 + segments.len() + 8);
            let mut ends = Vec::with_capacity(segments.len());
            for segment in segments {
                if let Some(first) = first.filter(|_| segment.from == 0) {
                    ids.push(I::of(first));
                }
                let text = &texts[segment.text].as_ref()[segment.from..segment.to];
                encoder.encode_into(&mut worker, text, allowed, &mut ids)?;
                ends.push(ids.len());
            }
            *done[index].lock().expect("no other thread has this job") = (ids, ends);
        }
        encoder.leave(worker);
        Ok(())
    };
    let threads = threads.min(jobs.len()).max(1);
    if threads == 1 {
        work()?;
    } else {
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| worker.join().expect("encoding does not panic"))
        })?;
    }
    let mut encoded = Encoded { parts: Vec::with_capacity(jobs.len()), offsets: vec![0; texts.len() + 1] };
    let mut before = 0;
    for (job, done) in jobs.iter().zip(done) {
        let (ids, ends) = done.into_inner().expect("all threads have ended");
        for (segment, end) in segments[job.clone()].iter().zip(ends) {
            encoded.offsets[segment.text + 1] = before + end as u64;
        }
        before += ids.len() as u64;
        encoded.parts.push(ids);
    }
    Ok(encoded)
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

/// Neighbouring segments, as many as make a job.
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
                assert!(encoded.parts.len() > 3);
                assert_eq!(encoded.parts.concat(), expected.concat());
                let lengths: Vec<usize> = encoded.offsets.windows(2).map(|w| (w[1] - w[0]) as usize).collect();
                assert_eq!(lengths, expected.iter().map(Vec::len).collect::<Vec<_>>());
            }
        }
    }
}
