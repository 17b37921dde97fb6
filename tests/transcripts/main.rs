//! Transcripts: what a client says and what has to come back, word for word, in files beside this
//! one; against the broker in memory, against the real binary and against a real RabbitMQ.

mod memory;
mod parse;
mod player;
mod script;
mod self_tests;
mod socket;
mod value;
mod wire;

#[allow(dead_code, reason = "each test program uses a part of it")]
#[path = "../support/mod.rs"]
mod support;
#[allow(dead_code, reason = "each test program uses a part of it")]
#[path = "../../crates/broker/tests/support/mod.rs"]
mod support_of_broker;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use memory::Memory;
use player::{Player, World};
use script::{Script, Target};
use socket::Socket;
use support::machine::{TRIES, Watch};

/// Names a RabbitMQ's AMQP address. Its HTTP API listens 10,000 ports further on, as by default.
const ADDRESS: &str = "LEVERET_TRANSCRIPTS_AT";
/// Where set, a run against RabbitMQ writes its answers into the files in place of `?`.
const RECORD: &str = "LEVERET_TRANSCRIPTS_RECORD";
/// Only transcripts whose name has this text in it.
const ONLY: &str = "LEVERET_TRANSCRIPTS_ONLY";
/// Transcripts spend their time waiting.
const THREADS: usize = 24;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts")
}

fn files() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder()).expect("the folder is there");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|ext| ext == "txt"))
        .collect();
    files.sort();
    files
}

/// File and place in it of every transcript that is asked for.
fn transcripts(is_wanted: impl Fn(&script::Transcript) -> bool) -> Vec<(PathBuf, usize)> {
    let only = std::env::var(ONLY).unwrap_or_default();
    let mut found = Vec::new();
    for path in files() {
        let script = script::read(&path, "v");
        let wanted = script.transcripts.iter().enumerate();
        let wanted = wanted
            .filter(|(_, transcript)| transcript.name.contains(&only) && is_wanted(transcript));
        found.extend(wanted.map(|(index, _)| (path.clone(), index)));
    }
    found
}

/// What came of a transcript: its name, and what was wrong.
type Outcome = (String, Option<String>);

fn play(script: &Script, index: usize, world: Rc<dyn World>) -> Outcome {
    let transcript = &script.transcripts[index];
    let played = Player::new(world, false).play(transcript);
    (transcript.name.clone(), played.err())
}

/// Fails for each transcript that has another outcome than `expected.toml` says.
fn judge(outcomes: &[Outcome], expected: &BTreeMap<String, String>) {
    let mut wrong = Vec::new();
    for (name, error) in outcomes {
        match (error, expected.get(name)) {
            (Some(error), None) => wrong.push(format!("{name}\n{error}\n")),
            (None, Some(_)) => wrong.push(format!("{name}: holds; take it off expected.toml\n")),
            _ => {}
        }
    }
    let known = outcomes
        .iter()
        .filter(|(name, _)| expected.contains_key(name));
    eprintln!(
        "{} transcripts, {} of them listed as failing",
        outcomes.len(),
        known.count()
    );
    assert!(
        wrong.is_empty(),
        "{} wrong:\n\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// The transcripts known to fail against Leveret, with reasons.
fn expected() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(folder().join("expected.toml")).expect("it is there");
    let mut tables: BTreeMap<String, BTreeMap<String, String>> =
        toml::from_str(&text).expect("tables of names and reasons");
    tables.remove("leveret").unwrap_or_default()
}

/// Whoever answers otherwise than RabbitMQ on purpose says so where users look for it.
#[test]
fn what_differs_is_told_in_the_documentation() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/protocol.md");
    let text = std::fs::read_to_string(path).expect("it is there");
    let known = expected();
    for path in files() {
        for transcript in script::read(&path, "v").transcripts {
            let is_told = |row: &String| text.contains(&format!("| {row}"));
            assert!(
                known.contains_key(&transcript.name)
                    || transcript.differs.as_ref().is_none_or(is_told),
                "{}: no row {:?} in docs/protocol.md",
                transcript.name,
                transcript.differs
            );
        }
    }
}

/// Plays transcripts in some threads, each in a virtual host of its own. Clients go by the time in
/// them: those that fail while the machine does something else are played again, one by one.
fn play_all(
    target: Target,
    (amqp, http): (SocketAddr, SocketAddr),
    work: &[(PathBuf, usize)],
) -> Vec<Outcome> {
    let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let again = Mutex::new(Vec::new());
    let play = |path: &Path, index: usize| {
        let watch = Watch::start();
        let vhost = format!("transcripts-{}-{index}-{}", std::process::id(), stem(path));
        let script = script::read(path, &vhost);
        let world = Rc::new(Socket::new(target, amqp, http, &vhost));
        let outcome = play(&script, index, world);
        let disturbance = watch.disturbance().filter(|_| outcome.1.is_some());
        (outcome, disturbance)
    };
    let run = || {
        while let Some((path, index)) = work.get(next.fetch_add(1, Relaxed)) {
            match play(path, *index) {
                (_, Some(_)) => again.lock().expect("no panic").push((path, *index)),
                (outcome, None) => outcomes.lock().expect("no panic").push(outcome),
            }
        }
    };
    thread::scope(|scope| (0..THREADS).for_each(|_| drop(scope.spawn(run))));
    let mut outcomes = outcomes.into_inner().expect("no panic");
    for (path, index) in again.into_inner().expect("no panic") {
        outcomes.extend((1..=TRIES).find_map(|tries| match play(path, index) {
            (outcome, Some(why)) if tries < TRIES => {
                eprintln!("{}: {why}: tried again", outcome.0);
                None
            }
            (outcome, _) => Some(outcome),
        }));
    }
    outcomes
}

fn stem(path: &Path) -> String {
    path.file_stem()
        .expect("a name")
        .to_string_lossy()
        .into_owned()
}

#[test]
fn the_broker_in_memory_says_what_the_transcripts_say() {
    let work =
        transcripts(|transcript| transcript.is_for(Target::Leveret) && !transcript.needs_http());
    let outcomes: Vec<_> = work
        .iter()
        .map(|(path, index)| play(&script::read(path, "/"), *index, Rc::new(Memory::new())))
        .collect();
    judge(&outcomes, &expected());
}

#[test]
fn the_binary_says_what_the_transcripts_say() {
    let server = support::Server::start_http(&[]);
    let work = transcripts(|transcript| transcript.is_for(Target::Leveret));
    let outcomes = play_all(Target::Leveret, (server.address, server.api()), &work);
    judge(&outcomes, &expected());
}

#[test]
#[ignore = "asks the RabbitMQ that LEVERET_TRANSCRIPTS_AT names"]
fn a_real_rabbitmq_says_what_the_transcripts_say() {
    let address = std::env::var(ADDRESS).expect("LEVERET_TRANSCRIPTS_AT names a RabbitMQ");
    let amqp: SocketAddr = address.parse().expect("an address");
    let http = SocketAddr::new(amqp.ip(), amqp.port() + 10_000);
    let work = transcripts(|transcript| transcript.is_for(Target::RabbitMq));
    if std::env::var_os(RECORD).is_some() {
        return record((amqp, http), &work);
    }
    judge(
        &play_all(Target::RabbitMq, (amqp, http), &work),
        &BTreeMap::new(),
    );
}

/// Plays what has a `?` somewhere, and writes the files again.
fn record((amqp, http): (SocketAddr, SocketAddr), work: &[(PathBuf, usize)]) {
    for path in files() {
        let script = script::read(&path, "v");
        let wanted: Vec<_> = (0..script.transcripts.len())
            .filter(|index| work.contains(&(path.clone(), *index)))
            .filter(|index| script.transcripts[*index].is_unknown())
            .collect();
        let answers: Vec<Vec<player::Answer>> =
            script.transcripts.iter().map(|_| Vec::new()).collect();
        let answers = Mutex::new(answers);
        let next = AtomicUsize::new(0);
        let run = || {
            while let Some(index) = wanted.get(next.fetch_add(1, Relaxed)) {
                let vhost = format!("recording-{}-{index}", stem(&path));
                let script = script::read(&path, &vhost);
                let world = Rc::new(Socket::new(Target::RabbitMq, amqp, http, &vhost));
                let mut player = Player::new(world, true);
                let transcript = &script.transcripts[*index];
                if let Err(error) = player.play(transcript) {
                    eprintln!("{}\n{error}\n", transcript.name);
                }
                answers.lock().expect("no panic")[*index] = player.answers;
            }
        };
        thread::scope(|scope| (0..THREADS).for_each(|_| drop(scope.spawn(run))));
        if !wanted.is_empty() {
            script::write(&script, &answers.into_inner().expect("no panic"));
        }
    }
}
