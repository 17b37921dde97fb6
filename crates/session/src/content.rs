//! Assembly of a message's content on one channel, frame by frame.
//!
//! ```text
//!          basic.publish            header, size > 0            last body byte
//! Idle ------------------> Header -----------------> Body --------------------> Idle
//!                             \--- size 0 ------------------------------------> Idle
//! ```
//! Messages that arrive whole in one read never come here; see `batch`.

use leveret_codec::{ContentHeader, HardCode, SoftCode};

use crate::fault::Fault;
use crate::whole::PUBLISH;

/// Reserved for a body at once; the rest grows as it is received, so that an announcement alone
/// costs nothing.
const RESERVE_BYTES: usize = 4 * 1024;
const BASIC_CLASS: u16 = 60;
/// No AMQP 0-9-1 broker takes larger ones.
const BODY_BYTES_CEILING: u64 = 512 * 1024 * 1024;

pub(crate) const METHOD_EXPECTED: &str = "expected method frame, got non method frame instead";
const HEADER_EXPECTED: &str =
    "expected content header for class 60, got non content header frame instead";
const BODY_EXPECTED: &str = "expected content body, got non content body frame instead";

/// A message put together from several reads.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Assembled {
    /// Exchange and routing key as two raw short strings.
    pub route: Vec<u8>,
    /// Return it when it goes nowhere.
    pub mandatory: bool,
    /// Payload of the content header frame.
    pub header: Vec<u8>,
    /// The whole body.
    pub body: Vec<u8>,
}

/// Where a channel stands between methods.
#[derive(Debug, Default)]
pub(crate) enum Assembly {
    /// No content is expected.
    #[default]
    Idle,
    /// A content header must follow.
    Header { route: Vec<u8>, mandatory: bool },
    /// `remaining` more bytes of the body must follow.
    Body {
        message: Box<Assembled>,
        remaining: u64,
    },
}

impl Assembly {
    pub(crate) const fn is_idle(&self) -> bool {
        matches!(self, Self::Idle)
    }

    /// Bytes of memory that a partial message takes.
    pub(crate) fn held(&self) -> usize {
        match self {
            Self::Idle => 0,
            Self::Header { route, .. } => route.capacity(),
            Self::Body { message, .. } => {
                message.route.capacity() + message.header.capacity() + message.body.capacity()
            }
        }
    }

    /// A content header arrived, of which only the fixed part is read yet: that it is out of turn
    /// comes before what else is wrong with it.
    pub(crate) fn expect_header(&self, start: &ContentHeader<'_>) -> Result<(), Fault> {
        match self {
            Self::Idle => Err(unexpected(METHOD_EXPECTED)),
            Self::Body { .. } => Err(out_of_place(BODY_EXPECTED)),
            Self::Header { .. } if start.weight != 0 => Err(out_of_place(HEADER_EXPECTED)),
            Self::Header { .. } if start.class_id != BASIC_CLASS => {
                let class = start.class_id;
                Err(out_of_place(&format!(
                    "expected content header for class 60, got one for class {class} instead"
                )))
            }
            Self::Header { .. } => Ok(()),
        }
    }

    /// Takes a content header that is expected; gives the message when it has no body.
    pub(crate) fn header(&mut self, header: &ContentHeader<'_>) -> Option<Assembled> {
        let Self::Header { route, mandatory } = std::mem::take(self) else {
            return None;
        };
        let reserve = usize::try_from(header.body_size)
            .unwrap_or(usize::MAX)
            .min(RESERVE_BYTES);
        let body = Vec::with_capacity(reserve);
        let message = Assembled {
            route,
            mandatory,
            header: header.raw.to_vec(),
            body,
        };
        if header.body_size == 0 {
            return Some(message);
        }
        *self = Self::Body {
            message: Box::new(message),
            remaining: header.body_size,
        };
        None
    }

    /// Takes a body frame; gives the message when it was the last one.
    pub(crate) fn body(&mut self, payload: &[u8]) -> Result<Option<Assembled>, Fault> {
        let Self::Body { message, remaining } = self else {
            return Err(match self {
                Self::Header { .. } => out_of_place(HEADER_EXPECTED),
                _ => unexpected(METHOD_EXPECTED),
            });
        };
        let Some(left) = remaining.checked_sub(payload.len() as u64) else {
            let text = "content body frame exceeds remaining content size";
            return Err(Fault::connection(HardCode::FrameError, text, PUBLISH));
        };
        make_room(&mut message.body, payload.len(), *remaining);
        message.body.extend_from_slice(payload);
        *remaining = left;
        if left > 0 {
            return Ok(None);
        }
        match std::mem::take(self) {
            Self::Body { message, .. } => Ok(Some(*message)),
            _ => Ok(None),
        }
    }

    /// A method arrived: lawful only when no content is expected.
    pub(crate) fn method(&self) -> Result<(), Fault> {
        match self {
            Self::Idle => Ok(()),
            Self::Header { .. } => Err(out_of_place(HEADER_EXPECTED)),
            Self::Body { .. } => Err(out_of_place(BODY_EXPECTED)),
        }
    }
}

/// Judges the size that a content header announces.
pub(crate) fn check_body_size(channel: u16, size: u64, max: u64) -> Result<(), Fault> {
    if size > BODY_BYTES_CEILING {
        let text =
            format!("content body size {size} exceeds maximum allowed size {BODY_BYTES_CEILING}");
        return Err(Fault::connection(HardCode::FrameError, text, PUBLISH));
    }
    if size > max {
        let text = format!("message size {size} is larger than configured max size {max}");
        return Err(Fault::channel(
            channel,
            SoftCode::PreconditionFailed,
            text,
            PUBLISH,
        ));
    }
    Ok(())
}

/// Doubles the body's memory when it is full, but never beyond the `remaining` bytes to come.
fn make_room(body: &mut Vec<u8>, wanted: usize, remaining: u64) {
    if body.capacity() - body.len() < wanted {
        let remaining = usize::try_from(remaining).unwrap_or(usize::MAX);
        body.reserve_exact(wanted.max(body.len()).min(remaining));
    }
}

pub(crate) fn unexpected(text: &str) -> Fault {
    Fault::connection(HardCode::UnexpectedFrame, text, (0, 0))
}

/// Something else than what has to follow a publish.
fn out_of_place(text: &str) -> Fault {
    Fault::connection(HardCode::UnexpectedFrame, text, PUBLISH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_takes_memory_as_it_is_received_and_no_more_than_announced() {
        let mut raw = vec![0, 60, 0, 0];
        raw.extend_from_slice(&300_000u64.to_be_bytes());
        raw.extend_from_slice(&[0, 0]);
        let header = leveret_codec::decode_header(&raw).unwrap();
        let mut content = Assembly::Header {
            route: vec![0, 0],
            mandatory: false,
        };
        assert_eq!(content.header(&header), None);
        let beside = raw.len() + 2;
        assert_eq!(
            content.held(),
            RESERVE_BYTES + beside,
            "an announcement alone costs next to nothing"
        );
        for received in 1..3 {
            assert_eq!(content.body(&[7; 100_000]), Ok(None));
            assert!(content.held() <= received * 200_000 + beside);
        }
        let message = content.body(&[7; 100_000]).unwrap().unwrap();
        assert_eq!(
            (message.body.len(), message.body.capacity()),
            (300_000, 300_000)
        );
        assert!(content.is_idle());
    }
}
