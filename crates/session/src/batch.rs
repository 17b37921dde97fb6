//! What a session makes of the bytes of one read: batches that borrow them.

use leveret_codec::property_flags;

/// Most messages or settlements in one batch: bounds how long a queue's lock is held.
pub const BATCH_MAX: usize = 128;

/// Where one message of a batch is in the read buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MessagePlace {
    pub(crate) header: (u32, u32),
    pub(crate) body: (u32, u32),
    pub(crate) mandatory: bool,
}

/// One message of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchMessage<'a> {
    /// Payload of the content header frame.
    pub header: &'a [u8],
    /// The whole body.
    pub body: &'a [u8],
    /// Return it when it goes nowhere.
    pub mandatory: bool,
}

/// Messages that follow each other in a read: where their route is, where they end, and what is
/// known of them all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MessageRun {
    pub(crate) begin: usize,
    pub(crate) route: (usize, usize),
    pub(crate) end: usize,
    pub(crate) properties: u16,
    pub(crate) body_len_max: usize,
}

/// Publishes of one channel that all have the same exchange and routing key.
#[derive(Clone, Copy, Debug)]
pub struct Publishes<'a> {
    /// The number of the channel they came on.
    pub channel: u16,
    /// Exchange and routing key as two raw short strings.
    pub route: &'a [u8],
    /// The flags of all properties that any of the messages has.
    pub properties: u16,
    /// The length of the largest body, bytes.
    pub body_len_max: usize,
    source: BatchBytes<'a>,
}

#[derive(Clone, Copy, Debug)]
enum BatchBytes<'a> {
    Read {
        input: &'a [u8],
        begin: usize,
        places: &'a [MessagePlace],
    },
    One(BatchMessage<'a>),
}

impl<'a> Publishes<'a> {
    pub(crate) fn read(
        channel: u16,
        run: MessageRun,
        input: &'a [u8],
        places: &'a [MessagePlace],
    ) -> Self {
        Self {
            channel,
            route: input.get(run.route.0..run.route.1).unwrap_or_default(),
            properties: run.properties,
            body_len_max: run.body_len_max,
            source: BatchBytes::Read {
                input,
                begin: run.begin,
                places,
            },
        }
    }

    /// A batch of one message.
    #[must_use]
    pub fn one(channel: u16, route: &'a [u8], publish: BatchMessage<'a>) -> Self {
        Self {
            channel,
            route,
            properties: property_flags(publish.header),
            body_len_max: publish.body.len(),
            source: BatchBytes::One(publish),
        }
    }

    /// How many messages there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self.source {
            BatchBytes::Read { places, .. } => places.len(),
            BatchBytes::One(_) => 1,
        }
    }

    /// Whether there are none; never so in what a session gives.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the first `messages` of them end in the read; of none that is where the batch begins.
    /// Nothing for more than there are.
    #[must_use]
    pub fn end_of(&self, messages: usize) -> Option<usize> {
        let BatchBytes::Read { begin, places, .. } = self.source else {
            return None;
        };
        let Some(last) = messages.checked_sub(1) else {
            return Some(begin);
        };
        let last = places.get(last)?;
        // Behind the payload of the last frame comes its end octet.
        let payload = if last.body.0 < last.body.1 {
            last.body
        } else {
            last.header
        };
        Some(payload.1 as usize + 1)
    }

    /// The first `messages` of them.
    #[must_use]
    pub fn first(&self, messages: usize) -> Self {
        let source = match self.source {
            BatchBytes::Read {
                input,
                begin,
                places,
            } => BatchBytes::Read {
                input,
                begin,
                places: places.get(..messages).unwrap_or(places),
            },
            one @ BatchBytes::One(_) => one,
        };
        Self { source, ..*self }
    }

    /// Bytes of all headers and bodies, and for several messages of what is between them.
    #[inline]
    #[must_use]
    pub fn content_bytes(&self) -> usize {
        match self.source {
            BatchBytes::One(publish) => publish.header.len() + publish.body.len(),
            BatchBytes::Read { places, .. } => {
                let from = places.first().map_or(0, |place| place.header.0);
                let to = places
                    .last()
                    .map_or(0, |place| place.body.1.max(place.header.1));
                to.saturating_sub(from) as usize
            }
        }
    }

    /// The lengths of the bodies, in the order they were published.
    #[inline]
    pub fn body_lens(&self) -> impl Iterator<Item = usize> + use<'a> {
        let (places, one) = match self.source {
            BatchBytes::Read { places, .. } => (places, None),
            BatchBytes::One(publish) => (&[][..], Some(publish.body.len())),
        };
        let read = places
            .iter()
            .map(|place| place.body.1.saturating_sub(place.body.0) as usize);
        one.into_iter().chain(read)
    }

    /// The messages in the order they were published.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = BatchMessage<'a>> + use<'a> {
        let (input, places, one) = match self.source {
            BatchBytes::Read { input, places, .. } => (input, places, None),
            BatchBytes::One(publish) => (&[][..], &[][..], Some(publish)),
        };
        let slice = |(from, to): (u32, u32)| input.get(from as usize..to as usize);
        let read = places.iter().map(move |place| BatchMessage {
            header: slice(place.header).unwrap_or_default(),
            body: slice(place.body).unwrap_or_default(),
            mandatory: place.mandatory,
        });
        one.into_iter().chain(read)
    }
}

/// What a client decided about deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// Delivery tag; 0 with `multiple` means all.
    pub tag: u64,
    /// All up to and including the tag.
    pub multiple: bool,
    /// What becomes of them.
    pub verdict: Verdict,
    /// Class and method id, for errors.
    pub method: (u16, u16),
}

/// What becomes of a settled delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is done.
    Ack,
    /// It goes back to its place in the queue.
    Requeue,
    /// The same, and the attempt counts as one that failed.
    Retry,
    /// It is refused for good.
    Discard,
}
