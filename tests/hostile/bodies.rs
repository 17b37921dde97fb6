//! Messages that are begun and not completed, on many connections at once.

use std::thread::{self, sleep};
use std::time::Duration;

use leveret_codec::{ConfirmSelect, Method};

use crate::case::{Case, SMALL_MIB, is_full};
use crate::support::machine::on_time;
use crate::support::{Client, eventually, message, raw_frame};

const MIB: usize = 1 << 20;
const PART: usize = 100_000;
/// Between two parts of an attack, so that it is not the processor that is fought for.
const PAUSE: Duration = Duration::from_millis(10);

/// The beginning of a message for `q` on channel 1: of `size` bytes, of which so many are sent.
fn half(size: usize, sent: usize) -> Vec<u8> {
    let part = vec![7; PART];
    let parts = vec![&*part; sent / PART];
    message(1, "q", size as u64, &parts).concat()
}

/// How large the messages of 24 connections are, and what all of them may hold, MiB.
struct Sizes {
    message: usize,
    sent: usize,
    unfinished: usize,
    /// So many connections are left at most.
    left: usize,
}

impl Sizes {
    /// Either 4 MiB, of which 2 come, where 16 are for all; or 250 MB, of which nearly all come,
    /// where 3 GiB are, as by default on a machine of 24.
    fn of() -> Self {
        let (message, sent, unfinished, left) = if is_full() {
            (250, 240, 3_072, 13)
        } else {
            (4, 2, 16, 12)
        };
        Self {
            message,
            sent,
            unfinished,
            left,
        }
    }
}

#[test]
fn unfinished_bodies_of_many_connections_close_those_and_nobody_else() {
    on_time(|| {
        let sizes = Sizes::of();
        let case = Case::start_http(&[
            &format!("amqp.max_message_size=\"{} MiB\"", sizes.message),
            &format!("limits.unfinished_bytes_max=\"{} MiB\"", sizes.unfinished),
        ]);
        let mut attackers: Vec<Client> = (0..24).map(|_| case.server.login()).collect();
        let mut honest = Client::login(case.server.address, "bystander");
        honest.declare(1, "uploads");
        honest.method(1, ConfirmSelect { nowait: false });
        honest.expect(1, "confirm.select-ok");
        let rest = raw_frame(3, 1, &[7; PART]).repeat((sizes.sent - 1) * MIB / PART);
        for attacker in &mut attackers {
            attacker.send_unwelcome(&half(sizes.message * MIB, MIB));
        }
        let attack = thread::spawn(move || {
            for attacker in &mut attackers {
                attacker.send_unwelcome(&rest);
                sleep(PAUSE);
            }
            attackers
        });
        let body = vec![1; 2 * MIB];
        let parts: Vec<&[u8]> = body.chunks(PART).collect();
        let upload = message(1, "uploads", body.len() as u64, &parts).concat();
        for _ in 0..6 {
            honest.send(&upload);
            honest.expect(1, "basic.ack");
            assert_eq!(honest.get(1, "uploads").len(), body.len());
        }
        let attackers = attack.join().unwrap();
        let http = case.server.http_as("guest", "guest");
        let alarms = http.call("GET", "/api/health/checks/alarms", "");
        assert_eq!(alarms.status, 200, "{}", alarms.text);
        honest.send(&upload);
        honest.expect(1, "basic.ack");
        // What all of them have sent is read sooner or later.
        let mut open = attackers;
        let most_are_closed = eventually(|| {
            let told = open.extract_if(.., |peer| !peer.is_left_alone(Duration::from_millis(1)));
            told.for_each(expect_closed);
            open.len() <= sizes.left
        });
        assert!(most_are_closed && !open.is_empty(), "{} left", open.len());
        case.end(sizes.unfinished as u64 + 48);
    });
}

/// The connection was closed for its unfinished messages.
fn expect_closed(mut peer: Client) {
    let close = peer.next();
    let Method::ConnectionClose(close) = close.method() else {
        panic!("{} instead", close.method().name());
    };
    let text = String::from_utf8_lossy(close.reply_text);
    assert_eq!(close.reply_code, 506, "{text}");
    assert!(text.contains("limits.unfinished_bytes_max"), "{text}");
}

#[test]
fn a_body_without_progress_closes_its_connection() {
    // What is answered to a close within a part of a body is more of that part to the broker.
    let settings = ["limits.body_timeout_s=1", "amqp.close_timeout_ms=2000"];
    let case = Case::start_with(&settings);
    let mut stalled: Vec<Client> = (0..8).map(|_| case.server.login()).collect();
    for (index, peer) in stalled.iter_mut().enumerate() {
        // Without a part of its body, with parts of it, and within a part.
        let begun = half(8 * MIB, index * PART);
        let cut = if index % 2 == 0 { 0 } else { PART / 2 };
        peer.send(&begun[..begun.len() - cut]);
    }
    for peer in stalled {
        peer.expect_close(506, "limits.body_timeout_s");
    }
    case.end(SMALL_MIB);
}
