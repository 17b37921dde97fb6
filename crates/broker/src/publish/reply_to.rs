//! Messages that ask for replies the direct way.

use leveret_codec::{Properties, flag, has_property};

use crate::context::refusal::Refusal;

/// What a client consumes from to get replies, and puts into `reply_to`.
pub(crate) const REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// Whether a content header's `reply_to` is [`REPLY_TO`].
pub(crate) fn asks_for_replies(header: &[u8]) -> bool {
    has_property(header, flag::REPLY_TO)
        && Properties::decode(header)
            .is_ok_and(|properties| properties.reply_to == Some(REPLY_TO.as_bytes()))
}

pub(crate) fn no_consumer() -> Refusal {
    Refusal::Precondition("fast reply consumer does not exist".into())
}
