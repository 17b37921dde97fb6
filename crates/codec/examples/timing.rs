//! Prints what the hot codec functions cost on this machine, in nanoseconds per call.
//!
//! `cargo run --release -p leveret-codec --example timing`

use std::hint::black_box;
use std::time::Instant;

use leveret_codec::{
    BasicAck, BasicPublish, DeliverTemplate, FRAME_MIN_SIZE, Method, Properties, Table, content,
    decode_ack, decode_header, decode_publish, delivery_mode, frame, header_frame,
};

const ROUNDS: u32 = 2_000_000;
const BODY: &[u8; 16] = b"sixteen bytes...";

fn main() {
    let mut headers = Table::new();
    headers.insert("x-request-id", "0123456789");
    headers.insert("attempt", 1);
    let headers = headers.encoded();
    let rich = Properties {
        content_type: Some(b"application/json"),
        headers: Some(leveret_codec::RawTable::parse(&headers).unwrap_or_default()),
        delivery_mode: Some(2),
        ..Properties::default()
    };
    for (name, properties) in [
        ("without properties", Properties::default()),
        ("rich", rich),
    ] {
        println!("{name}:");
        content_figures(&properties);
    }
    let mut bytes = Vec::new();
    Method::from(BasicAck {
        delivery_tag: 7,
        multiple: true,
    })
    .encode(1, &mut bytes);
    let ack = payload(&bytes);
    time("decode_ack", || decode_ack(black_box(ack)).is_ok());
    time("Method::decode of basic.ack", || {
        Method::decode(black_box(ack)).is_ok()
    });
}

fn content_figures(properties: &Properties<'_>) {
    let (exchange, routing_key) = (&b"exchange"[..], &b"a.routing.key.of.20b"[..]);
    let mut input = Vec::new();
    let publish = BasicPublish {
        exchange,
        routing_key,
        mandatory: false,
        immediate: false,
    };
    Method::from(publish).encode(1, &mut input);
    let header_at = input.len();
    let mut header = Vec::new();
    properties.encode(BODY.len() as u64, &mut header);
    header_frame(&mut input, 1, &header);
    let (method, header) = (payload(&input), payload(&input[header_at..]));
    time("decode_publish", || {
        decode_publish(black_box(method)).is_ok()
    });
    time("decode_header", || decode_header(black_box(header)).is_ok());
    time("delivery_mode", || delivery_mode(black_box(header)) == 2);
    time("both frames and both decodes", || {
        let input = black_box(&input);
        let (method, len) = frame(input, FRAME_MIN_SIZE).ok().flatten()?;
        let (header, _) = frame(input.get(len..)?, FRAME_MIN_SIZE).ok().flatten()?;
        let publish = decode_publish(method.payload).ok()?;
        Some(publish.route.len() + decode_header(header.payload).ok()?.body_size as usize)
    });
    let template = DeliverTemplate::new(1, b"amq.ctag-0123456789");
    let route = decode_publish(method).map_or(&b""[..], |publish| publish.route);
    let mut out = Vec::with_capacity(64 * 1024);
    time("deliver, header and body", || {
        if out.len() > 60 * 1024 {
            out.clear();
        }
        template.deliver(&mut out, black_box(9), false, black_box(route));
        content(&mut out, 1, black_box(header), black_box(BODY), 131_072);
    });
}

fn payload(bytes: &[u8]) -> &[u8] {
    frame(bytes, FRAME_MIN_SIZE)
        .ok()
        .flatten()
        .map_or(&[], |(frame, _)| frame.payload)
}

/// The best of five, because other work on the machine only ever adds.
fn time<T>(name: &str, mut work: impl FnMut() -> T) {
    let round = |_| {
        let began = Instant::now();
        for _ in 0..ROUNDS {
            black_box(work());
        }
        began.elapsed().as_secs_f64() * 1e9 / f64::from(ROUNDS)
    };
    let best = (0..5).map(round).fold(f64::INFINITY, f64::min);
    println!("  {name}: {best:.1} ns");
}
