//! Messages that were put together from several reads, and wait for their route if need be.

use std::sync::Arc;

use leveret_record::{Blob, Memory};
use leveret_session::{Assembled, BatchMessage, Fault, Publishes};

use crate::connection::desk::Desk;
use crate::connection::phase::Running;
use crate::queue::copied::SHARED_BYTES_MIN;

/// A message that was put together, while it looks for its queues.
pub(crate) struct UnroutedMessage {
    channel: u16,
    /// Exchange and routing key, raw.
    route: Vec<u8>,
    mandatory: bool,
    header: Vec<u8>,
    body: Vec<u8>,
    /// Instead of `body`, for a large one.
    blob: Option<Arc<Blob>>,
}

impl UnroutedMessage {
    fn of(channel: u16, message: Assembled, memory: &Memory) -> Self {
        let Assembled {
            route,
            mandatory,
            header,
            body,
        } = message;
        let (body, blob) = if body.len() < SHARED_BYTES_MIN {
            (body, None)
        } else {
            (Vec::new(), Some(memory.share(body)))
        };
        Self {
            channel,
            route,
            mandatory,
            header,
            body,
            blob,
        }
    }
}

impl Running {
    /// Publishes a message that was put together from several reads.
    pub(crate) fn publish_assembled(
        &mut self,
        channel: u16,
        message: Assembled,
        desk: &mut Desk,
    ) -> Result<(), Fault> {
        let whole = UnroutedMessage::of(channel, message, &desk.broker.memory);
        self.publish_whole(whole, desk)
    }

    /// Goes on with the message whose route was not found in the turn before.
    pub(crate) fn publish_later(&mut self, desk: &mut Desk) -> Result<(), Fault> {
        match self.later.take() {
            Some(whole) => self.publish_whole(*whole, desk),
            None => Ok(()),
        }
    }

    fn publish_whole(&mut self, whole: UnroutedMessage, desk: &mut Desk) -> Result<(), Fault> {
        // A channel that has ended meanwhile publishes nothing.
        let Some(mut open) = self.open(whole.channel, desk) else {
            return Ok(());
        };
        let publish = BatchMessage {
            header: &whole.header,
            body: whole.blob.as_deref().map_or(&whole.body, |blob| blob),
            mandatory: whole.mandatory,
        };
        let one = Publishes::one(whole.channel, &whole.route, publish);
        if !open.publish_inspected(&one, publish, whole.blob.clone())? {
            self.later = Some(Box::new(whole));
        }
        Ok(())
    }
}
