//! A message on its way into a queue.

use std::sync::Arc;

use leveret_record::{Attempts, Blob, Body, HEADER_BYTES, Marks, Record};

/// A body on its way into a queue.
#[derive(Clone, Copy, Debug)]
pub enum MessageBody<'a> {
    /// Copied into the chunk.
    Inline(&'a [u8]),
    /// Shared by reference.
    Shared(&'a Arc<Blob>),
}

/// A message on its way into a queue, borrowed from the reader's buffer.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Exchange and routing key as two raw short strings.
    pub route: &'a [u8],
    /// Payload of the content header frame.
    pub header: &'a [u8],
    /// Copied into the queue, or shared with others.
    pub body: MessageBody<'a>,
    /// When the broker took it, unix milliseconds.
    pub entered_ms: u64,
    /// How long it may wait by its own `expiration` property, milliseconds.
    pub expiration_ms: Option<u64>,
    /// Its `priority` property.
    pub priority: u8,
    /// Whether it survives a restart when the queue is durable.
    pub persistent: bool,
    /// Its headers tell of deaths, and the broker wrote that.
    pub deaths: bool,
    /// How often it was tried before it came here: more than never after a restart only.
    pub attempts: Attempts,
}

impl<'a> Message<'a> {
    /// The message as it will be stored, all but its place.
    #[must_use]
    pub fn as_record(&self) -> (Record<'a>, Option<&'a Arc<Blob>>) {
        let (body, blob) = match self.body {
            MessageBody::Inline(bytes) => (Body::Inline(bytes), None),
            MessageBody::Shared(blob) => {
                let len = u32::try_from(blob.len()).unwrap_or(u32::MAX);
                (Body::Blob { index: 0, len }, Some(blob))
            }
        };
        let record = Record {
            seq: 0,
            entered: 0,
            attempts: self.attempts,
            persistent: self.persistent,
            marks: Marks::of_deaths(self.deaths),
            expiration_ms: self.expiration_ms,
            route: self.route,
            header: self.header,
            body,
        };
        (record, blob)
    }

    /// The body and the length of its record, of a message that has nothing but that.
    #[inline]
    pub(crate) fn plain_body(&self) -> Option<(&'a [u8], usize)> {
        let MessageBody::Inline(body) = self.body else {
            return None;
        };
        let is_plain = self.expiration_ms.is_none() && self.attempts.acquired == 0 && !self.deaths;
        let len = HEADER_BYTES + self.route.len() + self.header.len() + body.len();
        is_plain.then_some((body, len))
    }

    /// When it dies by its own expiration, unix milliseconds.
    pub(crate) const fn own_deadline_ms(&self) -> Option<u64> {
        match self.expiration_ms {
            Some(expiration_ms) => Some(self.entered_ms.saturating_add(expiration_ms)),
            None => None,
        }
    }

    /// Body size in bytes.
    #[must_use]
    pub fn body_len(&self) -> u64 {
        match self.body {
            MessageBody::Inline(bytes) => bytes.len() as u64,
            MessageBody::Shared(blob) => blob.len() as u64,
        }
    }
}
