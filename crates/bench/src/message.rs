//! What a benchmark message looks like, and the check that it arrived whole and in order.
//!
//! Body: sequence number (u64), publisher (u32), checksum of both (u32), then a fixed filler.

use crate::connection::CHANNEL;
use crate::wire::{
    BASIC_DELIVER, BASIC_PUBLISH, EXPIRATION_DIGITS, FRAME_END, HEAD, METHOD, Method,
    PROPERTIES_AT, Properties, content_body, content_header,
};

/// Smallest body that can be checked, bytes.
pub const BODY_MIN: usize = 16;
/// One message in this many has its checksum and filler compared; the others their order only.
const SAMPLE: u64 = 64;

/// Where and how messages are published.
#[derive(Clone, Debug)]
pub struct Address {
    /// Exchange name.
    pub exchange: String,
    /// Routing key.
    pub key: String,
}

/// What the messages of one publisher are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Bytes of a body, at least [`BODY_MIN`].
    pub body_bytes: usize,
    /// Priorities from 0 that take turns; 0: none. Each level counts as a publisher of its own,
    /// whose messages are numbered by themselves: between levels there is no order.
    pub levels: u8,
    /// What its content header says.
    pub properties: Properties,
}

impl Content {
    /// Bodies of so many bytes, without a property.
    pub const fn transient(body_bytes: usize) -> Self {
        Self {
            body_bytes,
            levels: 0,
            properties: Properties {
                persistent: false,
                priority: false,
                expiration: false,
            },
        }
    }

    /// The same with delivery-mode 2.
    pub const fn persistent(body_bytes: usize) -> Self {
        let mut content = Self::transient(body_bytes);
        content.properties.persistent = true;
        content
    }

    /// The same with so many priorities.
    pub const fn levels(mut self, levels: u8) -> Self {
        self.levels = levels;
        self.properties.priority = levels > 0;
        self
    }

    /// The same with an expiration, which [`PublishBatch::expire_in`] stamps.
    pub const fn expiring(mut self) -> Self {
        self.properties.expiration = true;
        self
    }
}

/// The three frames of a publish, repeated, so that many messages go out in one write.
pub struct PublishBatch {
    bytes: Vec<u8>,
    message_bytes: usize,
    properties_at: usize,
    body_at: usize,
    publisher: u32,
    content: Content,
}

impl PublishBatch {
    /// Encodes as many messages as fit `batch_bytes`, at least one.
    pub fn new(address: &Address, publisher: u32, content: Content, batch_bytes: usize) -> Self {
        let body_bytes = content.body_bytes.max(BODY_MIN);
        let body: Vec<u8> = (0..body_bytes).map(filler).collect();
        let publish = Method::new(CHANNEL, BASIC_PUBLISH).u16(0);
        let mut one = publish
            .short(&address.exchange)
            .short(&address.key)
            .u8(0)
            .finish();
        let properties_at = one.len() + PROPERTIES_AT;
        one.extend(content_header(CHANNEL, body.len(), content.properties));
        let body_at = one.len() + HEAD;
        one.extend(content_body(CHANNEL, &body));
        let bytes = one.repeat((batch_bytes / one.len()).max(1));
        Self {
            bytes,
            message_bytes: one.len(),
            properties_at,
            body_at,
            publisher,
            content,
        }
    }

    /// Has the messages stamped from now on expire in `ms`, 10,000 to 65,535.
    pub fn expire_in(&mut self, ms: u16) {
        let digits = format!("{ms:0EXPIRATION_DIGITS$}");
        let Properties {
            persistent,
            priority,
            ..
        } = self.content.properties;
        // Behind the other properties and the length of its text.
        let at = self.properties_at + usize::from(persistent) + usize::from(priority) + 1;
        for message in self.bytes.chunks_exact_mut(self.message_bytes) {
            message[at..at + EXPIRATION_DIGITS].copy_from_slice(digits.as_bytes());
        }
    }

    /// Messages that fit one batch.
    pub fn capacity(&self) -> u64 {
        (self.bytes.len() / self.message_bytes) as u64
    }

    /// The frames of up to `count` messages numbered from `first`.
    pub fn stamp(&mut self, first: u64, count: u64) -> &[u8] {
        let count = count.min(self.capacity());
        let used = count as usize * self.message_bytes;
        let messages = self.bytes[..used].chunks_exact_mut(self.message_bytes);
        let levels = self.content.levels;
        let priority_at = self.properties_at + usize::from(self.content.properties.persistent);
        for (seq, message) in (first..).zip(messages) {
            let (mut seq, mut publisher) = (seq, self.publisher);
            if levels > 0 {
                let level = (seq % u64::from(levels)) as u8;
                message[priority_at] = level;
                seq /= u64::from(levels);
                publisher = publisher * u32::from(levels) + u32::from(level);
            }
            let body = &mut message[self.body_at..self.body_at + BODY_MIN];
            stamp_body(body, seq, publisher);
        }
        &self.bytes[..used]
    }

    /// Bytes of one message on the wire.
    pub fn message_bytes(&self) -> usize {
        self.message_bytes
    }
}

fn stamp_body(body: &mut [u8], seq: u64, publisher: u32) {
    body[..8].copy_from_slice(&seq.to_be_bytes());
    body[8..12].copy_from_slice(&publisher.to_be_bytes());
    body[12..16].copy_from_slice(&checksum(seq, publisher).to_be_bytes());
}

fn checksum(seq: u64, publisher: u32) -> u32 {
    let mixed = (seq ^ u64::from(publisher) << 40).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 32) as u32 ^ mixed as u32
}

fn filler(index: usize) -> u8 {
    (index as u8).wrapping_mul(31).wrapping_add(7)
}

/// The layout of one delivered message: every delivery on a connection has the same size.
#[derive(Clone)]
pub struct DeliveryShape {
    /// Bytes of one delivery on the wire.
    pub bytes: usize,
    head: [u8; HEAD + 4],
    /// Offset of the five digits of the consumer tag, and of the delivery tag.
    tags_at: Option<(usize, usize)>,
    body_at: usize,
    body_bytes: usize,
}

impl DeliveryShape {
    /// Deliveries of `content` published to `address`, to consumers named by [`consumer_tag`].
    pub fn deliver(address: &Address, content: Content) -> Self {
        let tag = consumer_tag(0);
        let deliver = Method::new(CHANNEL, BASIC_DELIVER).short(&tag).u64(0).u8(0);
        let method = deliver
            .short(&address.exchange)
            .short(&address.key)
            .finish();
        let digits_at = HEAD + 4 + 2;
        let tags_at = Some((digits_at, digits_at + tag.len() - 1));
        Self::new(&method, content, tags_at)
    }

    /// Publish frames that come back as they were sent: what the `pipe` floor delivers.
    pub fn echo(address: &Address, body_bytes: usize) -> Self {
        let publish = Method::new(CHANNEL, BASIC_PUBLISH).u16(0);
        let method = publish
            .short(&address.exchange)
            .short(&address.key)
            .u8(0)
            .finish();
        Self::new(&method, Content::transient(body_bytes), None)
    }

    fn new(method: &[u8], content: Content, tags_at: Option<(usize, usize)>) -> Self {
        let body_bytes = content.body_bytes.max(BODY_MIN);
        let header = content_header(CHANNEL, body_bytes, content.properties).len();
        let body_at = method.len() + header + HEAD;
        let mut head = [0; HEAD + 4];
        head.copy_from_slice(&method[..HEAD + 4]);
        Self {
            bytes: body_at + body_bytes + 1,
            head,
            tags_at,
            body_at,
            body_bytes,
        }
    }

    /// Whether these are AMQP deliveries, not the pipe floor's echo.
    pub fn is_amqp(&self) -> bool {
        self.tags_at.is_some()
    }

    /// Whether a whole delivery of this shape begins `input`.
    pub fn matches(&self, input: &[u8]) -> bool {
        input.len() >= self.bytes && input[..HEAD + 4] == self.head
    }

    /// Whether `input` may become one: nothing in it contradicts the shape.
    pub fn may_match(&self, input: &[u8]) -> bool {
        let known = input.len().min(HEAD + 4);
        input.len() < self.bytes && input[..known] == self.head[..known]
    }
}

/// A consumer tag of fixed length that tells the consumer's number.
pub fn consumer_tag(number: usize) -> String {
    format!("c{number:05}")
}

/// Checks the deliveries of one connection: tags, frame ends, order per queue and publisher,
/// a sample of checksums.
pub struct Checker {
    shape: DeliveryShape,
    publishers: usize,
    /// Next sequence number by queue and publisher.
    expected: Vec<u64>,
    delivery_tag: u64,
    /// Others consume from the same queue: messages in between are theirs.
    shares: bool,
}

impl Checker {
    /// Expects `publishers` sequences in each of `queues` queues.
    pub fn new(shape: DeliveryShape, queues: usize, publishers: usize) -> Self {
        Self {
            shape,
            publishers,
            expected: vec![0; queues * publishers],
            delivery_tag: 0,
            shares: false,
        }
    }

    /// Whether others consume from the same queue; then messages may be missing, but none comes out
    /// of order.
    pub fn share(&mut self, shares: bool) {
        self.shares = shares;
    }

    /// The deliveries' layout.
    pub fn shape(&self) -> &DeliveryShape {
        &self.shape
    }

    /// Tag of the last delivery.
    pub fn delivery_tag(&self) -> u64 {
        self.delivery_tag
    }

    /// Checks the delivery that fills `frames`; returns its sequence number.
    pub fn check(&mut self, frames: &[u8]) -> Result<u64, String> {
        let queue = match self.shape.tags_at {
            Some(at) => self.check_tags(frames, at)?,
            None => 0,
        };
        let body = &frames[self.shape.body_at..];
        let seq = u64::from_be_bytes(array(body));
        let publisher = u32::from_be_bytes(array(&body[8..]));
        if publisher as usize >= self.publishers || frames[self.shape.bytes - 1] != FRAME_END {
            return Err(format!(
                "corrupt: publisher {publisher}, frame end or body is wrong"
            ));
        }
        let slot = queue * self.publishers + publisher as usize;
        let Some(expected) = self.expected.get_mut(slot) else {
            return Err(format!("corrupt: no consumer {queue}"));
        };
        if seq != *expected && !(self.shares && seq > *expected) {
            let expected = *expected;
            return Err(order_error(seq, expected, queue, publisher));
        }
        *expected = seq + 1;
        if seq % SAMPLE == 0 {
            self.check_sample(frames, seq, publisher)?;
        }
        Ok(seq)
    }

    fn check_tags(&mut self, frames: &[u8], at: (usize, usize)) -> Result<usize, String> {
        let tag = u64::from_be_bytes(array(&frames[at.1..]));
        self.delivery_tag += 1;
        if tag != self.delivery_tag {
            return Err(format!(
                "delivery tag {tag} where {} is next",
                self.delivery_tag
            ));
        }
        if self.expected.len() == self.publishers {
            return Ok(0);
        }
        let digits = &frames[at.0..at.1];
        Ok(digits
            .iter()
            .fold(0, |n, digit| n * 10 + usize::from(digit.wrapping_sub(b'0'))))
    }

    fn check_sample(&self, frames: &[u8], seq: u64, publisher: u32) -> Result<(), String> {
        let body = &frames[self.shape.body_at..][..self.shape.body_bytes];
        let sum = u32::from_be_bytes(array(&body[12..]));
        let filled = body
            .iter()
            .enumerate()
            .skip(BODY_MIN)
            .all(|(i, byte)| *byte == filler(i));
        if sum == checksum(seq, publisher) && filled {
            return Ok(());
        }
        Err(format!(
            "corrupt: the body of message {seq} of publisher {publisher} is not its own"
        ))
    }
}

fn order_error(seq: u64, expected: u64, queue: usize, publisher: u32) -> String {
    let what = if seq < expected {
        "repeated or reordered"
    } else {
        "lost or reordered"
    };
    format!("{what}: consumer {queue}, publisher {publisher}: message {seq}, {expected} is next")
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[..N]);
    array
}

/// A `basic.ack` to be patched with a delivery tag.
pub struct AckTemplate([u8; 21]);

impl AckTemplate {
    const TAG_AT: usize = HEAD + 4;

    /// An ack of everything up to a tag.
    pub fn multiple() -> Self {
        let mut bytes = [0; 21];
        bytes[0] = METHOD;
        bytes[2] = CHANNEL as u8;
        bytes[6] = 13;
        bytes[8] = 60;
        bytes[10] = 80;
        bytes[19] = 1;
        bytes[20] = FRAME_END;
        Self(bytes)
    }

    /// The frame that acknowledges up to `tag`.
    pub fn up_to(&mut self, tag: u64) -> &[u8; 21] {
        self.0[Self::TAG_AT..Self::TAG_AT + 8].copy_from_slice(&tag.to_be_bytes());
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{BASIC_ACK, Frame};

    fn address() -> Address {
        Address {
            exchange: "exchange".into(),
            key: "a routing key of 20b".into(),
        }
    }

    fn deliveries(queue: usize, seqs: &[u64], body_bytes: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for (tag, seq) in (1_u64..).zip(seqs) {
            let deliver = Method::new(CHANNEL, BASIC_DELIVER)
                .short(consumer_tag(queue))
                .u64(tag);
            let at = address();
            out.extend(deliver.u8(0).short(&at.exchange).short(&at.key).finish());
            let mut batch = PublishBatch::new(&at, 0, Content::transient(body_bytes), 0);
            let publish = batch.stamp(*seq, 1);
            let method = Frame::read(publish).unwrap().unwrap().size();
            out.extend(&publish[method..]);
        }
        out
    }

    fn run(frames: &[u8], body_bytes: usize) -> Result<u64, String> {
        let shape = DeliveryShape::deliver(&address(), Content::transient(body_bytes));
        let size = shape.bytes;
        let mut checker = Checker::new(shape, 3, 1);
        let mut last = 0;
        for one in frames.chunks(size) {
            assert!(checker.shape().matches(one));
            last = checker.check(one)?;
        }
        Ok(last)
    }

    #[test]
    fn sizes_are_those_of_the_study() {
        let batch = PublishBatch::new(&address(), 0, Content::transient(16), 64 * 1024);
        assert_eq!(batch.message_bytes(), 91);
        assert_eq!(
            DeliveryShape::deliver(&address(), Content::transient(16)).bytes,
            104
        );
        assert_eq!(DeliveryShape::echo(&address(), 16).bytes, 91);
    }

    #[test]
    fn whole_and_ordered_deliveries_pass() {
        assert_eq!(run(&deliveries(2, &[0, 1, 2, 3], 16), 16), Ok(3));
        assert_eq!(run(&deliveries(0, &[0, 1], 1024), 1024), Ok(1));
    }

    #[test]
    fn loss_reordering_and_repetition_are_told() {
        for (seqs, told) in [
            (&[0, 2][..], "lost"),
            (&[0, 1, 0], "repeated"),
            (&[1, 0], "lost"),
        ] {
            let error = run(&deliveries(0, seqs, 16), 16).unwrap_err();
            assert!(error.contains(told), "{seqs:?}: {error}");
        }
    }

    #[test]
    fn who_shares_a_queue_misses_what_others_get_and_nothing_comes_twice() {
        let shape = DeliveryShape::deliver(&address(), Content::transient(16));
        let size = shape.bytes;
        let check = |seqs: &[u64]| {
            let mut checker = Checker::new(shape.clone(), 1, 1);
            checker.share(true);
            let frames = deliveries(0, seqs, 16);
            let checked: Result<Vec<_>, _> =
                frames.chunks(size).map(|one| checker.check(one)).collect();
            checked
        };
        assert_eq!(check(&[3, 4, 9]), Ok(vec![3, 4, 9]));
        assert!(check(&[3, 3]).unwrap_err().contains("repeated"));
        assert!(check(&[9, 4]).unwrap_err().contains("repeated"));
    }

    #[test]
    fn a_changed_body_tag_or_frame_end_is_told() {
        let whole = deliveries(0, &[0], 1024);
        let body = whole.len() - 1024 - 1;
        for (at, told) in [
            (body + 9, "corrupt"),
            (body + 13, "not its own"),
            (body + 700, "not its own"),
            (whole.len() - 1, "frame end"),
            (HEAD + 4 + 8, "delivery tag"),
        ] {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            let error = run(&bytes, 1024).unwrap_err();
            assert!(error.contains(told), "{at}: {error}");
        }
    }

    #[test]
    fn priorities_and_expirations_are_where_a_header_has_them() {
        let mut content = Content::persistent(16).levels(3).expiring();
        content.body_bytes = 20;
        let mut batch = PublishBatch::new(&address(), 1, content, 1024);
        batch.expire_in(12345);
        let frames = batch.stamp(4, 1).to_vec();
        let method = Frame::read(&frames).unwrap().unwrap().size();
        let header = Frame::read(&frames[method..]).unwrap().unwrap();
        // Delivery-mode 2, priority 4 % 3, expiration "12345".
        assert_eq!(&header.payload[12..], b"\x19\x00\x02\x01\x0512345");
        let body = &frames[method + header.size() + HEAD..];
        assert_eq!(
            body[..8],
            1_u64.to_be_bytes(),
            "the second one of its level"
        );
        assert_eq!(
            body[8..12],
            4_u32.to_be_bytes(),
            "publisher 1, level 1 of 3"
        );
    }

    #[test]
    fn an_ack_reads_back() {
        let mut template = AckTemplate::multiple();
        let frame = template.up_to(1234);
        let (id, mut fields) = Frame::read(frame).unwrap().unwrap().method().unwrap();
        assert_eq!((id, fields.u64(), fields.u8()), (BASIC_ACK, 1234, 1));
    }
}
