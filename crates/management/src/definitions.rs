//! Definitions: everything an administrator has set up, as RabbitMQ's files have it.

mod apply;
mod export;
mod import;
mod plan;
mod room;
mod source;
mod stored;
mod told;

use leveret_broker::Broker;
use serde_json::{Value, json};
use tracing::warn;

use crate::call::Call;
use crate::problem::Problem;
use crate::reply::{Answer, Reply};
use crate::stream::Stream;

use import::{Import, ImportOptions};
use source::DefinitionsFile;
use told::Listed;

pub use stored::{declared, message_to_json};

/// Of what an import does without so much is told in the log one by one.
const WARNINGS_MAX: usize = 100;
/// Whose the queues of a file are that is imported at start, as in RabbitMQ.
const INTERNAL: &str = "rmq-internal";

/// `GET /api/definitions`.
pub(crate) fn export(call: &Call) -> Answer {
    named(call, export::cluster(&call.app)?)
}

/// `GET /api/definitions/{vhost}`.
pub(crate) fn export_vhost(call: &Call) -> Answer {
    let vhost = call.vhost()?;
    named(call, export::vhost(&call.app, &vhost)?)
}

fn named(call: &Call, mut definitions: Stream) -> Answer {
    let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '@');
    let name = call.parameter("download").filter(|name| !name.is_empty());
    definitions.file = name.map(|name| name.chars().filter(plain).collect());
    Ok(definitions.into())
}

/// `POST /api/definitions`; with `dry_run=true` it only says what would change, and with
/// `skip_unsupported=true` it leaves out what Leveret cannot have.
pub(crate) fn import(call: &Call) -> Answer {
    run(call, None)
}

/// `POST /api/definitions/{vhost}`.
pub(crate) fn import_vhost(call: &Call) -> Answer {
    let vhost = call.needed_vhost()?;
    run(call, Some(&vhost.name))
}

fn run(call: &Call, vhost: Option<&str>) -> Answer {
    let broker = &call.app.broker;
    let reading = ImportOptions {
        vhost,
        skip_unsupported: call.flag("skip_unsupported"),
        user: &call.caller.name,
    };
    let source = uploaded(call)?;
    let mut import = Import::parse(&source, &reading, broker);
    let told = Told::of(&mut import, broker);
    plan::rehearse(broker, &import)?;
    if call.flag("dry_run") {
        let mut plan = plan::difference(broker, &import);
        told.write(&mut plan);
        return Ok(Reply::Json(plan));
    }
    import.apply(broker)?;
    told.warn();
    // RabbitMQ's tools expect no content.
    if !call.flag("report") {
        return Ok(Reply::NoContent);
    }
    let mut report = json!({});
    told.write(&mut report);
    Ok(Reply::Json(report))
}

/// What an import does without.
struct Told {
    ignored: Listed<Value>,
    left_out: Listed<String>,
    skipped: Listed<String>,
}

impl Told {
    fn of(import: &mut Import<'_>, broker: &Broker) -> Self {
        Self {
            left_out: import.leave_bindings_out(broker),
            ignored: import.ignored(),
            skipped: std::mem::take(&mut import.skipped),
        }
    }

    fn write(self, report: &mut Value) {
        let before = report["not_listed"].as_u64().unwrap_or_default();
        let more = self.ignored.more + self.left_out.more + self.skipped.more;
        report["ignored"] = self.ignored.rows.into();
        report["left_out"] = self.left_out.rows.into();
        report["skipped"] = self.skipped.rows.into();
        report["not_listed"] = (before + more as u64).into();
    }

    /// Tells the log; of much only how much.
    fn warn(&self) {
        let texts = self.left_out.rows.iter().chain(&self.skipped.rows);
        for text in texts.take(WARNINGS_MAX) {
            warn!("definitions: {text}");
        }
        // Of queues that are new the broker tells on its own.
        let rows = self.ignored.rows.iter();
        let ignored = rows.filter(|row| row["kind"] != "queue");
        for row in ignored.take(WARNINGS_MAX) {
            warn!(kind = %row["kind"], vhost = %row["vhost"], name = %row["name"],
                keys = %row["keys"], "definitions: keys without effect");
        }
        let (left_out, skipped) = (self.left_out.count(), self.skipped.count());
        let ignored = self.ignored.count();
        if (left_out + skipped).max(ignored) > WARNINGS_MAX {
            warn!(
                left_out,
                skipped, ignored, "definitions: not all is told; see GET /api/x/ignored"
            );
        }
    }
}

/// Imports a file's definitions at start.
///
/// # Errors
/// What is wrong with them; nothing is changed then.
pub fn import_definitions(broker: &Broker, file: &[u8]) -> Result<(), String> {
    let reason = |problem: Problem| problem.reason();
    let source = DefinitionsFile::of(file).map_err(reason)?;
    let reading = ImportOptions {
        vhost: None,
        skip_unsupported: false,
        user: INTERNAL,
    };
    let mut import = Import::parse(&source, &reading, broker);
    let told = Told::of(&mut import, broker);
    plan::rehearse(broker, &import).map_err(reason)?;
    import.apply(broker).map_err(reason)?;
    told.warn();
    Ok(())
}

/// The body, or the field `file` of a form, as browsers send it.
fn uploaded(call: &Call) -> Result<DefinitionsFile<'_>, Problem> {
    let kind = call.header("content-type").unwrap_or_default();
    let Some((_, boundary)) = kind.split_once("boundary=") else {
        let nothing = [&b""[..], b"undefined", b"null"];
        let body = Some(call.body.trim_ascii()).filter(|body| !nothing.contains(body));
        return DefinitionsFile::of(body.unwrap_or(b"{}")).map_err(|problem| match problem {
            Problem::BadRequestAs(..) => Problem::not_json(),
            problem => problem,
        });
    };
    let boundary = format!("--{}", boundary.trim_matches('"'));
    let not_there = || Problem::bad("the form has no field 'file'");
    let file = part(&call.body, boundary.as_bytes()).ok_or_else(not_there)?;
    DefinitionsFile::of(file).map_err(|problem| match problem {
        Problem::BadRequestAs(error, _) => {
            Problem::BadRequestAs(error, "the file is not valid JSON".to_owned())
        }
        problem => problem,
    })
}

/// The content of the part named `file` of a multipart body.
fn part<'a>(body: &'a [u8], boundary: &[u8]) -> Option<&'a [u8]> {
    let mut rest = body;
    while let Some(at) = find(rest, boundary) {
        rest = rest.get(at + boundary.len()..)?;
        let end = find(rest, boundary)?;
        let part = rest.get(..end)?;
        let head_end = find(part, b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(part.get(..head_end)?);
        if head.contains("name=\"file\"") {
            let content = part.get(head_end + 4..)?;
            return Some(content.strip_suffix(b"\r\n").unwrap_or(content));
        }
    }
    None
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_gives_its_file() {
        let body = b"--X\r\nContent-Disposition: form-data; name=\"other\"\r\n\r\nno\r\n\
            --X\r\nContent-Disposition: form-data; name=\"file\"; filename=\"d.json\"\r\n\
            Content-Type: application/json\r\n\r\n{\"users\":[]}\r\n--X--\r\n";
        assert_eq!(part(body, b"--X"), Some(b"{\"users\":[]}".as_slice()));
        assert_eq!(part(b"--X--", b"--X"), None);
        assert_eq!(part(b"", b"--X"), None);
    }
}
