//! What a message takes of memory while it is ready.

use leveret_queue::{
    Attempts, Consumer, ConsumerKey, Delivery, Message, MessageBody, Offer, Queue, Rank, Settings,
    Shape, Sink,
};
use leveret_record::{Body, HEADER_BYTES, Memory, POOLED_BYTES};

struct Nobody;

impl Sink<()> for Nobody {
    fn offer(&mut self, _: &Consumer<()>, _: ConsumerKey, _: &Delivery<'_>) -> Offer {
        Offer::Gone
    }

    fn settled(&mut self, _: Rank) {}
}

/// What is left of a record whose route and headers are those of one before it.
const ALIKE_BYTES: usize = HEADER_BYTES + 4;

/// The headers that tell of deaths are ten times as long as a small message: those of messages that
/// died alike are kept once a chunk.
#[test]
fn dead_letters_that_are_alike_share_their_headers() {
    const MESSAGES: u32 = 200_000;
    let (route, body) = (b"\0\x04dead", [7; 16]);
    let mut header = vec![0, 60, 0, 0];
    header.extend_from_slice(&(body.len() as u64).to_be_bytes());
    header.extend_from_slice(&[0x20, 0, 0, 0, 1, 44]);
    header.extend_from_slice(&[b'x'; 300]);
    let mut queue = Queue::new(Settings::NONE, Shape::PLAIN, Memory::default());
    for _ in 0..MESSAGES {
        let message = Message {
            route,
            header: &header,
            body: MessageBody::Inline(&body),
            entered_ms: 1_700_000_000_000,
            expiration_ms: None,
            priority: 0,
            persistent: false,
            deaths: true,
            attempts: Attempts::NONE,
        };
        queue.push(&message, &mut Nobody).unwrap();
    }
    let full = queue.resident_bytes() - POOLED_BYTES;
    let each = full as f64 / f64::from(MESSAGES);
    let most = (ALIKE_BYTES + body.len()) as f64 * 1.01;
    assert!(each < most, "{each} bytes, at most {most}");
    let mut seen = 0;
    while queue.get(true, &mut Nobody, |delivery, _| {
        let record = delivery.record;
        assert_eq!((record.route, record.header), (&route[..], &header[..]));
        assert_eq!(record.body, Body::Inline(&body));
        assert!(record.marks.deaths());
    }) {
        seen += 1;
    }
    assert_eq!(seen, MESSAGES);
}

/// The head of a record had 16 bytes before it told when the message came, and may have four more.
/// No index, no chunk's own fields and no rest at its end add anything that would be seen.
#[test]
fn a_ready_message_takes_its_own_bytes_and_twenty_more() {
    const MESSAGES: u32 = 500_000;
    let (route, body) = (b"\0\x12bench-publish-only", [7; 16]);
    let mut header = vec![0, 60, 0, 0];
    header.extend_from_slice(&(body.len() as u64).to_be_bytes());
    header.extend_from_slice(&[0x10, 0, 1]);
    let mut queue = Queue::new(Settings::NONE, Shape::PLAIN, Memory::default());
    for number in 0..MESSAGES {
        let message = Message {
            route,
            header: &header,
            body: MessageBody::Inline(&body),
            // They come over a quarter of an hour.
            entered_ms: 1_700_000_000_000 + u64::from(number) * 2,
            expiration_ms: None,
            priority: 0,
            persistent: false,
            deaths: false,
            attempts: Attempts::NONE,
        };
        queue.push(&message, &mut Nobody).unwrap();
        queue.run(message.entered_ms, &mut Nobody);
    }
    let own = route.len() + header.len() + body.len();
    // The last chunk may be empty but for one message.
    let full = queue.resident_bytes() - POOLED_BYTES;
    let more = full as f64 / f64::from(MESSAGES) - own as f64;
    assert_eq!(HEADER_BYTES, 20);
    assert!(
        (19.4..20.05).contains(&more),
        "{more} bytes more than its {own}"
    );
}
