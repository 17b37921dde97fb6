//! What a server says, read back from its bytes.

use std::collections::BTreeMap;

use leveret_codec::{FrameKind, Method, Properties};

use crate::command::Message;
use crate::deaths::Deaths;

/// One thing that was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    /// An answer to a command.
    Reply(Reply),
    Deliver {
        consumer: u64,
        tag: u64,
        redelivered: bool,
        message: Message,
        deaths: Deaths,
    },
    Return {
        code: u16,
        message: Message,
    },
    Confirm {
        tag: u64,
        multiple: bool,
        nack: bool,
    },
    /// The server ends a consumer.
    Cancelled(u64),
}

/// An answer, as far as the model foretells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// A method that says nothing more: class and method.
    Plain(u16, u16),
    Declared {
        queue: String,
        ready: u32,
        consumers: u32,
    },
    Purged(u32),
    Deleted(u32),
    Consuming(u64),
    Cancelled(u64),
    GetOk {
        tag: u64,
        redelivered: bool,
        message: Message,
        deaths: Deaths,
        left: u32,
    },
    GetEmpty,
    /// `channel.close`, or on channel 0 `connection.close`, with its code.
    Close(u16),
}

/// A sight, where it was said, and how many bytes had been said after it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) channel: u16,
    pub(crate) at: u64,
    pub(crate) sight: Sight,
}

/// A method whose content is not whole yet.
struct Partial {
    opening: Opening,
    header: Vec<u8>,
    body: Vec<u8>,
    left: u64,
}

#[derive(Clone, Copy)]
enum Opening {
    Deliver {
        consumer: u64,
        tag: u64,
        redelivered: bool,
    },
    Get {
        tag: u64,
        redelivered: bool,
        left: u32,
    },
    Return(u16),
}

/// Puts a server's frames together.
#[derive(Default)]
pub(crate) struct Observer {
    bytes: Vec<u8>,
    at: u64,
    partial: BTreeMap<u16, Partial>,
    pub(crate) heartbeats: u64,
}

impl Observer {
    /// Whether no part of a frame is left over.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Takes what came next.
    ///
    /// # Errors
    /// It is not what a server may say.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<Vec<Seen>, String> {
        self.bytes.extend_from_slice(bytes);
        let bytes = std::mem::take(&mut self.bytes);
        let (mut rest, mut seen) = (bytes.as_slice(), Vec::new());
        loop {
            let next = leveret_codec::frame(rest, u32::MAX);
            let Some((frame, len)) = next.map_err(|error| error.to_string())? else {
                break;
            };
            self.at += len as u64;
            let channel = frame.channel;
            let sight = match frame.kind {
                FrameKind::Heartbeat => {
                    self.heartbeats += 1;
                    None
                }
                FrameKind::Method => self.method(channel, frame.payload)?,
                FrameKind::Header => self.header(channel, frame.payload)?,
                FrameKind::Body => self.body(channel, frame.payload)?,
            };
            let at = self.at;
            seen.extend(sight.map(|sight| Seen { channel, at, sight }));
            rest = rest.get(len..).unwrap_or_default();
        }
        self.bytes = rest.to_vec();
        Ok(seen)
    }

    fn method(&mut self, channel: u16, payload: &[u8]) -> Result<Option<Sight>, String> {
        if self.partial.contains_key(&channel) {
            return Err(format!("a method inside a content on channel {channel}"));
        }
        let method = Method::decode(payload).map_err(|error| error.to_string())?;
        let opening = match method {
            Method::BasicDeliver(deliver) => Opening::Deliver {
                consumer: tag_number(deliver.consumer_tag)?,
                tag: deliver.delivery_tag,
                redelivered: deliver.redelivered,
            },
            Method::BasicGetOk(got) => Opening::Get {
                tag: got.delivery_tag,
                redelivered: got.redelivered,
                left: got.message_count,
            },
            Method::BasicReturn(returned) => Opening::Return(returned.reply_code),
            other => return sight(&other),
        };
        let partial = Partial {
            opening,
            header: Vec::new(),
            body: Vec::new(),
            left: 0,
        };
        self.partial.insert(channel, partial);
        Ok(None)
    }

    fn header(&mut self, channel: u16, payload: &[u8]) -> Result<Option<Sight>, String> {
        let partial = self.partial.get_mut(&channel).ok_or("a stray header")?;
        let header = leveret_codec::decode_header(payload).map_err(|error| error.to_string())?;
        partial.header = payload.to_vec();
        partial.left = header.body_size;
        self.end(channel)
    }

    fn body(&mut self, channel: u16, payload: &[u8]) -> Result<Option<Sight>, String> {
        let partial = self.partial.get_mut(&channel).ok_or("a stray body")?;
        let left = partial.left.checked_sub(payload.len() as u64);
        partial.left = left.ok_or("a body that is longer than announced")?;
        partial.body.extend_from_slice(payload);
        self.end(channel)
    }

    /// Gives the sight when its content is whole.
    fn end(&mut self, channel: u16) -> Result<Option<Sight>, String> {
        if self
            .partial
            .get(&channel)
            .is_none_or(|partial| partial.left > 0)
        {
            return Ok(None);
        }
        let Some(partial) = self.partial.remove(&channel) else {
            return Ok(None);
        };
        let (message, deaths) = read_header(&partial.header)?;
        if message.body() != partial.body {
            return Err(format!("message {} was changed on its way", message.id));
        }
        Ok(Some(match partial.opening {
            Opening::Deliver {
                consumer,
                tag,
                redelivered,
            } => Sight::Deliver {
                consumer,
                tag,
                redelivered,
                message,
                deaths,
            },
            Opening::Get {
                tag,
                redelivered,
                left,
            } => Sight::Reply(Reply::GetOk {
                tag,
                redelivered,
                message,
                deaths,
                left,
            }),
            Opening::Return(code) => Sight::Return { code, message },
        }))
    }
}

/// The message a content header is of, and the deaths it tells of: nothing else may have changed.
///
/// # Errors
/// Something has.
pub(crate) fn read_header(header: &[u8]) -> Result<(Message, Deaths), String> {
    let message = Message::of(header).ok_or("a header nobody wrote")?;
    let own = message.header();
    if own == header {
        return Ok((message, Deaths::default()));
    }
    let changed = || format!("message {} was changed on its way", message.id);
    let told = Properties::decode(header).map_err(|_| changed())?;
    let deaths = Deaths::of(&told)?;
    let expected = Properties {
        headers: told.headers,
        expiration: None,
        ..Properties::decode(&own).map_err(|_| changed())?
    };
    let mut bytes = Vec::new();
    expected.encode(message.len.into(), &mut bytes);
    if deaths.is_empty() || bytes != header {
        return Err(changed());
    }
    Ok((message, deaths))
}

fn tag_number(tag: &[u8]) -> Result<u64, String> {
    let text = std::str::from_utf8(tag)
        .ok()
        .and_then(|text| text.strip_prefix('c'));
    let number = text.and_then(|text| text.parse().ok());
    number.ok_or_else(|| format!("a consumer tag nobody chose: {}", tag.escape_ascii()))
}

/// What a method without content says; nothing for those of the handshake.
fn sight(method: &Method<'_>) -> Result<Option<Sight>, String> {
    let reply = match *method {
        Method::BasicAck(ack) => {
            return Ok(Some(Sight::Confirm {
                tag: ack.delivery_tag,
                multiple: ack.multiple,
                nack: false,
            }));
        }
        Method::BasicNack(nack) => {
            return Ok(Some(Sight::Confirm {
                tag: nack.delivery_tag,
                multiple: nack.multiple,
                nack: true,
            }));
        }
        Method::BasicCancel(cancel) => {
            let tag = tag_number(cancel.consumer_tag)?;
            return Ok(Some(Sight::Cancelled(tag)));
        }
        Method::ConnectionStart(_) | Method::ConnectionTune(_) | Method::ConnectionOpenOk(_) => {
            return Ok(None);
        }
        Method::QueueDeclareOk(ok) => Reply::Declared {
            queue: String::from_utf8_lossy(ok.queue).into_owned(),
            ready: ok.message_count,
            consumers: ok.consumer_count,
        },
        Method::QueuePurgeOk(ok) => Reply::Purged(ok.message_count),
        Method::QueueDeleteOk(ok) => Reply::Deleted(ok.message_count),
        Method::BasicConsumeOk(ok) => Reply::Consuming(tag_number(ok.consumer_tag)?),
        Method::BasicCancelOk(ok) => Reply::Cancelled(tag_number(ok.consumer_tag)?),
        Method::BasicGetEmpty(_) => Reply::GetEmpty,
        Method::ChannelClose(close) => Reply::Close(close.reply_code),
        Method::ConnectionClose(close) => Reply::Close(close.reply_code),
        ref other => {
            let (class, method) = other.id();
            Reply::Plain(class, method)
        }
    };
    Ok(Some(Sight::Reply(reply)))
}
