//! Messages copied out of a queue, and which bodies are kept once for all who have them.

use std::sync::Arc;

use leveret_codec::Tails;
use leveret_queue::{Attempts, Rank};
use leveret_record::{Blob, Body, Record};

/// Bodies from here on are shared, so that a chunk holds many messages and sending copies nothing.
pub(crate) const SHARED_BYTES_MIN: usize = 16 * 1024;
/// The same when several queues get the message.
const SHARED_BY_MANY_BYTES_MIN: usize = 512;

const _: () = assert!(SHARED_BY_MANY_BYTES_MIN <= Tails::BODY_MAX);

/// Whether a body is kept once, outside the chunks.
pub(crate) const fn is_shared(body_len: usize, by_many: bool) -> bool {
    body_len
        >= if by_many {
            SHARED_BY_MANY_BYTES_MIN
        } else {
            SHARED_BYTES_MIN
        }
}

/// A message copied out of a queue.
#[derive(Clone, Debug)]
pub struct Copied {
    /// Exchange and routing key as two raw short strings.
    pub route: Vec<u8>,
    /// Payload of its content header frame.
    pub header: Vec<u8>,
    /// Its level of priority, and its sequence number there.
    pub rank: Rank,
    /// How often it was tried before.
    pub attempts: Attempts,
    body: CopiedBody,
}

#[derive(Clone, Debug)]
pub(crate) enum CopiedBody {
    Own(Vec<u8>),
    Shared(Arc<Blob>),
}

impl CopiedBody {
    /// The body of a record; `blob` is it, if it is shared.
    pub(crate) fn of(body: Body<'_>, blob: Option<&Arc<Blob>>) -> Self {
        match (body, blob) {
            (Body::Inline(bytes), _) => Self::Own(bytes.to_vec()),
            (Body::Blob { .. }, Some(blob)) => Self::Shared(Arc::clone(blob)),
            (Body::Blob { .. }, None) => Self::Own(Vec::new()),
        }
    }
}

impl Copied {
    pub(crate) fn of(
        (rank, attempts): (Rank, Attempts),
        record: &Record<'_>,
        blob: Option<&Arc<Blob>>,
    ) -> Self {
        Self {
            route: record.route.to_vec(),
            header: record.header.to_vec(),
            rank,
            attempts,
            body: CopiedBody::of(record.body, blob),
        }
    }

    /// The bytes, whoever holds them.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        match &self.body {
            CopiedBody::Own(bytes) => bytes,
            CopiedBody::Shared(blob) => blob,
        }
    }

    /// Bytes that copying it took while the queue was locked.
    pub(crate) const fn copied_bytes(&self) -> usize {
        let own = match &self.body {
            CopiedBody::Own(bytes) => bytes.len(),
            CopiedBody::Shared(_) => 0,
        };
        own + self.route.len() + self.header.len()
    }
}
