//! Those who guess passwords.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use leveret_codec::{ConnectionStartOk, PROTOCOL_HEADER, Table, Value};

use crate::case::{Case, SMALL_MIB};
use crate::support::machine::on_time;
use crate::support::{PATIENCE, Server, start_ok};

/// For how long they guess.
const GUESSES: Duration = Duration::from_secs(3);
/// Between two guesses, so that it is not the processor that is fought for.
const PAUSE: Duration = Duration::from_millis(2);
/// How many guess at once: half of them over HTTP; half of these and of the others names that there
/// are.
const GUESSERS: usize = 8;

/// Eight guess again as soon as they are answered, over AMQP and HTTP, and no limit slows them.
#[test]
fn those_who_guess_passwords_hold_up_nobody() {
    on_time(|| guess_with("sha256"));
}

/// The same where each guess is a lot of work, and takes 19 MiB.
#[test]
fn those_who_guess_at_a_slow_hash_hold_up_nobody() {
    on_time(|| guess_with("argon2id"));
}

/// Guesses passwords with this hash, each of them at least once.
fn guess_with(hashing: &str) {
    let hashing = format!("default.password_hashing={hashing}");
    let case = Case::start_http(&["limits.login_failures_per_minute=0", &hashing]);
    let until = Instant::now() + GUESSES;
    let server = &case.server;
    let guess_until = |number: usize| {
        let guess = [guess_over_http, guess_over_amqp][number % 2];
        let user = ["guest", "nobody"][number / 2 % 2];
        loop {
            guess(server, user);
            if Instant::now() >= until {
                return;
            }
            sleep(PAUSE);
        }
    };
    std::thread::scope(|scope| {
        for number in 0..GUESSERS {
            scope.spawn(move || guess_until(number));
        }
    });
    case.end(SMALL_MIB);
}

fn guess_over_http(server: &Server, user: &str) {
    let mut stream = TcpStream::connect(server.api()).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let wrong = match user {
        "guest" => "Z3Vlc3Q6bm8=",
        _ => "bm9ib2R5Om5v",
    };
    let request = format!(
        "GET /api/whoami HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Authorization: Basic {wrong}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
}

fn guess_over_amqp(server: &Server, user: &str) {
    let mut capabilities = Table::new();
    capabilities.insert("authentication_failure_close", Value::Bool(true));
    let mut properties = Table::new();
    properties.insert("capabilities", Value::Table(capabilities));
    let properties = properties.encoded();
    let mut client = server.connect();
    client.send(&PROTOCOL_HEADER);
    client.expect(0, "connection.start");
    let response = format!("\0{user}\0no");
    let wrong = ConnectionStartOk {
        response: response.as_bytes(),
        ..start_ok(&properties)
    };
    client.method(0, wrong);
    client.expect(0, "connection.close");
}
