//! Whoever asks for few of very many queues has them at once.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::scaled;
use crate::support::Server;
use crate::support::http::Http;
use crate::support::machine::on_time;

const QUEUES: usize = 100_000;
const PART: usize = 5_000;
/// Names begin in so many ways.
const KINDS: usize = 977;
/// An answer comes within this where others leave it the processor: the first one of so many.
const SOON: Duration = Duration::from_millis(50);
const ROUNDS: usize = 31;

fn declare(http: &Http, queues: usize) {
    let numbers: Vec<usize> = (0..queues).collect();
    for part in numbers.chunks(PART) {
        let queue = |number: &usize| {
            let name = format!("of.{}.q-{number:06}", number % KINDS);
            json!({"name": name, "vhost": "/", "durable": true, "auto_delete": false,
                "arguments": {}})
        };
        let queues: Vec<_> = part.iter().map(queue).collect();
        http.done("POST", "/api/definitions", &json!({ "queues": queues }));
    }
}

/// How long an answer takes, at least and in the middle, in which there is so often what makes a
/// row.
fn took(http: &Http, path: &str, count: usize, row: &str) -> [Duration; 2] {
    let mut all: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let begun = Instant::now();
            let answer = http.call("GET", path, "");
            let took = begun.elapsed();
            assert_eq!(answer.text.matches(row).count(), count, "{path}");
            took
        })
        .collect();
    all.sort_unstable();
    [all[0], all[ROUNDS / 2]]
}

#[test]
fn few_of_100_000_queues_are_found_within_50_ms() {
    let server = Server::start_http(&[]);
    let (guest, metrics) = (server.http_as("guest", "guest"), server.metrics());
    let queues = scaled(QUEUES);
    declare(&guest, queues);
    let alike = (0..queues).filter(|number| number % KINDS == 12).count();
    let soon = |http: &Http, path: &str, count: usize, row: &str| {
        let [least, middle] = took(http, path, count, row);
        println!("{path} of {queues}: {least:?}, mostly {middle:?}");
        assert!(least < SOON, "{path}: {least:?}");
    };
    on_time(|| {
        // Patterns that may fit anywhere in a name, and one that tells how names begin.
        let patterns = [
            ("0012..%24", 100),
            ("(q-0011|0012)..%24", 200),
            ("%5Eof%5C.12%5C.q-", alike),
        ];
        for (pattern, found) in patterns {
            for more in ["", "&family=queue_metrics"] {
                let family = format!("family=queue_coarse_metrics{more}");
                let path = format!("/metrics/detailed?{family}&queue={pattern}");
                soon(
                    &metrics,
                    &path,
                    found,
                    "\nrabbitmq_detailed_queue_messages_ready{",
                );
            }
        }
        let choices = [
            "",
            "&name=q-00",
            "&name=q-0.0&use_regex=true",
            "&sort=name",
            "&sort=messages&sort_reverse=true",
        ];
        for choice in choices {
            let path = format!("/api/queues?page=1&page_size=100{choice}");
            soon(&guest, &path, 100, "\"consumer_capacity\"");
        }
    });
}
