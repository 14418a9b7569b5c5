//! Objects that come out of a file on the mirror while the rest of it is still under way.

use std::cell::RefCell;

use super::fetch::Job;
use crate::manifest::{Location, Row};
use crate::remote::Sink;

/// For so much of one object room is made at once: for most that is all of it.
const MOST_RESERVED_BYTES: usize = 4 << 20;

/// Objects that have arrived and were not looked at yet, each with where it was found.
#[derive(Default)]
pub struct Arrived {
    pub objects: Vec<(Row, Location, Vec<u8>)>,
    pub len_bytes: u64,
}

/// Cuts the wanted objects of a job out of the bytes that come, whole packs of which need not be in memory.
pub struct Arriving<'a> {
    job: &'a Job,
    into: &'a RefCell<Arrived>,
    /// How many of the wanted objects are out.
    done: usize,
    /// The beginning of the next one.
    begun: Vec<u8>,
    /// Where in the file the next byte is.
    position: u64,
}

impl<'a> Arriving<'a> {
    /// What `job` asks for, to be put `into` that.
    pub fn new(job: &'a Job, into: &'a RefCell<Arrived>) -> Self {
        Self { job, into, done: 0, begun: Vec::new(), position: 0 }
    }

    /// Whether everything that was wanted has come.
    pub fn is_whole(&self) -> bool {
        self.done == self.job.wanted.len()
    }
}

impl Sink for Arriving<'_> {
    fn begin(&mut self, _told: Option<u64>) {
        self.position = self.job.range.map_or(0, |range| range.offset);
        self.begun.clear();
        if self.done > 0 {
            // The end of an answer that broke off may be anything: what nobody has looked at yet is taken from this one.
            let given = &self.job.wanted[..self.done];
            let mut into = self.into.borrow_mut();
            let before = into.objects.len();
            into.objects.retain(|(row, ..)| !given.iter().any(|(it, _)| it.object == row.object));
            self.done -= before - into.objects.len();
            into.len_bytes = into.objects.iter().map(|(row, ..)| u64::from(row.len_bytes)).sum();
        }
    }

    fn take(&mut self, mut bytes: &[u8]) {
        while let Some((row, offset)) = self.job.wanted.get(self.done) {
            let skipped = usize::try_from((offset + self.begun.len() as u64).saturating_sub(self.position));
            let Some(rest) = skipped.ok().and_then(|skipped| bytes.get(skipped..)) else { break };
            self.position += (bytes.len() - rest.len()) as u64;
            if self.begun.is_empty() {
                // The length is only a claim.
                self.begun.reserve_exact((row.len_bytes as usize).min(MOST_RESERVED_BYTES));
            }
            let (piece, rest) = rest.split_at(rest.len().min(row.len_bytes as usize - self.begun.len()));
            self.begun.extend_from_slice(piece);
            self.position += piece.len() as u64;
            bytes = rest;
            if self.begun.len() < row.len_bytes as usize {
                return;
            }
            let mut into = self.into.borrow_mut();
            into.len_bytes += u64::from(row.len_bytes);
            into.objects.push((
                row.clone(),
                Location { offset: *offset, ..self.job.at },
                std::mem::take(&mut self.begun),
            ));
            self.done += 1;
        }
        self.position += bytes.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::{DeviceId, ObjectName};
    use crate::manifest::Subject;
    use crate::remote::ByteRange;

    const START: u64 = 7;

    /// A file of objects with gaps before them, and the job that wants them all, of all of the file or only from its
    /// first object on.
    fn file(objects: &[(usize, usize)], is_part: bool) -> (Vec<u8>, Job) {
        let mut bytes = vec![0xee; START as usize];
        let mut wanted = Vec::new();
        for (number, (gap, len)) in objects.iter().enumerate() {
            bytes.extend(vec![0xee; *gap]);
            let object = ObjectName::from_bytes([number as u8; 32]);
            let row = Row { object, len_bytes: *len as u32, schema: 0, epoch: 1, subject: Subject::Part };
            wanted.push((row, bytes.len() as u64));
            bytes.extend(vec![number as u8; *len]);
        }
        let len_bytes = bytes.len() as u64;
        let name = ObjectName::from_bytes([0xff; 32]);
        let writer = DeviceId::from_bytes([1; 16]);
        let at = Location { writer, batch: 1, file: name, file_len_bytes: len_bytes, offset: 0 };
        let range = is_part.then_some(ByteRange { offset: START, len_bytes: len_bytes - START });
        (bytes, Job { at, range, wanted })
    }

    proptest! {
        #[test]
        fn every_object_comes_out_once_however_it_arrives(
            // No object is empty, and nobody can ask for a range of no bytes.
            objects in prop::collection::vec((0_usize..5, 1_usize..40), 0..12),
            is_part in any::<bool>(),
            breaks in prop::collection::vec(0_usize..300, 0..4),
            piece in 1_usize..50,
        ) {
            let (bytes, job) = file(&objects, is_part);
            let sent = if is_part { &bytes[START as usize..] } else { &bytes[..] };
            let into = RefCell::default();
            let mut arriving = Arriving::new(&job, &into);
            for end in breaks.into_iter().map(|end| end.min(sent.len())).chain([sent.len()]) {
                arriving.begin(None);
                sent[..end].chunks(piece).for_each(|piece| arriving.take(piece));
            }
            prop_assert!(arriving.is_whole());
            let arrived = into.take();
            prop_assert_eq!(arrived.len_bytes, objects.iter().map(|(_, len)| *len as u64).sum::<u64>());
            prop_assert_eq!(arrived.objects.len(), objects.len());
            for (number, (row, at, content)) in arrived.objects.iter().enumerate() {
                prop_assert_eq!(row.object, job.wanted[number].0.object);
                prop_assert_eq!(at.offset, job.wanted[number].1);
                prop_assert_eq!(content, &vec![number as u8; objects[number].1]);
            }
        }
    }

    #[test]
    fn what_an_answer_ended_with_before_it_broke_off_is_not_believed() {
        let (bytes, job) = file(&[(0, 10), (0, 10), (0, 10)], false);
        let into = RefCell::default();
        let mut arriving = Arriving::new(&job, &into);
        arriving.begin(None);
        arriving.take(&bytes[..START as usize + 10]);
        // The first one was looked at meanwhile.
        into.take();
        arriving.take(&[b'x'; 15]);
        arriving.begin(None);
        arriving.take(&bytes);
        assert!(arriving.is_whole());
        let arrived = into.take();
        assert_eq!(arrived.len_bytes, 20);
        assert_eq!(arrived.objects.iter().map(|(.., it)| it[0]).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_length_that_is_only_claimed_takes_no_memory() {
        let (bytes, mut job) = file(&[(0, 10)], false);
        job.wanted[0].0.len_bytes = u32::MAX;
        let into = RefCell::default();
        let mut arriving = Arriving::new(&job, &into);
        arriving.begin(None);
        arriving.take(&bytes);
        assert!(!arriving.is_whole() && arriving.begun.capacity() <= MOST_RESERVED_BYTES);
    }

    #[test]
    fn of_what_ends_too_soon_the_rest_is_missing() {
        let (bytes, job) = file(&[(0, 10), (3, 10)], false);
        let into = RefCell::default();
        let mut arriving = Arriving::new(&job, &into);
        arriving.begin(None);
        arriving.take(&bytes[..bytes.len() - 1]);
        assert!(!arriving.is_whole());
        assert_eq!(into.borrow().objects.len(), 1);
    }
}
