//! `leveret data stats`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use leveret_store::{RecoveredMessage, SegmentUse};
use serde_json::{Value, json};

use super::moved::RunUse;
use super::{DataOutcome, OfflineFolder, Trouble, bytes_of, line};

/// Messages of a queue, and their bytes.
#[derive(Clone, Copy, Default)]
struct QueueAmount {
    messages: u64,
    bytes: u64,
}

/// Says what takes space.
pub(super) fn run(dir: &Path, json: bool, out: &mut impl Write) -> Result<DataOutcome, Trouble> {
    let mut folder = OfflineFolder::read(dir)?;
    let mut queues: BTreeMap<(String, String), QueueAmount> = BTreeMap::new();
    for owner in folder.owners.values() {
        queues
            .entry((owner.vhost.to_string(), owner.queue.to_string()))
            .or_default();
    }
    let owners = &folder.owners;
    let mut count = |message: &RecoveredMessage<'_>| {
        let key = match owners.get(&message.lane) {
            Some(owner) => (owner.vhost.to_string(), owner.queue.to_string()),
            None => (String::new(), format!("(lane {})", message.lane.0)),
        };
        let amount = queues.entry(key).or_default();
        amount.messages += 1;
        amount.bytes += bytes_of(message);
    };
    folder.inspected.messages.take().replay(&mut count)?;
    let wrong = folder.read_moved(&mut count);
    folder.inspected.findings.extend(wrong);
    let mut queues: Vec<_> = queues.into_iter().collect();
    queues.sort_by_key(|(_, amount)| std::cmp::Reverse(amount.bytes));
    for finding in &folder.inspected.findings {
        eprintln!("bad: {}", folder.told(finding));
    }
    let (segments, runs) = (&folder.inspected.segments, folder.run_uses()?);
    if json {
        line(out, as_json(segments, &runs, &queues))?;
    } else {
        segments_as_text(segments, out)?;
        runs_as_text(&runs, out)?;
        queues_as_text(&queues, out)?;
    }
    Ok(DataOutcome::of(&folder.inspected.findings))
}

type Queues = [((String, String), QueueAmount)];

fn total(queues: &Queues) -> QueueAmount {
    queues
        .iter()
        .fold(QueueAmount::default(), |sum, (_, amount)| QueueAmount {
            messages: sum.messages + amount.messages,
            bytes: sum.bytes + amount.bytes,
        })
}

/// How much of what was written to a file lives, in messages.
fn share(live: u64, messages: u64) -> Option<f64> {
    (messages > 0).then(|| live as f64 / messages as f64)
}

fn share_as_text(live: u64, messages: u64) -> String {
    share(live, messages).map_or_else(String::new, |share| format!("{:.0} %", share * 100.0))
}

fn as_json(segments: &[SegmentUse], runs: &[RunUse], queues: &Queues) -> Value {
    let total = total(queues);
    let segments = segments.iter().map(|segment| {
        json!({
            "file": segment.file,
            "bytes": segment.bytes,
            "used_bytes": segment.used_bytes,
            "messages": segment.messages,
            "live_messages": segment.live,
            "live_share": share(segment.live, segment.messages),
        })
    });
    let runs = runs.iter().map(|run| {
        json!({
            "file": run.file,
            "bytes": run.bytes,
            "live_bytes": run.live_bytes,
            "dead_bytes": run.dead_bytes(),
            "chunks": run.chunks,
            "messages": run.messages,
            "live_messages": run.live,
            "live_share": share(run.live, run.messages),
        })
    });
    let rows = queues.iter().map(|((vhost, queue), amount)| {
        let QueueAmount { messages, bytes } = amount;
        json!({"vhost": vhost, "queue": queue, "messages": messages, "bytes": bytes})
    });
    json!({
        "segments": segments.collect::<Vec<_>>(),
        "run_files": runs.collect::<Vec<_>>(),
        "queues": rows.collect::<Vec<_>>(),
        "messages": total.messages,
        "bytes": total.bytes,
    })
}

fn segments_as_text(segments: &[SegmentUse], out: &mut impl Write) -> Result<(), Trouble> {
    let head = ["segment", "bytes", "used", "messages", "live", "share"];
    let [file, bytes, used, messages, live, share] = head;
    line(
        out,
        format_args!("{file:<16}{bytes:>12}{used:>12}{messages:>12}{live:>12}{share:>8}"),
    )?;
    for segment in segments {
        let share = share_as_text(segment.live, segment.messages);
        let SegmentUse {
            file,
            bytes,
            used_bytes,
            messages,
            live,
        } = segment;
        line(
            out,
            format_args!("{file:<16}{bytes:>12}{used_bytes:>12}{messages:>12}{live:>12}{share:>8}"),
        )?;
    }
    let disk: u64 = segments.iter().map(|of| of.bytes).sum();
    let count = segments.len();
    line(out, format_args!("{count} segments, {disk} bytes\n"))
}

fn runs_as_text(runs: &[RunUse], out: &mut impl Write) -> Result<(), Trouble> {
    if runs.is_empty() {
        return Ok(());
    }
    let head = ["run file", "live", "dead", "messages", "live", "share"];
    let [file, bytes, dead, messages, live, share] = head;
    line(
        out,
        format_args!("{file:<26}{bytes:>12}{dead:>12}{messages:>12}{live:>12}{share:>8}"),
    )?;
    for run in runs {
        let share = share_as_text(run.live, run.messages);
        let (bytes, dead) = (run.live_bytes, run.dead_bytes());
        let RunUse {
            file,
            messages,
            live,
            ..
        } = run;
        line(
            out,
            format_args!("{file:<26}{bytes:>12}{dead:>12}{messages:>12}{live:>12}{share:>8}"),
        )?;
    }
    let sum = |of: fn(&RunUse) -> u64| runs.iter().map(of).sum::<u64>();
    let (count, disk) = (runs.len(), sum(|run| run.bytes));
    let (chunks, bytes) = (sum(|run| run.chunks), sum(|run| run.live_bytes));
    line(
        out,
        format_args!("{count} run files, {disk} bytes; {chunks} chunks of {bytes} bytes live\n"),
    )
}

fn queues_as_text(queues: &Queues, out: &mut impl Write) -> Result<(), Trouble> {
    let QueueAmount { messages, bytes } = total(queues);
    let of_messages = format!("{messages} messages of {bytes} bytes live");
    line(out, of_messages)?;
    line(
        out,
        format_args!("{:>12}{:>14}  queue", "messages", "bytes"),
    )?;
    for ((vhost, queue), QueueAmount { messages, bytes }) in queues {
        line(
            out,
            format_args!("{messages:>12}{bytes:>14}  {vhost} {queue}"),
        )?;
    }
    Ok(())
}
