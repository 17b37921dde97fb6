//! The four methods clients send once per message, decoded by hand: publish, ack, nack, reject.
//!
//! All take the whole payload of a method frame, its class and method id included.

use crate::frame::{FrameError, method_id};
use crate::write::shortstr;

/// `basic.publish` without its unused ticket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Publish<'a> {
    /// Exchange and routing key as two short strings with their length octets, just as received.
    /// `basic.deliver` ends with the same bytes, so they are never taken apart on the way.
    pub route: &'a [u8],
    /// Return the message if no queue takes it.
    pub mandatory: bool,
    /// Asks for delivery before queueing, which RabbitMQ does not implement.
    pub immediate: bool,
}

/// `basic.ack`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ack {
    /// The delivery on this channel, or 0 for all.
    pub delivery_tag: u64,
    /// Everything up to and including the tag.
    pub multiple: bool,
}

/// `basic.nack`, RabbitMQ's extension.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Nack {
    /// The delivery on this channel, or 0 for all.
    pub delivery_tag: u64,
    /// Everything up to and including the tag.
    pub multiple: bool,
    /// Back into the queue instead of dropped or dead-lettered.
    pub requeue: bool,
}

/// `basic.reject`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reject {
    /// The delivery on this channel.
    pub delivery_tag: u64,
    /// Back into the queue instead of dropped or dead-lettered.
    pub requeue: bool,
}

pub(crate) const PUBLISH: (u16, u16) = (60, 40);
pub(crate) const ACK: (u16, u16) = (60, 80);
pub(crate) const REJECT: (u16, u16) = (60, 90);
pub(crate) const NACK: (u16, u16) = (60, 120);

/// Decodes the payload of a `basic.publish` frame.
#[inline]
pub fn decode_publish(payload: &[u8]) -> Result<Publish<'_>, FrameError> {
    expect_method(payload, PUBLISH)?;
    publish_arguments(payload).ok_or(FrameError::Malformed("basic.publish ends early"))
}

#[inline]
fn publish_arguments(payload: &[u8]) -> Option<Publish<'_>> {
    // Class, method and the unused ticket take two bytes each.
    let (_, arguments) = payload.split_first_chunk::<6>()?;
    let (route, rest) = arguments.split_at_checked(route_len(arguments)?)?;
    let bits = *rest.first()?;
    Some(Publish {
        route,
        mandatory: bits & 1 != 0,
        immediate: bits & 2 != 0,
    })
}

/// Decodes the payload of a `basic.ack` frame.
#[inline]
pub fn decode_ack(payload: &[u8]) -> Result<Ack, FrameError> {
    let (delivery_tag, bits) = tag_and_bits(payload, ACK)?;
    Ok(Ack {
        delivery_tag,
        multiple: bits & 1 != 0,
    })
}

/// Decodes the payload of a `basic.nack` frame.
#[inline]
pub fn decode_nack(payload: &[u8]) -> Result<Nack, FrameError> {
    let (delivery_tag, bits) = tag_and_bits(payload, NACK)?;
    Ok(Nack {
        delivery_tag,
        multiple: bits & 1 != 0,
        requeue: bits & 2 != 0,
    })
}

/// Decodes the payload of a `basic.reject` frame.
#[inline]
pub fn decode_reject(payload: &[u8]) -> Result<Reject, FrameError> {
    let (delivery_tag, bits) = tag_and_bits(payload, REJECT)?;
    Ok(Reject {
        delivery_tag,
        requeue: bits & 1 != 0,
    })
}

#[inline]
fn tag_and_bits(payload: &[u8], method: (u16, u16)) -> Result<(u64, u8), FrameError> {
    expect_method(payload, method)?;
    let Some(&[_, _, _, _, t0, t1, t2, t3, t4, t5, t6, t7, bits]) = payload.first_chunk::<13>()
    else {
        return Err(FrameError::Malformed("settlement ends early"));
    };
    Ok((u64::from_be_bytes([t0, t1, t2, t3, t4, t5, t6, t7]), bits))
}

#[inline]
fn expect_method(payload: &[u8], expected: (u16, u16)) -> Result<(), FrameError> {
    let (class, method) = method_id(payload)?;
    if (class, method) == expected {
        Ok(())
    } else {
        Err(FrameError::UnknownMethod { class, method })
    }
}

/// How many bytes of `bytes` its first two short strings take, if the second one's length is there.
#[inline]
fn route_len(bytes: &[u8]) -> Option<usize> {
    let exchange = usize::from(*bytes.first()?);
    let key = usize::from(*bytes.get(exchange.saturating_add(1))?);
    Some(exchange.saturating_add(key).saturating_add(2))
}

/// Takes a route apart into exchange name and routing key; `None` if it is not two short strings.
#[inline]
#[must_use]
pub fn split_route(route: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&len, rest) = route.split_first()?;
    let (exchange, rest) = rest.split_at_checked(usize::from(len))?;
    let (&len, key) = rest.split_first()?;
    (key.len() == usize::from(len)).then_some((exchange, key))
}

/// Appends a route made of an exchange name and a routing key, each cut to 255 bytes.
pub fn push_route(out: &mut Vec<u8>, exchange: &[u8], routing_key: &[u8]) {
    shortstr(out, exchange);
    shortstr(out, routing_key);
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLISH_BYTES: &[u8] = b"\0\x3C\0\x28\0\0\x03ex!\x04k\xFFey\x03";

    #[test]
    fn publish_keeps_its_route_as_received() {
        let publish = decode_publish(PUBLISH_BYTES).unwrap();
        assert_eq!(publish.route, b"\x03ex!\x04k\xFFey");
        assert_eq!(
            split_route(publish.route),
            Some((&b"ex!"[..], &b"k\xFFey"[..]))
        );
        assert!(publish.mandatory && publish.immediate);
        let mut route = Vec::new();
        push_route(&mut route, b"ex!", b"k\xFFey");
        assert_eq!(route, publish.route);
    }

    #[test]
    fn bits_are_told_apart() {
        let mut payload = PUBLISH_BYTES.to_vec();
        for (bits, expected) in [(0, (false, false)), (1, (true, false)), (2, (false, true))] {
            *payload.last_mut().unwrap() = bits;
            let publish = decode_publish(&payload).unwrap();
            assert_eq!((publish.mandatory, publish.immediate), expected);
        }
        let nack = decode_nack(b"\0\x3C\0\x78\0\0\0\0\0\0\x01\0\x02").unwrap();
        assert_eq!(
            nack,
            Nack {
                delivery_tag: 256,
                multiple: false,
                requeue: true
            }
        );
    }

    #[test]
    fn every_truncation_is_malformed_and_trailing_bytes_are_not() {
        for len in 0..PUBLISH_BYTES.len() {
            let refused = decode_publish(&PUBLISH_BYTES[..len]);
            assert!(matches!(refused, Err(FrameError::Malformed(_))), "{len}");
        }
        assert!(decode_publish(&[PUBLISH_BYTES, b"more"].concat()).is_ok());
        let ack = b"\0\x3C\0\x50\0\0\0\0\0\0\0\x09\x01";
        for len in 0..ack.len() {
            assert!(
                matches!(decode_ack(&ack[..len]), Err(FrameError::Malformed(_))),
                "{len}"
            );
        }
        assert_eq!(
            decode_ack(ack),
            Ok(Ack {
                delivery_tag: 9,
                multiple: true
            })
        );
    }

    #[test]
    fn another_method_is_not_mistaken() {
        let other = FrameError::UnknownMethod {
            class: 60,
            method: 40,
        };
        assert_eq!(decode_ack(PUBLISH_BYTES), Err(other));
        assert_eq!(decode_reject(PUBLISH_BYTES), Err(other));
    }

    #[test]
    fn a_route_is_exactly_two_short_strings() {
        assert_eq!(split_route(b"\0\0"), Some((&b""[..], &b""[..])));
        for wrong in [&b""[..], b"\0", b"\x01", b"\0\x01", b"\0\0\0", b"\x05ab"] {
            assert_eq!(split_route(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_decoded_publish_is_three_words() {
        assert_eq!(size_of::<Publish<'_>>(), 24);
        assert_eq!(size_of::<Ack>(), 16);
    }
}
