//! Assembly of a message's content on one channel, frame by frame.
//!
//! ```text
//!          basic.publish            header, size > 0            last body byte
//! Idle ------------------> Header -----------------> Body --------------------> Idle
//!                             \--- size 0 ------------------------------------> Idle
//! ```
//! Messages that arrive whole in one read never come here; see `batch`.

use leveret_codec::{ContentHeader, HardCode};

use crate::fault::Fault;

/// Reserved for a body at once; the rest grows as it is received, so that an announcement alone
/// costs nothing.
const RESERVE_BYTES: usize = 4 * 1024;
const BASIC_CLASS: u16 = 60;

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
pub(crate) enum Content {
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

impl Content {
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

    /// Takes a content header; gives the message when it has no body.
    pub(crate) fn header(
        &mut self,
        header: &ContentHeader<'_>,
    ) -> Result<Option<Assembled>, Fault> {
        let Self::Header { route, mandatory } = std::mem::take(self) else {
            return Err(unexpected(
                "expected method frame, got non method frame instead",
            ));
        };
        if header.class_id != BASIC_CLASS {
            let class = header.class_id;
            return Err(unexpected(&format!(
                "expected content header for class 60, got one for class {class} instead"
            )));
        }
        if header.weight != 0 {
            return Err(unexpected("content header with a weight other than 0"));
        }
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
            return Ok(Some(message));
        }
        *self = Self::Body {
            message: Box::new(message),
            remaining: header.body_size,
        };
        Ok(None)
    }

    /// Takes a body frame; gives the message when it was the last one.
    pub(crate) fn body(&mut self, payload: &[u8]) -> Result<Option<Assembled>, Fault> {
        let Self::Body { message, remaining } = self else {
            let text = match self {
                Self::Header { .. } => {
                    "expected content header for class 60, got non content header frame instead"
                }
                _ => "expected method frame, got non method frame instead",
            };
            return Err(unexpected(text));
        };
        let Some(left) = remaining.checked_sub(payload.len() as u64) else {
            let text = "content body frame is longer than what remains of the announced size";
            return Err(Fault::connection(HardCode::FrameError, text, (0, 0)));
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
    pub(crate) fn method(&self, id: (u16, u16)) -> Result<(), Fault> {
        let expected = match self {
            Self::Idle => return Ok(()),
            Self::Header { .. } => {
                "expected content header for class 60, got non content header frame instead"
            }
            Self::Body { .. } => "expected content body, got non content body frame instead",
        };
        Err(Fault::connection(HardCode::UnexpectedFrame, expected, id))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_takes_memory_as_it_is_received_and_no_more_than_announced() {
        let mut raw = vec![0, 60, 0, 0];
        raw.extend_from_slice(&300_000u64.to_be_bytes());
        raw.extend_from_slice(&[0, 0]);
        let header = leveret_codec::decode_header(&raw).unwrap();
        let mut content = Content::Header {
            route: vec![0, 0],
            mandatory: false,
        };
        assert_eq!(content.header(&header), Ok(None));
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
