//! Messages that were put together from several reads, and wait for their route if need be.

use std::sync::Arc;

use leveret_record::Blob;
use leveret_session::{Assembled, Fault, Publish, Publishes};

use crate::connection::Core;
use crate::publish::SHARED_BYTES_MIN;

/// A message that was put together, while it looks for its queues.
pub(crate) struct Whole {
    channel: u16,
    /// Exchange and routing key, raw.
    route: Vec<u8>,
    mandatory: bool,
    header: Vec<u8>,
    body: Vec<u8>,
    /// Instead of `body`, for a large one.
    blob: Option<Arc<Blob>>,
}

impl Core {
    /// Publishes a message that was put together from several reads.
    pub(crate) fn publish_assembled(
        &mut self,
        channel: u16,
        message: Assembled,
    ) -> Result<(), Fault> {
        let Assembled {
            route,
            mandatory,
            header,
            body,
        } = message;
        let (inline, blob) = if body.len() < SHARED_BYTES_MIN {
            (body, None)
        } else {
            (Vec::new(), Some(self.broker.memory.share(body)))
        };
        self.publish_whole(Whole {
            channel,
            route,
            mandatory,
            header,
            body: inline,
            blob,
        })
    }

    /// Goes on with the message whose route was not found in the turn before.
    pub(crate) fn publish_later(&mut self) -> Result<(), Fault> {
        match self.later.take() {
            Some(whole) => self.publish_whole(*whole),
            None => Ok(()),
        }
    }

    fn publish_whole(&mut self, whole: Whole) -> Result<(), Fault> {
        let publish = Publish {
            header: &whole.header,
            body: whole.blob.as_deref().map_or(&whole.body, |blob| blob),
            mandatory: whole.mandatory,
        };
        let one = Publishes::one(whole.channel, &whole.route, publish);
        if !self.publish_inspected(&one, publish, whole.blob.clone())? {
            self.later = Some(Box::new(whole));
        }
        Ok(())
    }
}
