//! The spool's files: append-only segments of records, the oldest dropped whole.
//!
//! A record is its body's length, its number, its time and a checksum, then the body. A record
//! that was torn by a crash ends its segment; what follows goes into a new one.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bellwether_protocol::codec::MESSAGE_LEN_MAX;
use bellwether_protocol::time::{Span, Timestamp};

/// How long records are kept after they were sent.
const KEEP: Span = Span::from_secs(15 * 60);
/// Bytes of one segment.
const SEGMENT_LEN: u64 = 1024 * 1024;
/// Bytes of all segments.
const TOTAL_LEN_MAX: u64 = 64 * 1024 * 1024;
/// Length, number, time, checksum.
const HEAD_LEN: usize = 4 + 8 + 8 + 4;

/// The spool's files, and where each record lies in them.
#[derive(Debug)]
pub(super) struct Disk {
    dir: PathBuf,
    segments: VecDeque<Segment>,
    active: Option<File>,
    next_seq: u64,
    total_len_max: u64,
    /// Records that were dropped before they were sent.
    pub(super) dropped: u64,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    len: u64,
    records: Vec<Record>,
}

#[derive(Debug, Clone, Copy)]
struct Record {
    seq: u64,
    at: Timestamp,
    offset: u64,
    len: usize,
}

impl Disk {
    /// Opens `dir`. Numbers go on behind the last record, and not below `floor`.
    pub(super) fn open(dir: &Path, floor: u64) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "spool") {
                paths.push(path);
            }
        }
        // Their names are numbers of equal width, so that this is their order.
        paths.sort();
        let mut segments = VecDeque::new();
        for path in paths {
            segments.push_back(scan(path)?);
        }
        let last = segments.iter().flat_map(|segment: &Segment| segment.records.last()).map(|record| record.seq).max();
        let next_seq = last.map_or(floor, |last| floor.max(last.saturating_add(1)));
        let dir = dir.to_owned();
        Ok(Self { dir, segments, active: None, next_seq, total_len_max: TOTAL_LEN_MAX, dropped: 0 })
    }

    /// The number that the next record gets.
    pub(super) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Appends a record.
    pub(super) fn append(&mut self, at: Timestamp, body: &[u8]) -> io::Result<()> {
        let seq = self.next_seq;
        let is_full = self.segments.back().is_none_or(|segment| segment.len >= SEGMENT_LEN);
        let mut file = match self.active.take() {
            Some(file) if !is_full => file,
            _ => self.begin_segment(seq)?,
        };
        let len = u32::try_from(body.len()).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(HEAD_LEN + body.len());
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(&seq.to_le_bytes());
        bytes.extend_from_slice(&at.as_ms().to_le_bytes());
        bytes.extend_from_slice(&checksum(seq, at, body).to_le_bytes());
        bytes.extend_from_slice(body);
        // After a failed write the segment may hold half a record: it is not written to again,
        // because `active` was taken.
        file.write_all(&bytes)?;
        self.active = Some(file);
        self.next_seq = seq.saturating_add(1);
        if let Some(segment) = self.segments.back_mut() {
            let offset = segment.len + HEAD_LEN as u64;
            segment.records.push(Record { seq, at, offset, len: body.len() });
            segment.len += bytes.len() as u64;
        }
        Ok(())
    }

    fn begin_segment(&mut self, seq: u64) -> io::Result<File> {
        let path = self.dir.join(format!("{seq:020}.spool"));
        let file = File::create(&path)?;
        self.segments.push_back(Segment { path, len: 0, records: Vec::new() });
        Ok(file)
    }

    /// The first record behind number `after`.
    pub(super) fn read_after(&self, after: u64) -> io::Result<Option<(u64, Vec<u8>)>> {
        for segment in &self.segments {
            let index = segment.records.partition_point(|record| record.seq <= after);
            if let Some(record) = segment.records.get(index) {
                let mut file = File::open(&segment.path)?;
                file.seek(SeekFrom::Start(record.offset))?;
                let mut body = vec![0; record.len];
                file.read_exact(&mut body)?;
                return Ok(Some((record.seq, body)));
            }
        }
        Ok(None)
    }

    /// Bytes of all segments.
    pub(super) fn len(&self) -> u64 {
        self.segments.iter().map(|segment| segment.len).sum()
    }

    /// How many records lie behind number `after`, and the bytes of their files from there on.
    pub(super) fn waiting_after(&self, after: u64) -> (u64, u64) {
        self.segments.iter().fold((0, 0), |(count, len), segment| {
            let sent = segment.records.partition_point(|record| record.seq <= after);
            let from = segment.records.get(sent).map_or(segment.len, |first| first.offset - HEAD_LEN as u64);
            (count + (segment.records.len() - sent) as u64, len + segment.len - from)
        })
    }

    /// Drops what is no longer needed: sent and old, or simply too much. `sent` is the last number sent.
    pub(super) fn prune(&mut self, sent: u64, now: Timestamp) {
        let mut total = self.len();
        while self.segments.len() > 1 {
            let Some(first) = self.segments.front() else { return };
            let last = first.records.last();
            let is_done = last.is_none_or(|last| last.seq <= sent && now.since(last.at) > KEEP);
            if !is_done && total <= self.total_len_max {
                return;
            }
            let unsent = first.records.iter().filter(|record| record.seq > sent).count();
            if let Err(error) = std::fs::remove_file(&first.path) {
                tracing::warn!(path = %first.path.display(), %error, "cannot remove a spool segment");
            }
            self.dropped = self.dropped.saturating_add(unsent as u64);
            total -= first.len;
            self.segments.pop_front();
        }
    }
}

/// Finds the records of a segment, up to the first that is torn.
fn scan(path: PathBuf) -> io::Result<Segment> {
    let mut bytes = Vec::new();
    File::open(&path)?.take(SEGMENT_LEN + 2 * MESSAGE_LEN_MAX as u64).read_to_end(&mut bytes)?;
    let mut records = Vec::new();
    let mut offset = 0;
    while let Some((record, end)) = record_at(&bytes, offset) {
        records.push(record);
        offset = end;
    }
    if offset < bytes.len() {
        tracing::warn!(path = %path.display(), lost = bytes.len() - offset, "the spool was torn by a crash");
    }
    Ok(Segment { path, len: bytes.len() as u64, records })
}

fn record_at(bytes: &[u8], offset: usize) -> Option<(Record, usize)> {
    let head = bytes.get(offset..offset + HEAD_LEN)?;
    let len = u32::from_le_bytes(head.get(..4)?.try_into().ok()?) as usize;
    let seq = u64::from_le_bytes(head.get(4..12)?.try_into().ok()?);
    let at = Timestamp::from_ms(i64::from_le_bytes(head.get(12..20)?.try_into().ok()?));
    let sum = u32::from_le_bytes(head.get(20..24)?.try_into().ok()?);
    let start = offset + HEAD_LEN;
    let end = start.checked_add(len)?;
    let body = bytes.get(start..end)?;
    (len <= MESSAGE_LEN_MAX && checksum(seq, at, body) == sum)
        .then_some((Record { seq, at, offset: start as u64, len }, end))
}

/// FNV-1a: enough to tell a torn record from a whole one, which is all that is asked of it.
fn checksum(seq: u64, at: Timestamp, body: &[u8]) -> u32 {
    let head = seq.to_le_bytes().into_iter().chain(at.as_ms().to_le_bytes());
    head.chain(body.iter().copied()).fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_ms(s * 1_000)
    }

    fn all(disk: &Disk) -> Vec<(u64, Vec<u8>)> {
        let mut found = Vec::new();
        let mut after = 0;
        while let Some((seq, body)) = disk.read_after(after).expect("read") {
            after = seq;
            found.push((seq, body));
        }
        found
    }

    #[test]
    fn records_outlive_the_process_and_numbers_go_on() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut disk = Disk::open(dir.path(), 10).expect("opened");
        disk.append(at(1), b"a").expect("written");
        disk.append(at(2), b"").expect("written");
        let mut disk = Disk::open(dir.path(), 5).expect("opened");
        assert_eq!(all(&disk), [(10, b"a".to_vec()), (11, Vec::new())]);
        disk.append(at(3), b"c").expect("written");
        assert_eq!(all(&disk).last(), Some(&(12, b"c".to_vec())));
        assert_eq!((disk.waiting_after(10), disk.waiting_after(12)), ((2, 2 * HEAD_LEN as u64 + 1), (0, 0)));
    }

    #[test]
    fn a_torn_record_is_dropped_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut disk = Disk::open(dir.path(), 1).expect("opened");
        disk.append(at(1), b"first").expect("written");
        disk.append(at(1), b"second").expect("written");
        let path = disk.segments[0].path.clone();
        let whole = std::fs::read(&path).expect("read");
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).expect("written");
            let mut disk = Disk::open(dir.path(), 100).expect("opened");
            let kept = usize::from(cut >= HEAD_LEN + 5);
            assert_eq!(all(&disk).len(), kept, "cut at {cut}");
            disk.append(at(2), b"next").expect("written");
            assert_eq!(all(&disk).last(), Some(&(100, b"next".to_vec())));
            std::fs::remove_file(dir.path().join(format!("{:020}.spool", 100))).expect("removed");
        }
        let mut flipped = whole;
        flipped[HEAD_LEN] ^= 1;
        std::fs::write(&path, &flipped).expect("written");
        assert!(all(&Disk::open(dir.path(), 100).expect("opened")).is_empty());
    }

    #[test]
    fn it_keeps_what_is_unsent_or_young_within_its_bound() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut disk = Disk::open(dir.path(), 1).expect("opened");
        let body = vec![0; 512 * 1024];
        for n in 0..8 {
            disk.append(at(n), &body).expect("written");
        }
        disk.prune(8, at(100));
        assert_eq!(disk.waiting_after(0).0, 8, "young ones stay");
        disk.prune(3, at(10_000));
        assert_eq!(disk.waiting_after(0).0, 6, "unsent ones stay");
        disk.total_len_max = 3 * 1024 * 1024;
        disk.prune(3, at(10_000));
        assert_eq!((disk.waiting_after(0).0, disk.dropped), (4, 1), "too much goes");
        disk.prune(8, at(10_000));
        assert_eq!(disk.waiting_after(0).0, 2, "the segment in use stays");
        assert_eq!(std::fs::read_dir(dir.path()).expect("read").count(), 1);
    }
}
