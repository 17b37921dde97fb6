//! Measures the journal on the real disk: `journal DIRECTORY [commit | restart | probe]`.

#[path = "../../../src/descriptors.rs"]
#[allow(dead_code, reason = "the binary's module, as it is")]
mod descriptors;
#[path = "../../../src/disk.rs"]
#[allow(unreachable_pub, dead_code, reason = "the binary's module, as it is")]
mod disk;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use leveret_store::{Batch, Journal, JournalConfig, LaneId, MessageParts, Store, probe_sync};

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let (Some(directory), what) = (arguments.get(1), arguments.get(2)) else {
        eprintln!("usage: journal DIRECTORY [commit | restart | probe]");
        return ExitCode::FAILURE;
    };
    let directory = Path::new(directory);
    let done = match what.map(String::as_str) {
        Some("restart") => restart(directory),
        Some("probe") => probe(directory),
        _ => [8, 128, 1024, 8192]
            .into_iter()
            .try_for_each(|records| commit(directory, records)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn fresh(directory: &Path, config: JournalConfig) -> Result<Journal, Failure> {
    if directory.exists() {
        std::fs::remove_dir_all(directory)?;
    }
    let disk = disk::Disk::open(directory)?;
    let begun = Instant::now();
    let opened = Journal::open(Arc::new(disk), config)?;
    println!("empty start: {:.1} ms", begun.elapsed().as_secs_f64() * 1e3);
    Ok(opened.journal)
}

fn fill(batch: &mut Batch, lane: LaneId, seqs: std::ops::Range<u64>) {
    let body = [0; 60];
    for seq in seqs {
        let parts = MessageParts {
            route: b"\0\x09queue.one",
            header: &[0; 29],
            body: &[&body],
            ..MessageParts::default()
        };
        batch.message(&[(lane, seq)], &parts);
    }
}

/// CPU time of this process, user and system.
fn cpu_seconds() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or("")
        .split_whitespace()
        .collect();
    let ticks = |at: usize| {
        fields
            .get(at)
            .and_then(|f| f.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    (ticks(11) / 100.0, ticks(12) / 100.0)
}

/// Records of 128 bytes, committed `records` at a time, with everything settled a while later; in
/// segments that have been used before.
fn commit(directory: &Path, records: u64) -> Result<(), Failure> {
    let config = JournalConfig {
        window_bytes: 256 << 20,
        checkpoint_bytes: 64 << 20,
        ..JournalConfig::default()
    };
    let journal = fresh(directory, config)?;
    let mut batch = Batch::new();
    // Until every segment has been written once.
    let mut seq = 0;
    while seq < 4_000_000 {
        turn(&journal, &mut batch, (seq, 8_192))?;
        seq += 8_192;
    }
    let commits = (4_000_000 / records).min(5_000);
    let (begun, cpu) = (Instant::now(), cpu_seconds());
    let mut encoding = 0.0;
    for _ in 0..commits {
        encoding += turn(&journal, &mut batch, (seq, records))?;
        seq += records;
    }
    let (wall, now) = (begun.elapsed().as_secs_f64(), cpu_seconds());
    let each = |seconds: f64| seconds * 1e9 / (commits * records) as f64;
    println!(
        "{records:5} a commit: {:6.0} ns wall, {:5.0} ns user, {:5.0} ns system a record (encode \
         and submit {:.0} ns); {:.0} us a commit",
        each(wall),
        each(now.0 - cpu.0),
        each(now.1 - cpu.1),
        each(encoding),
        wall * 1e6 / commits as f64
    );
    Ok(())
}

/// One commit; returns the seconds spent encoding and submitting.
fn turn(journal: &Journal, batch: &mut Batch, (seq, records): (u64, u64)) -> Result<f64, Failure> {
    let begun = Instant::now();
    fill(batch, LaneId(1), seq..seq + records);
    let old = seq.saturating_sub(4 * records);
    (old..old + records)
        .filter(|_| seq >= 4 * records)
        .for_each(|seq| batch.settle(LaneId(1), seq));
    journal.submit(batch)?;
    let encoding = begun.elapsed().as_secs_f64();
    journal.commit()?;
    if journal.durable().0.is_multiple_of(16) {
        while journal.housekeep()? {}
    }
    Ok(encoding)
}

/// A million messages in ten thousand lanes, then a start after a process death.
fn restart(directory: &Path) -> Result<(), Failure> {
    const LANES: u64 = 10_000;
    let journal = fresh(directory, JournalConfig::default())?;
    let mut batch = Batch::new();
    for lane in 0..LANES {
        let key = format!("queue {lane}");
        batch.topology(key.as_bytes(), Some(&[7; 100]));
    }
    for seq in 0..100 {
        for lane in 0..LANES {
            fill(&mut batch, LaneId(lane as u32), seq..seq + 1);
        }
        journal.submit(&mut batch)?;
        journal.commit()?;
        journal.housekeep()?;
    }
    drop(journal);
    let begun = Instant::now();
    let opened = Journal::open(
        Arc::new(disk::Disk::open(directory)?),
        JournalConfig::default(),
    )?;
    let known = begun.elapsed().as_secs_f64();
    let (lanes, topology) = (opened.lanes.len(), opened.topology.len());
    let (mut count, mut bytes) = (0_u64, 0);
    opened.messages.replay(|message| {
        count += 1;
        bytes += message.body.len();
    })?;
    let wall = begun.elapsed().as_secs_f64();
    println!(
        "{count} messages of {bytes} B, {lanes} lanes, {topology} keys: open {:.0} ms, with them \
         {:.0} ms",
        known * 1e3,
        wall * 1e3
    );
    Ok(())
}

fn probe(directory: &Path) -> Result<(), Failure> {
    let disk = disk::Disk::open(directory)?;
    let begun = Instant::now();
    let median = probe_sync(&disk, || begun.elapsed().as_nanos() as u64)?;
    println!(
        "write and sync of 4 KiB: {:.0} us (median)",
        median as f64 / 1e3
    );
    Ok(())
}
