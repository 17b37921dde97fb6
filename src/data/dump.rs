//! `leveret data dump`.

use std::io::Write;
use std::path::{Path, PathBuf};

use leveret_management::{declared, message_to_json};
use leveret_store::LaneId;
use serde_json::{Value, json};

use super::{DataOutcome, OfflineFolder, Trouble, line};

/// What of a folder is printed.
#[derive(clap::Args, Clone, Debug)]
pub struct Dumped {
    /// The data folder, or a backup
    dir: PathBuf,
    /// Only messages of queues of this name; nothing that is declared
    #[arg(long)]
    queue: Option<String>,
    /// Only messages of this virtual host; nothing that is declared
    #[arg(long)]
    vhost: Option<String>,
    /// At most so many messages
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Bodies always in base64, not only those that are no text
    #[arg(long)]
    base64: bool,
}

impl Dumped {
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }
}

/// Prints what is declared, then the messages: those of one queue and priority in their order.
pub(super) fn run(what: &Dumped, out: &mut impl Write) -> Result<DataOutcome, Trouble> {
    let mut folder = OfflineFolder::read(&what.dir)?;
    let outcome = DataOutcome::of(&folder.inspected.findings);
    for finding in &folder.inspected.findings {
        eprintln!("bad: {}", folder.told(finding));
    }
    if let Some(moved) = folder.moved() {
        eprintln!("note: {moved}");
    }
    if what.queue.is_none() && what.vhost.is_none() {
        for (section, value) in declared(&folder.broker) {
            line(out, json!({"type": section, "value": value}))?;
        }
    }
    let mut messages = folder.inspected.messages.take();
    messages.retain(|lane| is_wanted(what, &folder, lane));
    let (mut left, mut failed) = (what.limit.unwrap_or(u64::MAX), None);
    if left == 0 {
        return Ok(outcome);
    }
    messages.replay_while(|message| {
        let mut value = json!({"type": "message"});
        describe(&mut value, &folder, message.lane);
        let level = folder
            .owners
            .get(&message.lane)
            .map_or(0, |owner| owner.level);
        if let (Value::Object(fields), Value::Object(more)) =
            (&mut value, message_to_json(message, level, what.base64))
        {
            fields.extend(more);
        }
        failed = line(out, value).err();
        left -= 1;
        left > 0 && failed.is_none()
    })?;
    match failed {
        Some(trouble) => Err(trouble),
        None => Ok(outcome),
    }
}

fn describe(value: &mut Value, folder: &OfflineFolder, lane: LaneId) {
    let owner = folder.owners.get(&lane);
    value["vhost"] = owner.map(|owner| &*owner.vhost).into();
    value["queue"] = owner.map(|owner| &*owner.queue).into();
    if owner.is_none() {
        value["lane"] = lane.0.into();
    }
}

fn is_wanted(what: &Dumped, folder: &OfflineFolder, lane: LaneId) -> bool {
    let owner = folder.owners.get(&lane);
    let fits = |wanted: &Option<String>, is: Option<&str>| {
        wanted.as_deref().is_none_or(|wanted| is == Some(wanted))
    };
    fits(&what.queue, owner.map(|owner| &*owner.queue))
        && fits(&what.vhost, owner.map(|owner| &*owner.vhost))
}
