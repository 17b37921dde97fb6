//! The frame envelope: type, channel, size, payload, end octet; and what can be wrong with bytes.

use std::fmt;

/// What a client sends first to speak AMQP 0-9-1.
pub const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\0\0\x09\x01";

/// The smallest frame size a peer may negotiate, in bytes; also the limit before `connection.tune`.
pub const FRAME_MIN_SIZE: u32 = 4096;

/// Bytes of a frame that are not payload: type, channel, size and the end octet.
pub const FRAME_OVERHEAD: usize = 8;

/// The octet that ends every frame.
pub const FRAME_END: u8 = 0xCE;

pub(crate) const FRAME_METHOD: u8 = 1;
pub(crate) const FRAME_HEADER: u8 = 2;
pub(crate) const FRAME_BODY: u8 = 3;
pub(crate) const FRAME_HEARTBEAT: u8 = 8;

/// What the payload of a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameKind {
    /// A class and method id with arguments.
    Method,
    /// A content header.
    Header,
    /// A piece of a content's body.
    Body,
    /// Nothing but a sign of life.
    Heartbeat,
}

/// One frame, borrowed from the bytes it came in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// What the payload is.
    pub kind: FrameKind,
    /// The channel number; 0 is the connection itself.
    pub channel: u16,
    /// The bytes between the size field and the end octet.
    pub payload: &'a [u8],
}

/// Why bytes from a peer are not AMQP. Every one ends the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameError {
    /// A frame announces more payload than was negotiated, both in bytes.
    Oversize {
        /// The announced payload.
        size: u32,
        /// The largest payload agreed on.
        max: u32,
    },
    /// The octet after the payload is not [`FRAME_END`].
    BadEnd,
    /// A frame type that AMQP 0-9-1 does not have.
    UnknownType(u8),
    /// A method that neither AMQP 0-9-1 nor RabbitMQ's extensions have.
    UnknownMethod {
        /// The class id.
        class: u16,
        /// The method id.
        method: u16,
    },
    /// A payload that does not follow its own layout.
    Malformed(&'static str),
    /// Tables or arrays nested deeper than [`TABLE_DEPTH_MAX`](crate::TABLE_DEPTH_MAX).
    TableTooDeep,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Oversize { size, max } => {
                write!(
                    f,
                    "frame payload of {size} bytes is larger than the agreed {max}"
                )
            }
            Self::BadEnd => f.write_str("frame does not end with 0xCE"),
            Self::UnknownType(kind) => write!(f, "unknown frame type {kind}"),
            Self::UnknownMethod { class, method } => {
                write!(f, "unknown method {method} of class {class}")
            }
            Self::Malformed(what) => f.write_str(what),
            Self::TableTooDeep => f.write_str("field table nested too deeply"),
        }
    }
}

impl std::error::Error for FrameError {}

/// Takes the first frame off `input`; the second value is how many bytes it occupies.
///
/// `Ok(None)` means that more bytes are needed. `frame_max` is the negotiated frame size, overhead
/// included. Some clients forget that the overhead counts, so a payload may be larger by as much;
/// anything beyond that is refused from the seven-byte head alone, before its payload is awaited.
/// Zero is no special value here: the caller puts its own limit in place of "no limit".
#[inline]
pub fn frame(input: &[u8], frame_max: u32) -> Result<Option<(Frame<'_>, usize)>, FrameError> {
    let Some((&[kind, c0, c1, s0, s1, s2, s3], rest)) = input.split_first_chunk::<7>() else {
        return Ok(None);
    };
    let size = u32::from_be_bytes([s0, s1, s2, s3]);
    if size > frame_max {
        let max = frame_max.saturating_sub(FRAME_OVERHEAD as u32);
        return Err(FrameError::Oversize { size, max });
    }
    let kind = match kind {
        FRAME_METHOD => FrameKind::Method,
        FRAME_HEADER => FrameKind::Header,
        FRAME_BODY => FrameKind::Body,
        FRAME_HEARTBEAT if size == 0 => FrameKind::Heartbeat,
        FRAME_HEARTBEAT => return Err(FrameError::Malformed("heartbeat frame with a payload")),
        other => return Err(FrameError::UnknownType(other)),
    };
    let size = size as usize;
    let Some((payload, &[end, ..])) = rest.split_at_checked(size) else {
        return Ok(None);
    };
    if end != FRAME_END {
        return Err(FrameError::BadEnd);
    }
    let channel = u16::from_be_bytes([c0, c1]);
    Ok(Some((
        Frame {
            kind,
            channel,
            payload,
        },
        size.saturating_add(FRAME_OVERHEAD),
    )))
}

/// The length of the whole frame that `input` begins with, once its seven-byte head is there.
#[inline]
#[must_use]
pub fn frame_len(input: &[u8]) -> Option<usize> {
    let &[_, _, _, s0, s1, s2, s3] = input.first_chunk::<7>()?;
    let size = u32::from_be_bytes([s0, s1, s2, s3]) as usize;
    Some(size.saturating_add(FRAME_OVERHEAD))
}

/// The class and method id that a method frame's payload begins with.
#[inline]
pub fn method_id(payload: &[u8]) -> Result<(u16, u16), FrameError> {
    let Some(&[c0, c1, m0, m1]) = payload.first_chunk::<4>() else {
        return Err(FrameError::Malformed("method frame without a method id"));
    };
    Ok((u16::from_be_bytes([c0, c1]), u16::from_be_bytes([m0, m1])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend_from_slice(&channel.to_be_bytes());
        bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes.push(FRAME_END);
        bytes
    }

    #[test]
    fn a_frame_is_taken_off_and_the_next_one_left() {
        let mut input = bytes(1, 0x0102, b"abc");
        input.extend_from_slice(&bytes(3, 7, b""));
        let (first, len) = frame(&input, FRAME_MIN_SIZE).unwrap().unwrap();
        assert_eq!(
            first,
            Frame {
                kind: FrameKind::Method,
                channel: 0x0102,
                payload: b"abc"
            }
        );
        let (second, rest) = frame(&input[len..], FRAME_MIN_SIZE).unwrap().unwrap();
        assert_eq!(
            second,
            Frame {
                kind: FrameKind::Body,
                channel: 7,
                payload: b""
            }
        );
        assert_eq!(len + rest, input.len());
    }

    #[test]
    fn every_part_of_a_frame_asks_for_more() {
        let whole = bytes(2, 1, b"payload");
        for len in 0..whole.len() {
            assert_eq!(frame(&whole[..len], FRAME_MIN_SIZE), Ok(None), "{len}");
            assert_eq!(frame_len(&whole[..len]), (len >= 7).then_some(whole.len()));
        }
    }

    #[test]
    fn payload_may_exceed_the_limit_by_the_overhead_and_no_more() {
        let tolerated = bytes(3, 1, &[0; 4096]);
        assert!(frame(&tolerated, 4096).unwrap().is_some());
        // The head alone is enough to refuse, whatever the frame's type.
        for kind in [3, 99] {
            let head = [kind, 0, 1, 0, 0, 0x10, 0x01];
            let refused = FrameError::Oversize {
                size: 4097,
                max: 4088,
            };
            assert_eq!(frame(&head, 4096), Err(refused));
        }
    }

    #[test]
    fn a_frame_must_end_and_have_a_known_type() {
        let mut wrong = bytes(1, 1, b"abc");
        *wrong.last_mut().unwrap() = 0xCD;
        assert_eq!(frame(&wrong, FRAME_MIN_SIZE), Err(FrameError::BadEnd));
        for kind in (0..=u8::MAX).filter(|kind| ![1, 2, 3, 8].contains(kind)) {
            let unknown = bytes(kind, 1, b"");
            assert_eq!(
                frame(&unknown, FRAME_MIN_SIZE),
                Err(FrameError::UnknownType(kind))
            );
        }
    }

    #[test]
    fn a_heartbeat_has_no_payload() {
        let (beat, len) = frame(&crate::HEARTBEAT, FRAME_MIN_SIZE).unwrap().unwrap();
        assert_eq!((beat.kind, beat.channel, len), (FrameKind::Heartbeat, 0, 8));
        let loaded = bytes(8, 0, b"x");
        assert!(matches!(
            frame(&loaded, FRAME_MIN_SIZE),
            Err(FrameError::Malformed(_))
        ));
    }
}
