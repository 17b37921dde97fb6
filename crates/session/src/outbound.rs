//! Bytes on their way to one socket, in two buffers that take turns.

use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

use bytes::Buf;
use leveret_record::Blob;

/// A shared body that goes out after `at` bytes of the buffer.
#[derive(Debug)]
struct Splice {
    at: usize,
    blob: Arc<Blob>,
    range: Range<usize>,
}

/// A buffer and the shared bodies spliced into it.
#[derive(Debug, Default)]
struct Segments {
    bytes: Vec<u8>,
    splices: Vec<Splice>,
}

impl Segments {
    fn len(&self) -> usize {
        self.bytes.len()
            + self
                .splices
                .iter()
                .map(|splice| splice.range.len())
                .sum::<usize>()
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.splices.clear();
    }
}

/// What a flush has taken to write; it comes back with how much was written.
#[derive(Debug, Default)]
pub struct Pending {
    segments: Segments,
    written: usize,
    len: usize,
}

impl Pending {
    /// Whether everything is written.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.written >= self.len
    }

    /// The unwritten parts in order.
    fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let Segments { bytes, splices } = &self.segments;
        let ends = splices.iter().map(|splice| splice.at);
        let begins = [0].into_iter().chain(ends.clone());
        let between = begins.zip(ends.chain([bytes.len()]));
        let own = between.map(|(begin, end)| bytes.get(begin..end).unwrap_or_default());
        let bodies = splices
            .iter()
            .map(|splice| splice.blob.get(splice.range.clone()));
        let shared = bodies.map(Option::unwrap_or_default).chain([&[][..]]);
        let mut skip = self.written;
        own.zip(shared)
            .flat_map(|(own, shared)| [own, shared])
            .filter_map(move |part| {
                let left = part.get(skip..);
                skip = skip.saturating_sub(part.len());
                left.filter(|part| !part.is_empty())
            })
    }
}

impl Buf for Pending {
    fn remaining(&self) -> usize {
        self.len - self.written
    }

    fn chunk(&self) -> &[u8] {
        self.parts().next().unwrap_or_default()
    }

    fn chunks_vectored<'a>(&'a self, out: &mut [IoSlice<'a>]) -> usize {
        let places = out.iter_mut().zip(self.parts());
        places
            .map(|(place, part)| *place = IoSlice::new(part))
            .count()
    }

    /// Notes that the kernel took `bytes` more.
    fn advance(&mut self, bytes: usize) {
        self.written += bytes.min(self.remaining());
    }
}

/// Outbound bytes of one connection.
#[derive(Debug, Default)]
pub struct Outbound {
    filling: Segments,
    filling_len: usize,
    unwritten: Pending,
    /// Somebody has taken the bytes and is writing them.
    writing: bool,
    in_flight: usize,
    /// How many of the bytes in `filling`, and of those that a flush has taken, are replies.
    replies: usize,
    replies_in_flight: usize,
    /// The socket is gone: what a flush still has is dropped when it comes back.
    cleared: bool,
    /// Somebody has promised to flush.
    dirty: bool,
    written: u64,
    writes: u64,
}

impl Outbound {
    /// Bytes not yet with the kernel.
    #[must_use]
    #[inline]
    pub const fn queued(&self) -> usize {
        self.filling_len + self.in_flight
    }

    /// Bytes of replies not yet with the kernel. Deliveries behind them that are not either may
    /// count as such.
    #[must_use]
    pub fn queued_replies(&self) -> usize {
        self.replies + self.replies_in_flight.min(self.in_flight)
    }

    /// What was appended since so many bytes were queued is a reply.
    #[inline]
    pub const fn count_reply(&mut self, queued: usize) {
        self.replies += self.queued() - queued;
    }

    /// Bytes written in all.
    #[must_use]
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// Times that bytes were written.
    #[must_use]
    pub const fn writes(&self) -> u64 {
        self.writes
    }

    /// Runs `encode` on the buffer.
    #[inline]
    pub fn write(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let before = self.filling.bytes.len();
        encode(&mut self.filling.bytes);
        self.filling_len += self.filling.bytes.len() - before;
    }

    /// Appends part of a shared body without copying it.
    pub fn splice(&mut self, blob: &Arc<Blob>, range: Range<usize>) {
        self.filling_len += range.len();
        let at = self.filling.bytes.len();
        self.filling.splices.push(Splice {
            at,
            blob: Arc::clone(blob),
            range,
        });
    }

    /// Marks that bytes wait; `true` when nobody has promised to flush them yet.
    #[inline]
    pub const fn mark_dirty(&mut self) -> bool {
        let first = !self.dirty;
        self.dirty = true;
        first
    }

    /// Takes what is to be written. `None` when there is nothing, or another flush is under way and
    /// will see what came in meanwhile.
    pub fn begin_flush(&mut self) -> Option<Pending> {
        if self.writing {
            return None;
        }
        self.dirty = false;
        if self.unwritten.is_done() {
            if self.filling_len == 0 {
                return None;
            }
            self.swap();
        }
        self.writing = true;
        Some(std::mem::take(&mut self.unwritten))
    }

    fn swap(&mut self) {
        std::mem::swap(&mut self.unwritten.segments, &mut self.filling);
        self.unwritten.written = 0;
        self.unwritten.len = self.filling_len;
        self.in_flight = self.filling_len;
        self.filling_len = 0;
        self.replies_in_flight = std::mem::take(&mut self.replies);
        self.filling.clear();
    }

    /// Gives back what a flush took. `true` when there is more to write.
    pub fn end_flush(&mut self, mut pending: Pending) -> bool {
        self.writing = false;
        let left = pending.len - pending.written;
        self.writes += u64::from(left < self.in_flight);
        self.written += (self.in_flight - left) as u64;
        self.in_flight = left;
        if self.cleared {
            self.in_flight = 0;
            return false;
        }
        if pending.is_done() {
            pending.segments.clear();
            pending.len = 0;
            pending.written = 0;
        }
        self.unwritten = pending;
        self.queued() > 0
    }

    /// Gives memory back when nothing waits.
    pub fn shrink(&mut self) {
        if self.queued() == 0 && !self.writing {
            for segments in [&mut self.filling, &mut self.unwritten.segments] {
                *segments = Segments::default();
            }
        }
    }

    /// Forgets everything unwritten: the socket is gone.
    pub fn clear(&mut self) {
        debug_assert_eq!(self.filling.len(), self.filling_len);
        self.filling = Segments::default();
        self.unwritten = Pending::default();
        self.filling_len = 0;
        self.replies = 0;
        self.cleared = true;
        if !self.writing {
            self.in_flight = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use leveret_record::Memory;

    use super::*;

    fn flush(out: &mut Outbound, at_most: usize) -> (Vec<u8>, bool) {
        let mut pending = out.begin_flush().expect("something to write");
        let mut parts = [IoSlice::new(&[]); 4];
        let count = pending.chunks_vectored(&mut parts);
        assert_eq!(parts[0].first(), pending.chunk().first());
        let mut bytes = parts[..count]
            .iter()
            .map(|part| &part[..])
            .collect::<Vec<_>>()
            .concat();
        bytes.truncate(at_most);
        pending.advance(bytes.len());
        (bytes, out.end_flush(pending))
    }

    #[test]
    fn bodies_are_spliced_in_order_and_partial_writes_go_on_where_they_stopped() {
        for step in 1..20 {
            let blob = Memory::default().share(b"0123456789".to_vec());
            let mut out = Outbound::default();
            out.write(|buf| buf.extend_from_slice(b"head"));
            out.splice(&blob, 2..5);
            out.splice(&blob, 5..7);
            out.write(|buf| buf.extend_from_slice(b"end"));
            assert_eq!(out.queued(), 12);
            let mut all = Vec::new();
            while out.queued() > 0 {
                all.extend(flush(&mut out, step).0);
            }
            assert_eq!(all, b"head23456end", "step {step}");
        }
    }

    #[test]
    fn what_a_flush_has_when_the_socket_goes_is_counted_and_dropped() {
        let mut out = Outbound::default();
        out.write(|buf| buf.extend_from_slice(b"0123456789"));
        let mut pending = out.begin_flush().unwrap();
        out.write(|buf| buf.extend_from_slice(b"more"));
        pending.advance(4);
        out.clear();
        assert!(!out.end_flush(pending));
        assert_eq!((out.written(), out.queued()), (4, 0));
        assert!(out.begin_flush().is_none());
    }

    #[test]
    fn one_flush_at_a_time_and_the_promise_is_made_once() {
        let mut out = Outbound::default();
        out.write(|buf| buf.extend_from_slice(b"a"));
        assert!(out.mark_dirty());
        assert!(!out.mark_dirty());
        let pending = out.begin_flush().unwrap();
        out.write(|buf| buf.extend_from_slice(b"b"));
        assert!(out.mark_dirty(), "a new promise after the bytes were taken");
        assert!(out.begin_flush().is_none());
        assert!(out.end_flush(pending), "there is more");
        assert_eq!(flush(&mut out, 9).0, b"a");
        assert_eq!(flush(&mut out, 9), (b"b".to_vec(), false));
    }

    #[test]
    fn replies_are_counted_apart_until_they_are_written() {
        let mut out = Outbound::default();
        let reply = |out: &mut Outbound, bytes: &[u8]| {
            let queued = out.queued();
            out.write(|buf| buf.extend_from_slice(bytes));
            out.count_reply(queued);
        };
        out.write(|buf| buf.extend_from_slice(b"delivery"));
        assert_eq!(out.queued_replies(), 0);
        reply(&mut out, b"reply");
        assert_eq!(out.queued_replies(), 5);
        assert_eq!(flush(&mut out, 4).0, b"deli");
        reply(&mut out, b"other");
        assert_eq!(out.queued_replies(), 10, "behind the delivery's rest");
        assert_eq!(flush(&mut out, 7).0, b"veryrep");
        assert_eq!((out.queued(), out.queued_replies()), (7, 7));
        while out.queued() > 0 {
            flush(&mut out, 3);
        }
        assert_eq!(out.queued_replies(), 0);
    }
}
