//! `leveret data stats`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use leveret_store::SegmentUse;
use serde_json::{Value, json};

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
    folder.inspected.messages.take().replay(|message| {
        let key = match owners.get(&message.lane) {
            Some(owner) => (owner.vhost.to_string(), owner.queue.to_string()),
            None => (String::new(), format!("(lane {})", message.lane.0)),
        };
        let amount = queues.entry(key).or_default();
        amount.messages += 1;
        amount.bytes += bytes_of(message);
    })?;
    let mut queues: Vec<_> = queues.into_iter().collect();
    queues.sort_by_key(|(_, amount)| std::cmp::Reverse(amount.bytes));
    for finding in &folder.inspected.findings {
        eprintln!("bad: {}", folder.told(finding));
    }
    if let Some(moved) = folder.moved() {
        eprintln!("note: {moved}");
    }
    let segments = &folder.inspected.segments;
    if json {
        line(out, as_json(segments, &queues))?;
    } else {
        as_text(segments, &queues, out)?;
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

/// How much of what was written to a segment lives, in messages.
fn live_share(segment: &SegmentUse) -> Option<f64> {
    (segment.messages > 0).then(|| segment.live as f64 / segment.messages as f64)
}

fn as_json(segments: &[SegmentUse], queues: &Queues) -> Value {
    let total = total(queues);
    let segments = segments.iter().map(|segment| {
        json!({
            "file": segment.file,
            "bytes": segment.bytes,
            "used_bytes": segment.used_bytes,
            "messages": segment.messages,
            "live_messages": segment.live,
            "live_share": live_share(segment),
        })
    });
    let rows = queues.iter().map(|((vhost, queue), amount)| {
        let QueueAmount { messages, bytes } = amount;
        json!({"vhost": vhost, "queue": queue, "messages": messages, "bytes": bytes})
    });
    json!({
        "segments": segments.collect::<Vec<_>>(),
        "queues": rows.collect::<Vec<_>>(),
        "messages": total.messages,
        "bytes": total.bytes,
    })
}

fn as_text(segments: &[SegmentUse], queues: &Queues, out: &mut impl Write) -> Result<(), Trouble> {
    let head = ["segment", "bytes", "used", "messages", "live", "share"];
    let [file, bytes, used, messages, live, share] = head;
    line(
        out,
        format_args!("{file:<16}{bytes:>12}{used:>12}{messages:>12}{live:>12}{share:>8}"),
    )?;
    for segment in segments {
        let share =
            live_share(segment).map_or_else(String::new, |share| format!("{:.0} %", share * 100.0));
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
    let QueueAmount { messages, bytes } = total(queues);
    let (count, disk) = (
        segments.len(),
        segments.iter().map(|of| of.bytes).sum::<u64>(),
    );
    line(
        out,
        format_args!("{count} segments, {disk} bytes; {messages} messages of {bytes} bytes live\n"),
    )?;
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
