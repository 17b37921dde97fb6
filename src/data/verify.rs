//! `leveret data verify`.

use std::io::Write;
use std::path::Path;

use leveret_store::{Finding, OpenError, RecoveredMessage};
use serde_json::{Value, json};

use super::{DataOutcome, OfflineFolder, Trouble, bytes_of, line};

/// Checks a folder and says what is wrong.
pub(super) fn run(dir: &Path, json: bool, out: &mut impl Write) -> Result<DataOutcome, Trouble> {
    let mut folder = OfflineFolder::read(dir)?;
    let counted = count(&mut folder)?;
    if json {
        return as_json(&folder, &counted, out);
    }
    let inspected = &folder.inspected;
    let (segments, frames, records) = (
        inspected.segments.len(),
        inspected.frames,
        inspected.records,
    );
    line(
        out,
        format_args!(
            "{segments} segments, {frames} frames, {records} records; {} run files, {} chunks; {} \
             queues, {} messages, {} bytes",
            counted.runs, counted.chunks, counted.queues, counted.messages, counted.bytes
        ),
    )?;
    for note in &inspected.notes {
        line(out, format_args!("note: {}", folder.told(note)))?;
    }
    for finding in &inspected.findings {
        line(out, format_args!("bad: {}", folder.told(finding)))?;
    }
    match inspected.findings.len() {
        0 => line(out, "all is well")?,
        1 => line(out, "one thing is wrong")?,
        many => line(out, format_args!("{many} things are wrong"))?,
    }
    Ok(DataOutcome::of(&inspected.findings))
}

/// What is in the folder.
struct FolderTotals {
    queues: usize,
    /// Run files that are needed, and chunks in them.
    runs: usize,
    chunks: usize,
    messages: u64,
    bytes: u64,
}

/// Reads every message: those in segments again, as a start does, and those in run files.
fn count(folder: &mut OfflineFolder) -> Result<FolderTotals, Trouble> {
    let mut queues: Vec<_> = folder.owners.values().collect();
    queues.sort_unstable_by_key(|owner| (&owner.vhost, &owner.queue));
    queues.dedup_by_key(|owner| (&owner.vhost, &owner.queue));
    let moved = &folder.inspected.moved;
    let mut counted = FolderTotals {
        queues: queues.len(),
        runs: moved.runs().len(),
        chunks: moved.chunks().len(),
        messages: 0,
        bytes: 0,
    };
    let mut orphans = 0;
    let owners = &folder.owners;
    let messages = folder.inspected.messages.take();
    let mut count = |message: &RecoveredMessage<'_>| {
        counted.messages += 1;
        counted.bytes += bytes_of(message);
        orphans += u64::from(!owners.contains_key(&message.lane));
    };
    let read = messages.replay(&mut count);
    let wrong = folder.read_moved(&mut count);
    folder.inspected.findings.extend(wrong);
    if let Err(error) = read {
        tell_unread(folder, &error);
    }
    if orphans > 0 {
        let what =
            format!("{orphans} messages are of queues that are not declared: a start drops them");
        folder.inspected.notes.push(whole(what));
    }
    Ok(counted)
}

fn tell_unread(folder: &mut OfflineFolder, error: &OpenError) {
    folder.inspected.findings.push(whole(error.to_string()));
}

/// A finding about the folder as a whole.
fn whole(what: String) -> Finding {
    Finding {
        file: String::new(),
        offset: 0,
        what,
        lost: Vec::new(),
    }
}

fn as_json(
    folder: &OfflineFolder,
    counted: &FolderTotals,
    out: &mut impl Write,
) -> Result<DataOutcome, Trouble> {
    let inspected = &folder.inspected;
    let list = |findings: &[Finding]| -> Vec<Value> {
        findings
            .iter()
            .map(|finding| shown(folder, finding))
            .collect()
    };
    let report = json!({
        "well": inspected.findings.is_empty(),
        "segments": inspected.segments.len(),
        "frames": inspected.frames,
        "records": inspected.records,
        "run_files": counted.runs,
        "chunks": counted.chunks,
        "queues": counted.queues,
        "messages": counted.messages,
        "bytes": counted.bytes,
        "bad": list(&inspected.findings),
        "notes": list(&inspected.notes),
    });
    line(out, report)?;
    Ok(DataOutcome::of(&inspected.findings))
}

fn shown(folder: &OfflineFolder, finding: &Finding) -> Value {
    let lost = finding.lost.iter().map(|(lane, from, to)| {
        let owner = folder.owners.get(lane);
        json!({
            "vhost": owner.map(|owner| &*owner.vhost),
            "queue": owner.map(|owner| &*owner.queue),
            "lane": lane.0,
            "from": from,
            "to": to.saturating_sub(1),
        })
    });
    json!({
        "file": finding.file,
        "offset": finding.offset,
        "what": finding.what,
        "lost": lost.collect::<Vec<_>>(),
    })
}
