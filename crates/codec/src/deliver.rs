//! What the broker writes once per message: deliver, get-ok, return, ack, nack, header and body.

use crate::frame::{FRAME_BODY, FRAME_END, FRAME_HEADER, FRAME_HEARTBEAT, FRAME_METHOD};
use crate::frame::{FRAME_MIN_SIZE, FRAME_OVERHEAD};
use crate::publish::{ACK, NACK};
use crate::write::{Writer, cut};

/// A heartbeat frame.
pub const HEARTBEAT: [u8; 8] = [FRAME_HEARTBEAT, 0, 0, 0, 0, 0, 0, FRAME_END];

/// Delivery tag and the redelivered bit, which stand between consumer tag and route.
const TAG_LEN: usize = 9;

/// The part of `basic.deliver` that is the same for every delivery to one consumer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeliverTemplate {
    /// The frame up to its route; size, delivery tag and redelivered bit are zero.
    head: Box<[u8]>,
    channel: u16,
}

/// What is delivered.
#[derive(Clone, Copy, Debug)]
pub struct Content<'a> {
    /// Exchange and routing key as raw short strings.
    pub route: &'a [u8],
    /// Payload of the content header frame.
    pub header: &'a [u8],
    /// The whole body.
    pub body: &'a [u8],
}

impl DeliverTemplate {
    /// A template for one consumer; a tag over 255 bytes is cut.
    #[must_use]
    pub fn new(channel: u16, consumer_tag: &[u8]) -> Self {
        let [c0, c1] = channel.to_be_bytes();
        let tag = cut(consumer_tag);
        // `cut` leaves at most 255 bytes, so the length is the octet.
        let head = [
            FRAME_METHOD,
            c0,
            c1,
            0,
            0,
            0,
            0,
            0,
            60,
            0,
            60,
            tag.len() as u8,
        ];
        Self {
            head: [&head, tag, &[0; TAG_LEN]].concat().into(),
            channel,
        }
    }

    /// Appends the `basic.deliver` frame; `route` is exchange and routing key as raw short strings.
    #[inline]
    pub fn deliver(&self, out: &mut Vec<u8>, delivery_tag: u64, redelivered: bool, route: &[u8]) {
        out.reserve(self.frame_len(route.len()));
        self.head(out, (delivery_tag, redelivered), route);
        out.push(FRAME_END);
    }

    /// Appends the `basic.deliver` frame without its end.
    #[inline]
    fn head(&self, out: &mut Vec<u8>, tag: (u64, bool), route: &[u8]) {
        self.start(out, tag, route.len());
        out.extend_from_slice(route);
    }

    /// Appends the `basic.deliver` frame up to its route.
    #[inline]
    fn start(&self, out: &mut Vec<u8>, (tag, redelivered): (u64, bool), route_len: usize) {
        let at = out.len();
        out.extend_from_slice(&self.head);
        let head = out.get_mut(at..).unwrap_or_default();
        if let Some(place) = head.last_chunk_mut::<TAG_LEN>() {
            let [t0, t1, t2, t3, t4, t5, t6, t7] = tag.to_be_bytes();
            *place = [t0, t1, t2, t3, t4, t5, t6, t7, u8::from(redelivered)];
        }
        if let Some([_, _, _, size @ ..]) = head.first_chunk_mut::<7>() {
            let len = self.frame_len(route_len).saturating_sub(FRAME_OVERHEAD);
            *size = (len as u32).to_be_bytes();
        }
    }

    /// Appends a whole delivery: method, header and body frames.
    #[inline]
    pub fn whole(
        &self,
        out: &mut Vec<u8>,
        (tag, redelivered): (u64, bool),
        content: &Content<'_>,
        frame_max: u32,
    ) {
        let Content {
            route,
            header,
            body,
        } = *content;
        self.head(out, (tag, redelivered), route);
        out.extend_from_slice(&joint(FRAME_HEADER, self.channel, header.len()));
        out.extend_from_slice(header);
        let chunk = chunk_len(frame_max);
        if body.len() <= chunk {
            if !body.is_empty() {
                out.extend_from_slice(&joint(FRAME_BODY, self.channel, body.len()));
                out.extend_from_slice(body);
            }
            return out.push(FRAME_END);
        }
        for part in body.chunks(chunk) {
            out.extend_from_slice(&joint(FRAME_BODY, self.channel, part.len()));
            out.extend_from_slice(part);
        }
        out.push(FRAME_END);
    }

    /// Appends whole deliveries of the first `count` messages that are encoded already.
    // Inlined into what its callers do per queue, its loop had too few registers.
    #[inline(never)]
    pub fn with_tails(&self, out: &mut Vec<u8>, first_tag: u64, tails: &Tails, count: usize) {
        let mut rest = tails.bytes.as_slice();
        for (tag, tail) in (first_tag..).zip(tails.all.iter().take(count)) {
            let Some((bytes, others)) = rest.split_at_checked(tail.len as usize) else {
                return;
            };
            rest = others;
            self.start(out, (tag, false), tails.route_len);
            let at = out.len();
            out.extend_from_slice(bytes);
            if tails.channel != self.channel {
                self.put_channel(out, at.wrapping_add(tails.route_len), tail.channels);
            }
        }
    }

    /// Has the frames of a tail, whose route ends at `at`, be of this channel.
    fn put_channel(&self, out: &mut [u8], at: usize, channels: [u32; 2]) {
        for place in channels {
            let place = at.wrapping_add(place as usize);
            let octets = out.get_mut(place..).and_then(<[u8]>::first_chunk_mut);
            if let Some(octets) = octets {
                *octets = self.channel.to_be_bytes();
            }
        }
    }

    /// How many of the first messages that are encoded already take `room` bytes at most.
    #[must_use]
    pub fn fitting(&self, tails: &Tails, room: usize) -> usize {
        let heads = self.head.len().wrapping_mul(tails.all.len());
        if heads.wrapping_add(tails.bytes.len()) <= room {
            return tails.all.len();
        }
        let mut room = room;
        let fits = |tail: &&Tail| {
            let len = self.head.len().wrapping_add(tail.len as usize);
            room.checked_sub(len).map(|left| room = left).is_some()
        };
        tails.all.iter().take_while(fits).count()
    }

    /// Bytes that a whole delivery takes on the wire: method, header and body frames. Of lengths of
    /// things in memory, so that the sums cannot wrap.
    #[inline]
    #[must_use]
    pub fn deliver_len(&self, route: usize, header: usize, body: usize, frame_max: u32) -> usize {
        self.frame_len(route)
            .wrapping_add(content_len(header, body, frame_max))
    }

    #[inline]
    fn frame_len(&self, route: usize) -> usize {
        // The end octet is the one byte that neither head nor route has.
        self.head.len().wrapping_add(route).wrapping_add(1)
    }
}

/// Messages of one route as all their consumers get them, encoded once: what stands behind the
/// delivery tag.
#[derive(Debug, Default)]
pub struct Tails {
    bytes: Vec<u8>,
    route_len: usize,
    channel: u16,
    all: Vec<Tail>,
}

/// One of [`Tails`].
#[derive(Clone, Copy, Debug)]
struct Tail {
    len: u32,
    /// Where behind the route the channel's number stands.
    channels: [u32; 2],
}

impl Tails {
    /// The largest body: one that fits a frame whatever size was negotiated.
    pub const BODY_MAX: usize = FRAME_MIN_SIZE as usize - FRAME_OVERHEAD;

    /// Forgets all messages; those to come are for consumers of this channel number most likely.
    pub fn begin(&mut self, channel: u16) {
        self.bytes.clear();
        self.all.clear();
        self.channel = channel;
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Encodes a message. Its route is the same as of all others, its body at most
    /// [`Self::BODY_MAX`] bytes.
    pub fn push(&mut self, content: &Content<'_>) {
        let Content {
            route,
            header,
            body,
        } = *content;
        let out = &mut self.bytes;
        let start = out.len();
        self.route_len = route.len();
        out.extend_from_slice(route);
        let at = out.len();
        out.extend_from_slice(&joint(FRAME_HEADER, self.channel, header.len()));
        let mut channels = [2, 2];
        out.extend_from_slice(header);
        if !body.is_empty() {
            channels = [2, out.len().wrapping_sub(at).wrapping_add(2) as u32];
            out.extend_from_slice(&joint(FRAME_BODY, self.channel, body.len()));
            out.extend_from_slice(body);
        }
        out.push(FRAME_END);
        let len = out.len().wrapping_sub(start) as u32;
        self.all.push(Tail { len, channels });
    }
}

/// The end of a frame and the head of the next.
#[inline]
fn joint(kind: u8, channel: u16, len: usize) -> [u8; 8] {
    let [k, c0, c1, s0, s1, s2, s3] = frame_head(kind, channel, len as u32);
    [FRAME_END, k, c0, c1, s0, s1, s2, s3]
}

/// Bytes that a content takes on the wire: header frame and body frames.
#[inline]
#[must_use]
pub fn content_len(header: usize, body: usize, frame_max: u32) -> usize {
    let chunk = chunk_len(frame_max);
    // A division costs as much as the rest of a delivery's arithmetic together.
    let frames = match body {
        0 => 1_usize,
        body if body <= chunk => 2,
        body => body.div_ceil(chunk).wrapping_add(1),
    };
    header
        .wrapping_add(body)
        .wrapping_add(frames.wrapping_mul(FRAME_OVERHEAD))
}

/// The largest body payload of a frame. A smaller `frame_max` than the specification allows is
/// taken as that minimum, zero included.
#[inline]
fn chunk_len(frame_max: u32) -> usize {
    (frame_max.max(FRAME_MIN_SIZE) as usize).saturating_sub(FRAME_OVERHEAD)
}

/// Appends a content: its header frame, then body frames of at most `frame_max` bytes each, of
/// which an empty body has none.
#[inline]
pub fn content(out: &mut Vec<u8>, channel: u16, header: &[u8], body: &[u8], frame_max: u32) {
    out.reserve(content_len(header.len(), body.len(), frame_max));
    header_frame(out, channel, header);
    for chunk in body.chunks(chunk_len(frame_max)) {
        whole_frame(out, FRAME_BODY, channel, chunk);
    }
}

/// Appends a header frame. It cannot be split, whatever frame size was negotiated.
#[inline]
pub fn header_frame(out: &mut Vec<u8>, channel: u16, header: &[u8]) {
    whole_frame(out, FRAME_HEADER, channel, header);
}

/// Appends the seven bytes before a body of `len` bytes that is sent from elsewhere; after it comes
/// [`FRAME_END`].
#[inline]
pub fn body_frame_head(out: &mut Vec<u8>, channel: u16, len: u32) {
    out.extend_from_slice(&frame_head(FRAME_BODY, channel, len));
}

#[inline]
fn whole_frame(out: &mut Vec<u8>, kind: u8, channel: u16, payload: &[u8]) {
    out.extend_from_slice(&frame_head(kind, channel, payload.len() as u32));
    out.extend_from_slice(payload);
    out.push(FRAME_END);
}

#[inline]
fn frame_head(kind: u8, channel: u16, len: u32) -> [u8; 7] {
    let ([c0, c1], [s0, s1, s2, s3]) = (channel.to_be_bytes(), len.to_be_bytes());
    [kind, c0, c1, s0, s1, s2, s3]
}

/// What `basic.get-ok` says before its content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GetOk<'a> {
    /// The delivery on this channel.
    pub delivery_tag: u64,
    /// Whether the message was delivered before.
    pub redelivered: bool,
    /// Exchange and routing key as raw short strings.
    pub route: &'a [u8],
    /// Messages left in the queue.
    pub message_count: u32,
}

/// Appends a `basic.get-ok` frame.
pub fn get_ok(out: &mut Vec<u8>, channel: u16, get: GetOk<'_>) {
    let mut writer = Writer::method(out, channel, (60, 71));
    writer.longlong(get.delivery_tag);
    writer.octet(u8::from(get.redelivered));
    writer.raw(get.route);
    writer.long(get.message_count);
    writer.end();
}

/// Appends a `basic.return` frame; `text` is cut to 255 bytes.
pub fn basic_return(out: &mut Vec<u8>, channel: u16, code: u16, text: &[u8], route: &[u8]) {
    let mut writer = Writer::method(out, channel, (60, 50));
    writer.short(code);
    writer.shortstr(text);
    writer.raw(route);
    writer.end();
}

/// Appends a `basic.ack` frame, which from the broker is a publisher confirm.
#[inline]
pub fn ack(out: &mut Vec<u8>, channel: u16, delivery_tag: u64, multiple: bool) {
    settlement(out, channel, ACK, delivery_tag, u8::from(multiple));
}

/// Appends a `basic.nack` frame.
#[inline]
pub fn nack(out: &mut Vec<u8>, channel: u16, delivery_tag: u64, multiple: bool, requeue: bool) {
    let requeue = if requeue { 2 } else { 0 };
    settlement(
        out,
        channel,
        NACK,
        delivery_tag,
        u8::from(multiple) | requeue,
    );
}

#[inline]
fn settlement(out: &mut Vec<u8>, channel: u16, id: (u16, u16), delivery_tag: u64, bits: u8) {
    let ([c0, c1], [i0, i1], [m0, m1]) = (
        channel.to_be_bytes(),
        id.0.to_be_bytes(),
        id.1.to_be_bytes(),
    );
    let [t0, t1, t2, t3, t4, t5, t6, t7] = delivery_tag.to_be_bytes();
    out.extend_from_slice(&[
        FRAME_METHOD,
        c0,
        c1,
        0,
        0,
        0,
        13,
        i0,
        i1,
        m0,
        m1,
        t0,
        t1,
        t2,
        t3,
        t4,
        t5,
        t6,
        t7,
        bits,
        FRAME_END,
    ]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BasicDeliver, BasicGetOk, BasicNack, BasicReturn, Method, frame, push_route};

    const EXCHANGE: &[u8] = b"exchange";
    const KEY: &[u8] = b"routing.key\xFF";

    fn route() -> Vec<u8> {
        let mut route = Vec::new();
        push_route(&mut route, EXCHANGE, KEY);
        route
    }

    #[test]
    fn a_tail_makes_the_same_delivery_for_any_channel() {
        let (route, header) = (route(), [0, 60, 0, 0, 1, 2, 3]);
        let bodies = [&[][..], b"body", &[7; Tails::BODY_MAX]];
        let content = |body| Content {
            route: &route,
            header: &header,
            body,
        };
        let mut tails = Tails::default();
        for encoded_for in [1, 0xABCD] {
            tails.begin(encoded_for);
            assert!(tails.is_empty());
            bodies.iter().for_each(|body| tails.push(&content(body)));
            for channel in [1, 2, 0xABCD] {
                let template = DeliverTemplate::new(channel, b"tag");
                let mut whole = Vec::new();
                for (count, body) in bodies.iter().enumerate() {
                    let room = whole.len();
                    assert_eq!(template.fitting(&tails, room), count);
                    template.whole(&mut whole, (9 + count as u64, false), &content(body), 0);
                    assert_eq!(template.fitting(&tails, whole.len() - 1), count);
                    let mut with_tails = Vec::new();
                    template.with_tails(&mut with_tails, 9, &tails, count + 1);
                    assert_eq!(with_tails, whole);
                }
                assert_eq!(template.fitting(&tails, usize::MAX), bodies.len());
            }
        }
    }

    fn encoded<'a>(channel: u16, method: impl Into<Method<'a>>) -> Vec<u8> {
        let mut out = Vec::new();
        method.into().encode(channel, &mut out);
        out
    }

    #[test]
    fn frames_by_hand_are_those_of_the_method_table() {
        for consumer_tag in [&b""[..], b"ctag", &[b'x'; 255]] {
            let template = DeliverTemplate::new(0x0102, consumer_tag);
            for redelivered in [false, true] {
                let mut out = Vec::new();
                template.deliver(&mut out, 1 << 40, redelivered, &route());
                let deliver = BasicDeliver {
                    consumer_tag,
                    delivery_tag: 1 << 40,
                    redelivered,
                    exchange: EXCHANGE,
                    routing_key: KEY,
                };
                assert_eq!(out, encoded(0x0102, deliver));
            }
        }
        let get = GetOk {
            delivery_tag: 3,
            redelivered: true,
            route: &route(),
            message_count: 7,
        };
        let mut out = Vec::new();
        get_ok(&mut out, 2, get);
        let by_table = BasicGetOk {
            delivery_tag: 3,
            redelivered: true,
            exchange: EXCHANGE,
            routing_key: KEY,
            message_count: 7,
        };
        assert_eq!(out, encoded(2, by_table));
    }

    #[test]
    fn returns_and_settlements_are_those_of_the_method_table() {
        let mut out = Vec::new();
        basic_return(&mut out, 9, 312, b"NO_ROUTE", &route());
        let by_table = BasicReturn {
            reply_code: 312,
            reply_text: b"NO_ROUTE",
            exchange: EXCHANGE,
            routing_key: KEY,
        };
        assert_eq!(out, encoded(9, by_table));
        for (multiple, requeue) in [(false, false), (false, true), (true, false), (true, true)] {
            let delivery_tag = u64::MAX - 1;
            let mut out = Vec::new();
            nack(&mut out, 5, delivery_tag, multiple, requeue);
            assert_eq!(
                out,
                encoded(
                    5,
                    BasicNack {
                        delivery_tag,
                        multiple,
                        requeue
                    }
                )
            );
            let mut out = Vec::new();
            ack(&mut out, 5, delivery_tag, multiple);
            assert_eq!(
                out,
                encoded(
                    5,
                    crate::BasicAck {
                        delivery_tag,
                        multiple
                    }
                )
            );
        }
    }

    #[test]
    fn a_consumer_tag_too_long_is_cut() {
        let mut out = Vec::new();
        DeliverTemplate::new(1, &[b't'; 300]).deliver(&mut out, 1, false, &route());
        let (frame, _) = frame(&out, 4096).unwrap().unwrap();
        let Ok(Method::BasicDeliver(deliver)) = Method::decode(frame.payload) else {
            panic!()
        };
        assert_eq!(
            (deliver.consumer_tag.len(), deliver.routing_key),
            (255, KEY)
        );
    }

    #[test]
    fn bodies_are_split_to_the_frame_size_and_lengths_are_foretold() {
        let template = DeliverTemplate::new(1, b"tag");
        let (header, route) = ([7; 30], route());
        // Zero and anything below the minimum count as the minimum.
        for frame_max in [0, 1, 8, 4096, 5000, 131_072] {
            let chunk = frame_max.max(4096) as usize - FRAME_OVERHEAD;
            for body in [0, 1, chunk - 1, chunk, chunk + 1, 3 * chunk, 3 * chunk + 1] {
                let body = vec![b'b'; body];
                let mut out = Vec::new();
                template.deliver(&mut out, 1, false, &route);
                let method_len = out.len();
                content(&mut out, 1, &header, &body, frame_max);
                let mut whole = Vec::new();
                let parts = Content {
                    route: &route,
                    header: &header,
                    body: &body,
                };
                template.whole(&mut whole, (1, false), &parts, frame_max);
                assert_eq!(whole, out);
                let foretold = template.deliver_len(route.len(), 30, body.len(), frame_max);
                assert_eq!(out.len(), foretold);
                assert_eq!(
                    content_len(30, body.len(), frame_max),
                    out.len() - method_len
                );
                assert_eq!(
                    body_lengths(&out[method_len..]),
                    chunk_lengths(body.len(), chunk)
                );
            }
        }
    }

    /// The payload lengths of the body frames behind a header frame.
    fn body_lengths(mut bytes: &[u8]) -> Vec<usize> {
        let mut lengths = Vec::new();
        while let Some((frame, len)) = frame(bytes, u32::MAX).unwrap() {
            if frame.kind == crate::FrameKind::Body {
                lengths.push(frame.payload.len());
            }
            bytes = &bytes[len..];
        }
        assert!(bytes.is_empty());
        lengths
    }

    fn chunk_lengths(body: usize, chunk: usize) -> Vec<usize> {
        (0..body)
            .step_by(chunk)
            .map(|at| chunk.min(body - at))
            .collect()
    }

    #[test]
    fn a_body_from_elsewhere_fits_between_head_and_end() {
        let mut parts = Vec::new();
        body_frame_head(&mut parts, 3, 4);
        parts.extend_from_slice(b"body");
        parts.push(FRAME_END);
        let mut whole = Vec::new();
        whole_frame(&mut whole, FRAME_BODY, 3, b"body");
        assert_eq!(parts, whole);
    }
}
