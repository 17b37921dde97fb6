//! `leveret data` on folders of the real binary: after a stop, after a crash, and damaged.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::path::{Path, PathBuf};
use std::process::Output;

use leveret_codec::{BasicPublish, ConfirmSelect, Method, Properties, QueueDeclare};
use serde_json::Value;
use support::{
    Client, Folder, Server, declare, encode, eventually, leveret, raw_frame, run_to_end,
};

/// Exit codes of `leveret data`.
const WELL: i32 = 0;
const DAMAGED: i32 = 1;
const UNUSABLE: i32 = 4;

fn data(arguments: &[&str]) -> Output {
    // It may say more than a pipe holds.
    let mut command = leveret();
    command
        .arg("data")
        .args(arguments)
        .output()
        .expect("it can be run")
}

fn on(command: &str, folder: &Path, more: &[&str]) -> (i32, String) {
    let folder = folder.to_str().unwrap();
    let output = data(&[&[command, folder], more].concat());
    let said = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap(), said + &errors)
}

/// Publishes persistent messages and waits for their confirms.
fn publish(client: &mut Client, queue: &str, bodies: &[&[u8]]) {
    client.method(1, ConfirmSelect { nowait: false });
    client.expect(1, "confirm.select-ok");
    let mut header = Vec::new();
    for body in bodies {
        let publish = BasicPublish {
            routing_key: queue.as_bytes(),
            ..Default::default()
        };
        let properties = Properties {
            delivery_mode: Some(2),
            content_type: Some(b"text/plain"),
            ..Properties::default()
        };
        header.clear();
        properties.encode(body.len() as u64, &mut header);
        client.send(&encode(1, publish));
        client.send(&raw_frame(2, 1, &header));
        client.send(&raw_frame(3, 1, body));
    }
    loop {
        let next = client.next();
        match next.method() {
            Method::BasicAck(ack) if ack.delivery_tag >= bodies.len() as u64 => return,
            Method::BasicAck(_) => {}
            other => panic!("{other:?} instead of a confirm"),
        }
    }
}

fn fill(server: &Server) {
    let mut client = server.login();
    for queue in ["orders", "mail"] {
        let durable = QueueDeclare {
            durable: true,
            ..declare(queue, &[])
        };
        client.method(1, durable);
        client.expect(1, "queue.declare-ok");
    }
    publish(&mut client, "orders", &[b"one", b"two", b"\xff\x00three"]);
    let mut client = server.login();
    publish(&mut client, "mail", &[b"four"]);
}

/// A folder with two queues and four messages, of a broker that was killed or stopped.
fn used(killed: bool) -> Folder {
    let folder = Folder::new();
    let mut server = Server::start_in(&folder, &[]);
    fill(&server);
    if killed {
        server.kill();
    } else {
        server.terminate();
        assert!(server.wait().success());
    }
    folder
}

fn segment_with(folder: &Path, words: &[u8]) -> (PathBuf, usize) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let content = std::fs::read(entry.path()).unwrap_or_default();
        if let Some(at) = content.windows(words.len()).position(|part| part == words) {
            return (entry.path(), at);
        }
    }
    panic!("no file has {words:?}");
}

fn flip(file: &Path, at: usize) {
    let mut content = std::fs::read(file).unwrap();
    content[at] ^= 4;
    std::fs::write(file, content).unwrap();
}

/// Every file with its content and its time.
fn state(folder: &Path) -> Vec<(PathBuf, Vec<u8>, std::time::SystemTime)> {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    let mut state: Vec<_> = entries
        .filter(|entry| entry.path().is_file())
        .map(|entry| {
            let changed = entry.metadata().unwrap().modified().unwrap();
            (entry.path(), std::fs::read(entry.path()).unwrap(), changed)
        })
        .collect();
    state.sort();
    state
}

#[test]
fn a_folder_after_a_stop_or_a_crash_is_well_and_not_touched() {
    for killed in [false, true] {
        let folder = used(killed);
        let before = state(folder.path());
        let (code, said) = on("verify", folder.path(), &[]);
        assert_eq!(code, WELL, "{said}");
        assert!(said.contains("2 queues, 4 messages"), "{said}");
        assert!(said.ends_with("all is well\n"), "{said}");
        let (code, said) = on("stats", folder.path(), &["--json"]);
        let stats: Value = serde_json::from_str(&said).unwrap();
        assert_eq!((code, &stats["messages"]), (WELL, &4.into()), "{said}");
        assert_eq!(stats["queues"][0]["queue"], "orders");
        assert_eq!(stats["queues"][0]["messages"], 3);
        let (code, said) = on("stats", folder.path(), &[]);
        assert!(code == WELL && said.contains("4 messages of"), "{said}");
        assert!(state(folder.path()) == before, "the folder was changed");
    }
}

#[test]
fn a_dump_has_everything_but_secrets() {
    let folder = used(true);
    let (code, said) = on("dump", folder.path(), &[]);
    assert_eq!(code, WELL, "{said}");
    let lines: Vec<Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |kind: &'static str| lines.iter().filter(move |line| line["type"] == kind);
    assert_eq!(of("users").next().unwrap()["value"]["name"], "guest");
    assert!(!said.contains("\"password_hash\""), "{said}");
    assert_eq!(of("queues").count(), 2);
    let orders: Vec<_> = of("message")
        .filter(|line| line["queue"] == "orders")
        .collect();
    let bodies: Vec<_> = orders
        .iter()
        .map(|line| line["payload"].as_str().unwrap())
        .collect();
    assert_eq!(bodies, ["one", "two", "/wB0aHJlZQ=="]);
    assert_eq!(orders[2]["payload_encoding"], "base64");
    assert_eq!(orders[0]["properties"]["content_type"], "text/plain");
    assert_eq!(
        (&orders[0]["vhost"], &orders[0]["routing_key"]),
        (&"/".into(), &"orders".into())
    );
    let (_, said) = on(
        "dump",
        folder.path(),
        &["--queue", "orders", "--limit", "2"],
    );
    assert_eq!(said.lines().count(), 2, "{said}");
    let (_, said) = on("dump", folder.path(), &["--vhost", "none"]);
    assert_eq!(said, "");
}

#[test]
fn a_folder_in_use_and_one_that_is_none_are_refused() {
    let folder = Folder::new();
    let server = Server::start_in(&folder, &[]);
    for command in ["verify", "dump", "stats"] {
        let (code, said) = on(command, folder.path(), &[]);
        assert_eq!(code, UNUSABLE, "{said}");
        assert!(said.contains("uses this directory"), "{said}");
    }
    drop(server);
    let nothing = Folder::new();
    let (code, said) = on("verify", nothing.path(), &[]);
    assert!(code == UNUSABLE && said.contains("No such file"), "{said}");
    assert!(!nothing.path().exists(), "it was made");
    std::fs::create_dir_all(nothing.path()).unwrap();
    let (code, said) = on("verify", nothing.path(), &[]);
    assert!(code == UNUSABLE && said.contains("no journal"), "{said}");
    assert_eq!(std::fs::read_dir(nothing.path()).unwrap().count(), 0);
}

#[test]
fn damage_is_named_and_the_rest_is_saved() {
    let folder = used(false);
    let (file, at) = segment_with(folder.path(), b"two");
    flip(&file, at);
    let (code, said) = on("verify", folder.path(), &[]);
    assert_eq!(code, DAMAGED, "{said}");
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(said.contains(name), "{said}");
    assert!(
        said.contains("queue 'orders' in vhost '/': messages 1 to 1"),
        "{said}"
    );
    let (code, said) = on("verify", folder.path(), &["--json"]);
    let report: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &report["well"]), (DAMAGED, &false.into()));
    assert_eq!(report["bad"][0]["lost"][0]["queue"], "orders");
    assert_eq!(report["bad"][0]["file"], name);

    let before = state(folder.path());
    let new = Folder::new();
    let into = new.path().to_str().unwrap();
    let (code, said) = on("salvage", folder.path(), &[into]);
    assert!(
        code == DAMAGED && said.contains("3 messages are in"),
        "{said}"
    );
    assert!(state(folder.path()) == before, "the old folder was changed");
    assert_eq!(on("verify", new.path(), &[]).0, WELL);
    let (code, said) = on("salvage", folder.path(), &[into]);
    assert!(code == UNUSABLE && said.contains("exists"), "{said}");

    let server = Server::start_in(&new, &[]);
    let mut client = server.login();
    assert_eq!(client.get(1, "orders"), b"one");
    assert_eq!(client.get(1, "orders"), b"\xff\x00three");
    assert_eq!(client.get(1, "mail"), b"four");
    fill(&server);
}

/// Messages of 60 KiB, and how many of them are settled.
const LONG: u32 = 800;
const SETTLED: u32 = 50;

fn long_body(number: u32) -> Vec<u8> {
    let mut body = vec![b'x'; 60 << 10];
    body[..4].copy_from_slice(format!("{number:04}").as_bytes());
    body
}

/// A folder of a broker with a short journal that was killed: most messages of a long queue are in
/// run files.
fn handed_over() -> Folder {
    let folder = Folder::new();
    let settings = [
        "storage.journal_window=\"16 MiB\"",
        "limits.queue_resident_bytes=\"1 MiB\"",
    ];
    let server = Server::start_in(&folder, &settings);
    fill(&server);
    let mut client = server.login();
    let durable = |queue| QueueDeclare {
        durable: true,
        ..declare(queue, &[])
    };
    client.method(1, durable("long"));
    client.expect(1, "queue.declare-ok");
    let bodies: Vec<_> = (0..LONG).map(long_body).collect();
    let bodies: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
    publish(&mut client, "long", &bodies);
    let journal = || {
        let entries = std::fs::read_dir(folder.path()).unwrap().flatten();
        let segments =
            entries.filter(|it| it.file_name().as_encoded_bytes().starts_with(b"journal-"));
        segments.map(|it| it.metadata().unwrap().len()).sum::<u64>()
    };
    assert!(eventually(|| journal() < 40 << 20), "{} bytes", journal());
    for number in 0..SETTLED {
        assert_eq!(client.get(1, "long"), long_body(number));
    }
    // The answer waits for the disk, and so for what was settled before.
    client.method(1, durable("other"));
    client.expect(1, "queue.declare-ok");
    server.kill();
    folder
}

/// The numbers of the long queue's messages in a dump.
fn dumped(folder: &Path, more: &[&str]) -> (i32, Vec<u32>) {
    let (code, said) = on("dump", folder, &[&["--queue", "long"], more].concat());
    let lines = said.lines().filter(|line| line.starts_with('{'));
    // To parse them takes a debug build seconds.
    let number = |line: &str| {
        assert!(line.len() > 60 << 10, "{line}");
        let (_, payload) = line.split_once(r#""payload":""#).unwrap();
        payload[..4].parse().unwrap()
    };
    (code, lines.map(number).collect())
}

#[test]
fn messages_in_run_files_are_looked_at_as_well() {
    let folder = handed_over();
    let (code, said) = on("verify", folder.path(), &["--json"]);
    let report: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (code, &report["messages"]),
        (WELL, &(LONG - SETTLED + 4).into())
    );
    let (code, said) = on("stats", folder.path(), &["--json"]);
    let stats: Value = serde_json::from_str(&said).unwrap();
    let long = &stats["queues"][0];
    assert_eq!((code, &long["queue"]), (WELL, &"long".into()), "{said}");
    assert_eq!(long["messages"], LONG - SETTLED);
    assert!(long["bytes"].as_u64().unwrap() > u64::from(LONG - SETTLED) * (60 << 10));
    let runs = stats["run_files"].as_array().unwrap();
    let sum = |key| {
        runs.iter()
            .map(|run| run[key].as_u64().unwrap())
            .sum::<u64>()
    };
    assert!(sum("live_messages") > 100, "{said}");
    assert_eq!(report["chunks"], sum("chunks"));
    assert_eq!(sum("bytes"), sum("live_bytes") + sum("dead_bytes"));
    let expected: Vec<u32> = (SETTLED..LONG).collect();
    assert_eq!(dumped(folder.path(), &[]), (WELL, expected.clone()));
    let few = dumped(folder.path(), &["--limit", "70"]);
    assert_eq!(few, (WELL, expected[..70].to_vec()));
    damaged_run_files_are_named_and_the_rest_is_saved(&folder);
}

fn damaged_run_files_are_named_and_the_rest_is_saved(folder: &Folder) {
    let runs = std::fs::read_dir(folder.path().join("runs")).unwrap();
    let mut runs: Vec<_> = runs.map(|run| run.unwrap().path()).collect();
    runs.sort();
    // Behind what is settled, and long handed over.
    let at = 7 << 20;
    flip(&runs[0], at);
    let (code, said) = on("verify", folder.path(), &["--json"]);
    let report: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(code, DAMAGED, "{said}");
    let bad = &report["bad"][0];
    let name = runs[0].file_name().unwrap().to_str().unwrap();
    assert_eq!(bad["file"], format!("runs/{name}"));
    assert!(bad["offset"].as_u64().unwrap() <= at as u64, "{said}");
    assert!(bad["what"].as_str().unwrap().contains("checksum"), "{said}");
    let lost = &bad["lost"][0];
    assert_eq!(lost["queue"], "long");
    let number = |key: &str| u32::try_from(lost[key].as_u64().unwrap()).unwrap();
    let gone = number("from")..=number("to");
    let left: Vec<u32> = (SETTLED..LONG).filter(|it| !gone.contains(it)).collect();
    assert!(left.len() > 500, "{said}");
    let (code, said) = on("verify", folder.path(), &[]);
    let told = format!("messages {} to {}", gone.start(), gone.end());
    assert!(code == DAMAGED && said.contains(&told), "{said}");
    let few = gone.end().to_string();
    let (code, numbers) = dumped(folder.path(), &["--limit", &few]);
    assert_eq!((code, &numbers[..]), (DAMAGED, &left[..numbers.len()]));
    let new = Folder::new();
    let (code, said) = on("salvage", folder.path(), &[new.path().to_str().unwrap()]);
    assert!(code == DAMAGED && said.contains(&told), "{said}");
    assert_eq!(on("verify", new.path(), &[]).0, WELL);
    saved_messages_are_served(&new, &left);
    rot_is_found_while_nobody_reads(folder, left.len());

    std::fs::remove_file(&runs[0]).unwrap();
    for command in ["verify", "stats"] {
        let (code, said) = on(command, folder.path(), &[]);
        assert!(
            code == DAMAGED && said.contains("the file is missing"),
            "{said}"
        );
    }
}

/// The broker finds by itself what is bad: its messages are named and counted, the others stay.
fn rot_is_found_while_nobody_reads(folder: &Folder, left: usize) {
    let settings = [
        "storage.scrub_rate=\"1 GiB\"",
        "limits.queue_resident_bytes=\"1 MiB\"",
    ];
    let server = Server::start_http_in(folder, &settings);
    let http = server.http_as("guest", "guest");
    let ended = || http.get("/api/x/scrub")["passes"].as_u64() > Some(0);
    assert!(eventually(ended));
    let scrub = http.get("/api/x/scrub");
    assert_eq!(scrub["bad_chunks"], 1, "{scrub}");
    assert!(scrub["last_pass_ended"].as_u64() > Some(0), "{scrub}");
    let lost = LONG - SETTLED - u32::try_from(left).unwrap();
    assert_eq!(http.get("/api/queues/%2F/long")["x_messages_lost"], lost);
    let is_told = |line: &String| line.contains("could not be read back") && line.contains("long");
    assert!(eventually(|| server.log().iter().any(is_told)));
}

fn saved_messages_are_served(folder: &Folder, left: &[u32]) {
    let server = Server::start_in(folder, &[]);
    let mut client = server.login();
    let passive = QueueDeclare {
        passive: true,
        ..declare("long", &[])
    };
    client.method(1, passive);
    let answer = client.expect(1, "queue.declare-ok");
    let Method::QueueDeclareOk(ok) = answer.method() else {
        unreachable!("the name says so");
    };
    assert_eq!(ok.message_count as usize, left.len());
    for number in left.iter().take(100) {
        assert_eq!(client.get(1, "long"), long_body(*number));
    }
    assert_eq!(client.get(1, "mail"), b"four");
}

/// Both checkpoints of a declaration are damaged, or the record: no broker starts with the folder.
#[test]
fn messages_of_a_queue_that_is_lost_are_saved_in_another_one() {
    let folder = used(true);
    // The declaration is in the journal only: the checkpoint is older.
    let (file, at) = segment_with(folder.path(), b"\x04\0\0\0mail");
    flip(&file, at + 5);
    let refused = run_to_end(
        leveret()
            .args(["--set", r#"amqp.listen=["127.0.0.1:0"]"#])
            .arg("--data-dir")
            .arg(folder.path()),
    );
    assert!(!refused.status.success());
    let (code, said) = on("verify", folder.path(), &[]);
    assert_eq!(code, DAMAGED, "{said}");
    let new = Folder::new();
    let (code, said) = on("salvage", folder.path(), &[new.path().to_str().unwrap()]);
    assert!(
        code == DAMAGED && said.contains("leveret.salvaged."),
        "{said}"
    );
    let queue = said
        .split('\'')
        .find(|word| word.starts_with("leveret.salvaged."));
    let server = Server::start_in(&new, &[]);
    let mut client = server.login();
    assert_eq!(client.get(1, queue.unwrap()), b"four");
    assert_eq!(client.get(1, "orders"), b"one");
}

/// Bits all over the files of a real folder: what is called well starts with everything.
#[test]
fn flipped_bits_are_found_or_harmless() {
    let folder = used(false);
    let (_, whole) = on("dump", folder.path(), &[]);
    let mut wrong = 0;
    let files = state(folder.path()).into_iter();
    for (file, content, _) in files.filter(|(file, ..)| !file.ends_with("LOCK")) {
        let written = content.iter().enumerate().filter(|(_, byte)| **byte != 0);
        let places: Vec<usize> = written.map(|(at, _)| at).collect();
        for at in places.iter().step_by(places.len() / 12 + 1) {
            flip(&file, *at);
            let (code, said) = on("verify", folder.path(), &[]);
            if code == WELL {
                assert_eq!(
                    on("dump", folder.path(), &[]),
                    (WELL, whole.clone()),
                    "{file:?} {at}"
                );
            } else {
                wrong += 1;
                assert!(said.contains("bad:") || code == DAMAGED, "{said}");
            }
            flip(&file, *at);
        }
    }
    assert!(wrong > 5, "{wrong}");
}
