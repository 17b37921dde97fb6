//! Definitions: everything an administrator has set up, as RabbitMQ's files have it.

mod apply;
mod export;
mod import;
mod plan;
mod room;
mod source;

use leveret_broker::Broker;

use crate::call::Call;
use crate::problem::Problem;
use crate::reply::{Answer, Reply};
use crate::stream::Stream;

pub(crate) use import::Import;
use source::Source;

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

/// `POST /api/definitions`; with `dry_run=true` it only says what would change.
pub(crate) fn import(call: &Call) -> Answer {
    let import = Import::parse(&uploaded(call)?, None, &call.app.broker)?;
    run(call, &import)
}

/// `POST /api/definitions/{vhost}`.
pub(crate) fn import_vhost(call: &Call) -> Answer {
    let vhost = call.needed_vhost()?;
    let import = Import::parse(&uploaded(call)?, Some(&vhost.name), &call.app.broker)?;
    run(call, &import)
}

fn run(call: &Call, import: &Import) -> Answer {
    let broker = &call.app.broker;
    plan::rehearse(broker, import)?;
    if call.flag("dry_run") {
        return Ok(Reply::Json(plan::difference(broker, import)));
    }
    import.apply(broker)?;
    Ok(Reply::NoContent)
}

/// Imports a file's definitions at start.
///
/// # Errors
/// What is wrong with them; nothing is changed then.
pub fn import_definitions(broker: &Broker, file: &[u8]) -> Result<(), String> {
    let reason = |problem: Problem| problem.reason();
    let source = Source::of(file).map_err(reason)?;
    let import = Import::parse(&source, None, broker).map_err(reason)?;
    plan::rehearse(broker, &import).map_err(reason)?;
    import.apply(broker).map_err(reason)
}

/// The body, or the field `file` of a form, as browsers send it.
fn uploaded(call: &Call) -> Result<Source<'_>, Problem> {
    let kind = call.header("content-type").unwrap_or_default();
    let Some((_, boundary)) = kind.split_once("boundary=") else {
        let nothing = [&b""[..], b"undefined", b"null"];
        let body = Some(call.body.trim_ascii()).filter(|body| !nothing.contains(body));
        return Source::of(body.unwrap_or(b"{}")).map_err(|problem| match problem {
            Problem::BadRequestAs(..) => Problem::not_json(),
            problem => problem,
        });
    };
    let boundary = format!("--{}", boundary.trim_matches('"'));
    let not_there = || Problem::bad("the form has no field 'file'");
    let file = part(&call.body, boundary.as_bytes()).ok_or_else(not_there)?;
    Source::of(file).map_err(|problem| match problem {
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
