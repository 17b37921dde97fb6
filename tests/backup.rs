//! Copies of the data folder that the real binary makes while it serves.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use leveret_codec::{
    BasicConsume, BasicPublish, ConfirmSelect, Method, Properties, QueueDeclare, QueuePurge,
};
use serde_json::{Value, json};
use support::http::Http;
use support::{Client, Folder, PATIENCE, Server, declare, encode, eventually, leveret, raw_frame};

const BODY_BYTES: usize = 10_000;
/// Messages on their way to a confirm.
const WINDOW: u64 = 100;

fn start(folder: &Folder, settings: &[&str]) -> Server {
    Server::start_http_in(folder, settings)
}

fn guest(server: &Server) -> Http {
    server.http_as("guest", "guest")
}

fn back_up(api: &Http, name: &str) -> (u16, Value) {
    let body = json!({"name": name}).to_string();
    let answer = api.call("POST", "/api/x/backups", &body);
    (answer.status, answer.json())
}

fn list(api: &Http) -> Vec<Value> {
    let answer = api.call("GET", "/api/x/backups", "");
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json().as_array().unwrap().clone()
}

fn data(arguments: &[&str]) -> (i32, String) {
    // It says more than a pipe holds.
    let output = leveret()
        .arg("data")
        .args(arguments)
        .output()
        .expect("it can be run");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (
        output.status.code().unwrap(),
        said + &String::from_utf8_lossy(&output.stderr),
    )
}

fn assert_well(backup: &Path) {
    let (code, said) = data(&["verify", backup.to_str().unwrap()]);
    assert_eq!(code, 0, "{}: {said}", backup.display());
}

fn durable(client: &mut Client, queue: &str) {
    let durable = QueueDeclare {
        durable: true,
        ..declare(queue, &[])
    };
    client.method(1, durable);
    client.expect(1, "queue.declare-ok");
}

/// A message whose body begins with its number.
fn send(client: &mut Client, queue: &str, number: u64) {
    let publish = BasicPublish {
        routing_key: queue.as_bytes(),
        ..Default::default()
    };
    let mut header = Vec::new();
    let properties = Properties {
        delivery_mode: Some(2),
        ..Properties::default()
    };
    properties.encode(BODY_BYTES as u64, &mut header);
    let mut body = format!("{number:010} ").into_bytes();
    body.resize(BODY_BYTES, b'x');
    client.send(&encode(1, publish));
    client.send(&raw_frame(2, 1, &header));
    client.send(&raw_frame(3, 1, &body));
}

/// The number of the last message that the next confirm is for.
fn confirm(client: &mut Client) -> u64 {
    let next = client.next();
    match next.method() {
        Method::BasicAck(ack) => ack.delivery_tag,
        other => panic!("{other:?} instead of a confirm"),
    }
}

fn publish(server: &Server, queue: &str, numbers: std::ops::Range<u64>) {
    let mut client = server.login();
    durable(&mut client, queue);
    client.method(1, ConfirmSelect { nowait: false });
    client.expect(1, "confirm.select-ok");
    let count = numbers.end - numbers.start;
    for number in numbers {
        send(&mut client, queue, number);
    }
    while confirm(&mut client) < count {}
}

/// Publishes to a queue until told to stop; tells how many were confirmed, and the longest time
/// that the broker took for one.
struct Load {
    confirmed: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Duration>,
}

impl Load {
    fn start(server: &Server, queue: &'static str) -> Self {
        let mut client = server.login();
        durable(&mut client, queue);
        client.method(1, ConfirmSelect { nowait: false });
        client.expect(1, "confirm.select-ok");
        let (confirmed, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (told, ends) = (Arc::clone(&confirmed), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let (mut sent, mut longest) = (0, Duration::ZERO);
            while !ends.load(Ordering::Relaxed) {
                while sent < told.load(Ordering::Relaxed) + WINDOW {
                    send(&mut client, queue, sent);
                    sent += 1;
                }
                let asked = Instant::now();
                told.store(confirm(&mut client), Ordering::Relaxed);
                longest = longest.max(asked.elapsed());
                // A stream, not a flood: a test machine has other things to do.
                thread::sleep(Duration::from_millis(1));
            }
            longest
        });
        Self {
            confirmed,
            stop,
            thread,
        }
    }

    fn end(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// The numbers of the messages of a queue in a folder.
fn numbers(folder: &Path, queue: &str) -> BTreeSet<u64> {
    let (code, said) = data(&["dump", folder.to_str().unwrap(), "--queue", queue]);
    assert_eq!(code, 0, "{said}");
    let number = |line: &str| {
        let message: Value = serde_json::from_str(line).unwrap();
        message["payload"].as_str().unwrap()[..10].parse().unwrap()
    };
    said.lines().map(number).collect()
}

#[test]
fn a_backup_has_everything_and_a_broker_starts_from_it() {
    let folder = Folder::new();
    let server = start(&folder, &[]);
    let api = guest(&server);
    assert_eq!(list(&api), Vec::<Value>::new());
    publish(&server, "kept", 0..300);
    let (status, made) = back_up(&api, "first");
    assert_eq!(status, 201, "{made}");
    assert_eq!(
        (&made["name"], &made["messages"]),
        (&"first".into(), &300.into())
    );
    publish(&server, "kept", 300..350);
    assert_eq!(server.login().count(1, "other"), 0);
    let (status, _) = back_up(&api, "");
    assert_eq!(status, 201);
    let names: Vec<_> = list(&api).iter().map(|of| of["name"].clone()).collect();
    assert_eq!((names.len(), &names[0]), (2, &"first".into()));

    let backup = PathBuf::from(made["path"].as_str().unwrap());
    assert_well(&backup);
    assert_eq!(numbers(&backup, "kept"), (0..300).collect());
    // The copy in use, beside the broker that made it.
    let settings = [
        r#"management.listen=["127.0.0.1:0"]"#,
        r#"management.metrics_listen=["127.0.0.1:0"]"#,
    ];
    let restored = Folder::at(&backup);
    let second = Server::start_in(&restored, &settings);
    let mut client = second.login();
    for number in 0..300 {
        let body = client.get(1, "kept");
        assert!(body.starts_with(format!("{number:010} ").as_bytes()));
    }
    drop(client);
    publish(&second, "kept", 0..20);
    drop(second);
    // It is no backup any more.
    assert_eq!(list(&api).len(), 1);
    drop(server);
    assert_well(folder.path());
    assert_eq!(numbers(folder.path(), "kept"), (0..350).collect());
}

/// What the journal has handed over to run files is in a backup, and stays in it when the broker
/// that made it needs it no more.
#[test]
fn a_backup_has_what_left_the_journal() {
    const MESSAGES: u64 = 9_000;
    let settings = [
        "limits.queue_resident_bytes=\"256 KiB\"",
        "storage.journal_window=\"16 MiB\"",
    ];
    let folder = Folder::new();
    let server = start(&folder, &settings);
    let api = guest(&server);
    publish(&server, "deep", 0..MESSAGES);
    let runs = |of: &Path| -> BTreeSet<_> {
        let entries = std::fs::read_dir(of.join("runs")).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    };
    let (mut backup, mut kept, mut number) = (PathBuf::new(), BTreeSet::new(), 0);
    // The first file is full, so that it can go.
    assert!(
        eventually(|| {
            number += 1;
            let (status, made) = back_up(&api, &number.to_string());
            assert_eq!(
                (status, &made["messages"]),
                (201, &MESSAGES.into()),
                "{made}"
            );
            backup = PathBuf::from(made["path"].as_str().unwrap());
            kept = runs(&backup);
            kept.contains(std::ffi::OsStr::new("0000000000000001.run"))
        }),
        "{kept:?}"
    );
    let mut client = server.login();
    client.method(
        1,
        QueuePurge {
            queue: b"deep",
            nowait: false,
        },
    );
    client.expect(1, "queue.purge-ok");
    // The broker that made it gives back to the disk what it needs no more.
    publish(&server, "other", 0..1_000);
    assert!(eventually(|| !kept.is_subset(&runs(folder.path()))));
    drop((client, server));
    assert_well(&backup);
    let restored = Folder::at(&backup);
    let second = Server::start_in(&restored, &settings);
    let mut client = second.login();
    for number in 0..MESSAGES {
        let body = client.get(1, "deep");
        assert!(
            body.starts_with(format!("{number:010} ").as_bytes()),
            "{number}"
        );
    }
}

#[test]
fn names_that_lead_elsewhere_or_are_taken_are_refused() {
    let folder = Folder::new();
    let server = start(&folder, &[]);
    let api = guest(&server);
    for name in ["../a", "/tmp/a", ".", ".a", "a/b", "a b"] {
        let (status, body) = back_up(&api, name);
        assert_eq!(status, 400, "{name}: {body}");
    }
    assert_eq!(back_up(&api, "a").0, 201);
    let (status, body) = back_up(&api, "a");
    assert_eq!(
        (status, &body["error"]),
        (412, &"precondition_failed".into())
    );
    let user = json!({"password": "p", "tags": "monitoring"}).to_string();
    assert_eq!(api.call("PUT", "/api/users/watcher", &user).status, 201);
    let watcher = server.http_as("watcher", "p");
    assert_eq!(back_up(&watcher, "b").0, 401);
    assert_eq!(watcher.call("GET", "/api/x/backups", "").status, 401);
    let inside: Vec<_> = std::fs::read_dir(folder.path().join("backups"))
        .unwrap()
        .collect();
    assert_eq!(inside.len(), 1);
}

/// One each second, of a queue that only grows beside one that is emptied all the time.
#[test]
fn each_backup_under_load_holds_what_was_confirmed_before() {
    let seconds = std::env::var("LEVERET_BACKUP_SECONDS");
    let seconds: u64 = seconds.map_or(5, |seconds| seconds.parse().unwrap());
    // On a small disk segments are small, and some are full soon.
    let small = (seconds <= 10).then(|| Elsewhere::mount(900));
    let own = Folder::new();
    let folder = small.as_ref().map_or(&own, |small| &small.0);
    let server = start(folder, &["limits.disk_free_min=20MiB"]);
    let api = guest(&server);
    let (kept, gone) = (Load::start(&server, "kept"), Load::start(&server, "gone"));
    let mut consumer = server.login();
    let consume = BasicConsume {
        queue: b"gone",
        no_ack: true,
        ..BasicConsume::default()
    };
    consumer.method(1, consume);
    let eating = thread::spawn(move || drop(consumer.expect_end()));
    let (mut made, mut linked) = (Vec::new(), 0);
    for number in 0..seconds {
        let confirmed = kept.confirmed.load(Ordering::Relaxed);
        let (status, backup) = back_up(&api, &format!("b{number}"));
        assert_eq!(status, 201, "{backup}");
        let copied = backup["copied_bytes"].as_u64() < backup["bytes"].as_u64();
        linked += u32::from(copied);
        made.push((PathBuf::from(backup["path"].as_str().unwrap()), confirmed));
        thread::sleep(Duration::from_secs(1));
    }
    let (longest, _) = (kept.end(), gone.end());
    println!("the longest wait for a confirm: {longest:?}; {linked} with links");
    assert!(linked > 0, "nothing was linked");
    drop(server);
    eating.join().unwrap();
    assert!(made.last().unwrap().1 > 0, "nothing was confirmed");
    for (backup, confirmed) in &made {
        assert_well(backup);
        let there = numbers(backup, "kept");
        let lacks = (0..*confirmed).find(|number| !there.contains(number));
        assert_eq!(lacks, None, "{}, {confirmed} confirmed", backup.display());
    }
    let (backup, confirmed) = &made[made.len() / 2];
    let restored = Folder::at(backup);
    let second = Server::start_in(&restored, &[]);
    assert!(*confirmed > 0);
    let mut client = second.login();
    assert!(client.get(1, "kept").starts_with(b"0000000000 "));
}

/// Killed while a copy is made, sooner or later after its folder appeared: what is listed
/// afterwards is whole.
#[test]
fn a_crash_leaves_no_half_backup_that_counts() {
    let folder = Folder::new();
    let copies = folder.path().join("backups");
    let mut listed = BTreeSet::new();
    for (round, later_ms) in [0, 1, 2, 4, 8, 16, 64, 512].into_iter().enumerate() {
        let server = start(&folder, &[]);
        let first = round as u64 * 100;
        publish(&server, "kept", first..first + 100);
        for backup in list(&guest(&server)) {
            let path = PathBuf::from(backup["path"].as_str().unwrap());
            assert_well(&path);
            listed.insert(path);
        }
        let mut asking = TcpStream::connect(server.api()).unwrap();
        let body = json!({"name": format!("r{round}")}).to_string();
        let request = format!(
            "POST /api/x/backups HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic \
             Z3Vlc3Q6Z3Vlc3Q=\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        asking.write_all(request.as_bytes()).unwrap();
        let (part, whole) = (format!(".r{round}.part"), format!("r{round}"));
        let has_begun = || copies.join(&part).exists() || copies.join(&whole).exists();
        let deadline = Instant::now() + PATIENCE;
        while !has_begun() {
            assert!(Instant::now() < deadline, "no copy is begun");
            thread::sleep(Duration::from_micros(200));
        }
        thread::sleep(Duration::from_millis(later_ms));
        server.kill();
        assert_well(folder.path());
    }
    let server = start(&folder, &[]);
    assert_eq!(back_up(&guest(&server), "last").0, 201);
    println!("{} of 8 copies were complete at a kill", listed.len());
    let names = std::fs::read_dir(&copies).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let left: Vec<_> = names.filter(|name| name.starts_with('.')).collect();
    assert_eq!(left, Vec::<String>::new());
}

/// A folder on a file system of its own, gone when dropped.
struct Elsewhere(Folder);

impl Elsewhere {
    fn mount(mib: u32) -> Self {
        let folder = Folder::new();
        std::fs::create_dir_all(folder.path()).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"]);
        let output = mount.arg(folder.path()).output().expect("mount can be run");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "a tmpfs is mounted, which needs root: {error}"
        );
        Self(folder)
    }

    fn setting(&self) -> String {
        format!(
            "storage.backup_dir={}",
            self.0.path().join("copies").display()
        )
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let mut unmount = Command::new("umount");
        let _ = unmount.arg("--lazy").arg(self.0.path()).status();
    }
}

#[test]
fn another_disk_gets_all_bytes_or_refuses_before_anything_is_written() {
    let folder = Folder::new();
    let small = Elsewhere::mount(1);
    let server = start(&folder, &[&small.setting()]);
    publish(&server, "kept", 0..200);
    let (status, body) = back_up(&guest(&server), "a");
    assert_eq!((status, &body["error"]), (507, &"no_room".into()), "{body}");
    assert_eq!(std::fs::read_dir(small.0.path()).unwrap().count(), 0);
    drop(server);

    let large = Elsewhere::mount(400);
    let server = start(&folder, &[&large.setting()]);
    let (status, made) = back_up(&guest(&server), "a");
    assert_eq!(status, 201, "{made}");
    assert_eq!(made["bytes"], made["copied_bytes"]);
    let backup = PathBuf::from(made["path"].as_str().unwrap());
    assert!(backup.starts_with(large.0.path()), "{made}");
    assert_well(&backup);
    assert_eq!(numbers(&backup, "kept"), (0..200).collect());
    assert_eq!(list(&guest(&server)).len(), 1);
}
