//! What others may write to a connection: its outbound bytes and its channels' delivery state.
//!
//! An outlet is shared behind one short mutex, taken after a queue's and never before it.

mod lease;
mod room;

use std::sync::Arc;

use leveret_codec::{Content, DeliverTemplate, Tails, body_frame_head, content, content_len};
use leveret_codec::{FRAME_END, FRAME_OVERHEAD, header_frame};
use leveret_record::{Blob, Body, Record, Unacked};

use crate::channel::OutletChannel;
use crate::counts::DeliveryCounts;
use crate::handed::Handed;
use crate::outbound::{Outbound, Pending};
use crate::ring::{Slot, UnknownTag};

pub(crate) use lease::Leases;
pub use lease::{Looked, Term};

/// Smaller shared bodies are cheaper to copy than to splice.
const SPLICE_BYTES_MIN: usize = 16 * 1024;

/// What a socket's owner offers to those who made the connection dirty.
pub trait Flush: Send + Sync {
    /// Writes what the socket takes now, on the caller's thread.
    fn flush(&self);
    /// Has the connection's own writer flush soon.
    fn wake(&self);
    /// Has the connection's own reader take a turn, although no bytes came in.
    fn interrupt(&self);
    /// The same, on the caller's thread if the reader is not in a turn.
    fn proceed(&self) {
        self.interrupt();
    }
}

/// Bounds of one connection's outlet.
#[derive(Clone, Copy, Debug)]
pub struct OutletLimits {
    /// Undelivered bytes above which deliveries pause.
    pub outbound_bytes_max: usize,
    /// Unacknowledged deliveries of one channel above which deliveries pause.
    pub channel_unacked_max: usize,
}

/// A message for one consumer.
#[derive(Clone, Copy, Debug)]
pub struct Parcel<'a> {
    /// The consumer's encoded method prefix.
    pub template: &'a DeliverTemplate,
    /// Which of the channel's sources it comes from.
    pub source: u32,
    /// Nothing is kept for a settlement.
    pub no_ack: bool,
    /// It waits for no settlements of its channel, which may wait for it: a reply.
    pub urgent: bool,
    /// The message.
    pub record: &'a Record<'a>,
    /// Its shared body, if it has one.
    pub blob: Option<&'a Arc<Blob>>,
    /// What its settlement needs.
    pub unacked: Unacked,
}

/// What became of a parcel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// It is in the buffer. `first`: the caller must see to it that the outlet is flushed.
    Sent {
        /// Nobody else has promised to flush.
        first: bool,
    },
    /// Outbound bytes are at their limit.
    Full,
    /// The channel's prefetch or its unacknowledged deliveries are at their limit, or other queues
    /// have waited for them longer.
    Waits,
    /// The channel is gone.
    Gone,
}

/// The shared half of a connection. `W` is what to pump again when there is room.
pub struct Outlet<W> {
    outbound: Outbound,
    channels: Vec<Option<Box<OutletChannel<W>>>>,
    /// Of channels that are closed.
    ended: DeliveryCounts,
    starved: Vec<W>,
    flusher: Option<Arc<dyn Flush>>,
    limits: OutletLimits,
    frame_max: u32,
    closing: bool,
}

impl<W> Outlet<W> {
    /// An outlet without channels.
    #[must_use]
    pub fn new(flusher: Arc<dyn Flush>, limits: OutletLimits) -> Self {
        Self {
            outbound: Outbound::default(),
            channels: Vec::new(),
            ended: DeliveryCounts::default(),
            starved: Vec::new(),
            flusher: Some(flusher),
            limits,
            frame_max: leveret_codec::FRAME_MIN_SIZE,
            closing: false,
        }
    }

    /// Sets the negotiated largest frame.
    pub const fn set_frame_max(&mut self, frame_max: u32) {
        self.frame_max = frame_max;
    }

    /// The negotiated largest frame.
    #[must_use]
    pub const fn frame_max(&self) -> u32 {
        self.frame_max
    }

    /// Who flushes this outlet.
    #[must_use]
    pub const fn flusher(&self) -> Option<&Arc<dyn Flush>> {
        self.flusher.as_ref()
    }

    /// Bytes not yet with the kernel.
    #[must_use]
    pub const fn queued(&self) -> usize {
        self.outbound.queued()
    }

    /// Bytes not yet with the kernel of what the client has asked for itself: everything but
    /// deliveries, which [`OutletLimits::outbound_bytes_max`] bounds.
    #[must_use]
    pub fn queued_replies(&self) -> usize {
        self.outbound.queued_replies()
    }

    /// Appends a reply; replies are never dropped, but nothing follows `connection.close`.
    ///
    /// Returns `true` when the caller must see to it that the outlet is flushed.
    pub fn reply(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> bool {
        if self.closing || self.flusher.is_none() {
            return false;
        }
        let queued = self.outbound.queued();
        self.outbound.write(encode);
        self.outbound.count_reply(queued);
        self.outbound.mark_dirty()
    }

    /// Appends the last frames of the connection; deliveries and replies are refused from now on.
    pub fn last_reply(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> bool {
        let first = self.reply(encode);
        self.closing = true;
        self.end_channels();
        first
    }

    /// Appends a frame that may follow `connection.close`: its `close-ok`.
    pub fn close_ok(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> bool {
        self.closing = false;
        self.last_reply(encode)
    }

    /// Opens a channel for deliveries.
    pub fn open_channel(&mut self, channel: u16) {
        let index = usize::from(channel);
        if self.channels.len() <= index {
            self.channels.resize_with(index + 1, || None);
        }
        if let Some(slot) = self.channels.get_mut(index) {
            *slot = Some(Box::new(OutletChannel::new(&self.limits)));
        }
    }

    /// Whether something may be told on a channel.
    #[must_use]
    pub fn is_open(&self, channel: u16) -> bool {
        matches!(self.channels.get(usize::from(channel)), Some(Some(_)))
    }

    /// Closes a channel and gives all deliveries that wait for a settlement, oldest first.
    pub fn close_channel(&mut self, channel: u16) -> Vec<Slot> {
        let taken = self
            .channels
            .get_mut(usize::from(channel))
            .and_then(Option::take);
        taken.map_or_else(Vec::new, |channel| {
            self.ended += channel.counts();
            channel.unacked.iter().map(|(_, slot)| *slot).collect()
        })
    }

    fn end_channels(&mut self) {
        for channel in std::mem::take(&mut self.channels).into_iter().flatten() {
            self.ended += channel.counts();
        }
    }

    /// What one open channel was handed.
    #[must_use]
    pub fn delivery_counts(&self, channel: u16) -> DeliveryCounts {
        let channel = self
            .channels
            .get(usize::from(channel))
            .and_then(Option::as_ref);
        channel.map_or_else(DeliveryCounts::default, |channel| channel.counts())
    }

    /// What all channels were handed since the connection began, closed ones included.
    #[must_use]
    pub fn delivery_totals(&self) -> DeliveryCounts {
        let mut totals = self.ended;
        for channel in self.channels.iter().flatten() {
            totals += channel.counts();
        }
        totals
    }

    fn channel(&mut self, channel: u16) -> Option<&mut OutletChannel<W>> {
        self.channels.get_mut(usize::from(channel))?.as_deref_mut()
    }

    /// Sets the channel-wide prefetch; 0 means no limit. What was fetched never counts, as with
    /// RabbitMQ.
    pub fn set_prefetch(&mut self, channel: u16, prefetch: u32) {
        let limits = self.limits;
        if let Some(channel) = self.channel(channel) {
            channel.prefetch = match prefetch {
                0 => usize::MAX,
                prefetch => prefetch as usize,
            };
            channel.judge_room(&limits);
        }
    }

    /// Deliveries of a channel that wait for a settlement.
    #[must_use]
    pub fn unacked(&self, channel: u16) -> usize {
        let channel = self
            .channels
            .get(usize::from(channel))
            .and_then(Option::as_ref);
        channel.map_or(0, |channel| channel.unacked.len())
    }

    /// Sources of a channel that deliveries in waiting still name.
    pub fn sources_in_use(&self, channel: u16) -> impl Iterator<Item = u32> {
        let channel = self
            .channels
            .get(usize::from(channel))
            .and_then(Option::as_ref);
        channel
            .into_iter()
            .flat_map(|channel| channel.unacked.iter().map(|(_, slot)| slot.source))
    }

    /// Takes settled deliveries off the ring; see [`crate::UnackedRing::settle`].
    ///
    /// # Errors
    /// [`UnknownTag`] when the tag names no delivery of this channel that waits.
    #[inline]
    pub fn settle(
        &mut self,
        channel: u16,
        tag: u64,
        multiple: bool,
        mut settled: impl FnMut(u64, Slot),
    ) -> Result<(), UnknownTag> {
        let limits = self.limits;
        let state = self.channel(channel).ok_or(UnknownTag)?;
        let mut fetched = 0;
        let known = state.unacked.settle(tag, multiple, |tag, slot| {
            fetched += usize::from(slot.handed.is_fetched());
            settled(tag, slot);
        });
        if fetched > 0 {
            state.fetched -= fetched;
            state.judge_room(&limits);
        }
        if state.may_be_late(multiple, known) {
            return self.settle_late(channel, (tag, multiple), known, settled);
        }
        known
    }

    /// The same in a transaction: until it ends, what was settled counts as out still.
    ///
    /// # Errors
    /// [`UnknownTag`], as for [`Outlet::settle`].
    pub fn stage(
        &mut self,
        channel: u16,
        tag: u64,
        multiple: bool,
        mut settled: impl FnMut(u64, Slot),
    ) -> Result<(), UnknownTag> {
        let limits = self.limits;
        let state = self.channel(channel).ok_or(UnknownTag)?;
        let (mut staged, mut fetched) = (0, 0);
        let known = state.unacked.settle(tag, multiple, |tag, slot| {
            staged += 1;
            fetched += usize::from(slot.handed.is_fetched());
            settled(tag, slot);
        });
        state.uncommitted += staged;
        state.uncommitted_fetched += fetched;
        state.judge_room(&limits);
        if state.may_be_late(multiple, known) {
            return self.stage_late(channel, (tag, multiple), known, settled);
        }
        known
    }

    /// Takes all deliveries of a channel that wait for their settlement. What was taken back before
    /// may still be settled late.
    pub fn take_all(&mut self, channel: u16, mut taken: impl FnMut(Slot)) {
        let limits = self.limits;
        if let Some(state) = self.channel(channel) {
            state.unacked.settle_through(0, |_, slot| taken(slot));
            // Those in a transaction count until that ends.
            state.fetched = state.uncommitted_fetched;
            state.judge_room(&limits);
        }
    }

    /// A transaction ends: nothing that was settled counts any more.
    pub fn end_transaction(&mut self, channel: u16) {
        let limits = self.limits;
        if let Some(channel) = self.channel(channel) {
            channel.fetched -= std::mem::take(&mut channel.uncommitted_fetched);
            channel.uncommitted = 0;
            channel.judge_room(&limits);
        }
    }

    /// Brings back a delivery that was settled in a transaction that is rolled back.
    pub fn restore(&mut self, channel: u16, tag: u64, slot: Slot) {
        let limits = self.limits;
        if let Some(channel) = self.channel(channel) {
            channel.fetched += usize::from(slot.handed.is_fetched());
            channel.unacked.restore(tag, slot);
            channel.judge_room(&limits);
        }
    }

    /// Encodes a delivery, if the connection and the channel have room for it.
    #[inline]
    pub fn deliver(&mut self, channel: u16, parcel: &Parcel<'_>) -> Delivered {
        if self.closing {
            return Delivered::Gone;
        }
        let Some(Some(state)) = self.channels.get_mut(usize::from(channel)) else {
            return Delivered::Gone;
        };
        if !state.has_room() && !parcel.urgent {
            return Delivered::Waits;
        }
        let &Parcel {
            record, template, ..
        } = parcel;
        let (queued, frame_max) = (self.outbound.queued(), self.frame_max);
        let (route, header) = (record.route, record.header);
        let body_len = record.body.len() as usize;
        if queued > 0 {
            let len = template.deliver_len(route.len(), header.len(), body_len, frame_max);
            if queued + len > self.limits.outbound_bytes_max {
                return Delivered::Full;
            }
        }
        let tag = state.next_tag;
        state.next_tag += 1;
        let redelivered = parcel.unacked.attempts.acquired > 0;
        state.counts.redelivered += u64::from(redelivered);
        if parcel.no_ack {
            state.counts.delivered_no_ack += 1;
        } else {
            let (source, unacked) = (parcel.source, parcel.unacked);
            let slot = Slot {
                source,
                handed: Handed::PUSHED,
                unacked,
            };
            state.unacked.push(tag, slot);
        }
        let tag = (tag, redelivered);
        let body = match (record.body, parcel.blob) {
            (Body::Inline(body), _) => body,
            (Body::Blob { .. }, Some(blob)) if blob.len() >= SPLICE_BYTES_MIN => {
                self.outbound
                    .write(|out| template.deliver(out, tag.0, tag.1, route));
                self.spliced(channel, header, blob);
                return self.sent();
            }
            (Body::Blob { .. }, blob) => blob.map_or(&[][..], |blob| blob),
        };
        let content = Content {
            route,
            header,
            body,
        };
        self.outbound
            .write(|out| template.whole(out, tag, &content, frame_max));
        self.sent()
    }

    /// Encodes deliveries that nobody will settle, as many as there is room for; gives how many,
    /// and whether the caller must see to it that the outlet is flushed.
    pub fn pass(
        &mut self,
        channel: u16,
        template: &DeliverTemplate,
        tails: &Tails,
    ) -> (usize, bool) {
        let state = self.channels.get_mut(usize::from(channel));
        let Some(Some(state)) = state.filter(|_| !self.closing) else {
            return (0, false);
        };
        if !state.has_room() {
            return (0, false);
        }
        let queued = self.outbound.queued();
        let room = self.limits.outbound_bytes_max.saturating_sub(queued);
        // However long the first one is, it may go out alone.
        let least = usize::from(queued == 0 && !tails.is_empty());
        let count = template.fitting(tails, room).max(least);
        let tag = state.next_tag;
        self.outbound
            .write(|out| template.with_tails(out, tag, tails, count));
        state.next_tag += count as u64;
        state.counts.delivered_no_ack += count as u64;
        let first = count > 0 && self.outbound.mark_dirty();
        (count, first)
    }

    #[inline]
    const fn sent(&mut self) -> Delivered {
        Delivered::Sent {
            first: self.outbound.mark_dirty(),
        }
    }

    /// Encodes a message that a `basic.get` fetched; `method` writes the method frame for its tag.
    pub fn give(
        &mut self,
        channel: u16,
        parcel: &Parcel<'_>,
        method: impl FnOnce(&mut Vec<u8>, u64),
    ) -> bool {
        let limits = self.limits;
        let Some(state) = self.channel(channel) else {
            return false;
        };
        let tag = state.next_tag;
        state.next_tag += 1;
        state.counts.redelivered += u64::from(parcel.unacked.attempts.acquired > 0);
        if parcel.no_ack {
            state.counts.got_no_ack += 1;
        } else {
            state.counts.got += 1;
            state.fetched += 1;
            state.judge_room(&limits);
            let slot = Slot {
                source: parcel.source,
                handed: Handed::FETCHED,
                unacked: parcel.unacked,
            };
            state.unacked.push(tag, slot);
        }
        if self.closing {
            return false;
        }
        let queued = self.outbound.queued();
        self.outbound.write(|out| method(out, tag));
        self.content(channel, parcel.record, parcel.blob);
        self.outbound.count_reply(queued);
        self.outbound.mark_dirty()
    }

    /// Appends content header and body frames.
    #[inline]
    fn content(&mut self, channel: u16, record: &Record<'_>, blob: Option<&Arc<Blob>>) {
        let frame_max = self.frame_max;
        match (record.body, blob) {
            (Body::Inline(body), _) => {
                self.outbound
                    .write(|out| content(out, channel, record.header, body, frame_max));
            }
            (Body::Blob { .. }, Some(blob)) if blob.len() < SPLICE_BYTES_MIN => {
                self.outbound
                    .write(|out| content(out, channel, record.header, blob, frame_max));
            }
            (Body::Blob { .. }, Some(blob)) => self.spliced(channel, record.header, blob),
            (Body::Blob { .. }, None) => {}
        }
    }

    fn spliced(&mut self, channel: u16, header: &[u8], blob: &Arc<Blob>) {
        let step = (self.frame_max as usize)
            .saturating_sub(FRAME_OVERHEAD)
            .max(1);
        self.outbound
            .write(|out| header_frame(out, channel, header));
        for start in (0..blob.len()).step_by(step) {
            let end = (start + step).min(blob.len());
            let len = u32::try_from(end - start).unwrap_or(u32::MAX);
            self.outbound
                .write(|out| body_frame_head(out, channel, len));
            self.outbound.splice(blob, start..end);
            self.outbound.write(|out| out.push(FRAME_END));
        }
    }

    /// Bytes a message's content takes on this connection.
    #[must_use]
    pub fn content_len(&self, header: usize, body: usize) -> usize {
        content_len(header, body, self.frame_max)
    }

    /// Remembers what to pump when there are fewer outbound bytes. Those for whom that is over are
    /// forgotten whenever the list would have to grow.
    pub fn starve(&mut self, waiting: W, is_over: impl Fn(&W) -> bool) {
        if self.starved.len() == self.starved.capacity() {
            self.starved.retain(|waiting| !is_over(waiting));
            self.starved.reserve(self.starved.len() + 1);
        }
        self.starved.push(waiting);
    }

    /// Gives those who wait for room; `into` is empty and lends its memory.
    pub fn take_starved(&mut self, into: &mut Vec<W>) {
        std::mem::swap(&mut self.starved, into);
    }

    /// Takes what is to be written; see [`Outbound::begin_flush`].
    pub fn begin_flush(&mut self) -> Option<Pending> {
        self.outbound.begin_flush()
    }

    /// Gives back what a flush took; `true` when there is more to write.
    ///
    /// Below half its bound the outlet has room again: `starved` gets who waited for it.
    pub fn end_flush(&mut self, pending: Pending, starved: &mut Vec<W>) -> bool {
        let more = self.outbound.end_flush(pending);
        if self.outbound.queued() <= self.limits.outbound_bytes_max / 2 {
            self.take_starved(starved);
        }
        more
    }

    /// Bytes written in all, for heartbeats: unchanged means idle.
    #[must_use]
    pub const fn written(&self) -> u64 {
        self.outbound.written()
    }

    /// Times that bytes were written.
    #[must_use]
    pub const fn writes(&self) -> u64 {
        self.outbound.writes()
    }

    /// Gives buffers back that an idle connection does not need.
    pub fn shrink(&mut self) {
        self.outbound.shrink();
    }

    /// The socket is gone: nothing is written or delivered any more. What waits for a settlement
    /// stays until its channel is closed: it goes back to its queue then.
    pub fn disconnect(&mut self) {
        self.closing = true;
        self.outbound.clear();
        self.starved = Vec::new();
        self.flusher = None;
    }
}
