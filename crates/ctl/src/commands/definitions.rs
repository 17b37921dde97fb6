//! `leveretctl definitions`: everything that is declared, as one file.

use std::fs;
use std::io::{self, Read as _};

use clap::Subcommand;
use serde_json::Value;

use crate::client::Request;
use crate::failure::{Failure, Result};
use crate::output::print;
use crate::session::Session;

const SECTIONS: &[&str] = &[
    "users",
    "vhosts",
    "permissions",
    "topic_permissions",
    "parameters",
    "global_parameters",
    "policies",
    "exchanges",
    "queues",
    "bindings",
];

/// Commands on definitions.
#[derive(Debug, Subcommand)]
pub(crate) enum DefinitionsCommand {
    /// Write all definitions, or those of the virtual host named by --vhost, as JSON
    Export {
        /// Where to; standard output if not given
        file: Option<String>,
    },
    /// Add the definitions of a file; nothing is deleted. With --dry-run Leveret tells what would
    /// change; of another broker's file only the contents are counted
    Import {
        /// A file that `export` or RabbitMQ wrote; `-` is standard input
        file: String,
        /// Leave out what Leveret cannot have, such as streams and exchange types of plugins, and
        /// say what that is, instead of refusing the whole file
        #[arg(long)]
        skip_unsupported: bool,
    },
}

impl DefinitionsCommand {
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        let mut path = vec!["definitions"];
        path.extend(session.settings.vhost.as_deref());
        match self {
            Self::Export { file } => {
                let definitions = session.get(&path, "definitions")?;
                let text = serde_json::to_string_pretty(&definitions)? + "\n";
                let Some(file) = file.filter(|file| file != "-") else {
                    return print(&text);
                };
                // Password hashes are among the definitions.
                write_private(&file, text.as_bytes())?;
                session
                    .output
                    .say(&format!("definitions written to {file}"));
                Ok(())
            }
            Self::Import {
                file,
                skip_unsupported,
            } => import(session, &path, &file, skip_unsupported),
        }
    }
}

fn import(session: &Session, path: &[&str], file: &str, skip_unsupported: bool) -> Result<()> {
    let text = read(file)?;
    let definitions: Value = serde_json::from_str(text.trim_start_matches('\u{feff}'))
        .map_err(|error| Failure::usage(format!("{file}: not valid JSON: {error}")))?;
    if !definitions.is_object() {
        return Err(Failure::usage(format!(
            "{file}: not an object of definitions"
        )));
    }
    let counts: Vec<String> = SECTIONS
        .iter()
        .filter_map(|&section| {
            let items = definitions[section].as_array()?;
            Some(format!("{} {}", items.len(), section.replace('_', " ")))
        })
        .collect();
    let counts = counts.join(", ");
    let request = Request::post(path, definitions).flag("skip_unsupported", skip_unsupported);
    if session.dry_run {
        // Another broker does not know the option, and would import.
        if session.product()?.eq_ignore_ascii_case("leveret") {
            let changes = session
                .client
                .call(&request.query("dry_run", "true"), file)?;
            return session.output.object(&changes);
        }
        return print(&format!("POST {}\n{counts}\n", request.target()));
    }
    session.confirm(|| format!("Import {counts}?"))?;
    let spinner = session.spinner(format!("importing {counts}"));
    let answer = session.change(&request.query("report", "true"), file);
    spinner.finish_and_clear();
    if let Some(answer) = answer? {
        tell(session, &answer.body);
    }
    session.output.say(&format!("imported {counts}"));
    Ok(())
}

/// Says what the broker does without; RabbitMQ tells nothing.
fn tell(session: &Session, report: &Value) {
    let list = |key: &str| {
        report[key]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default()
    };
    for text in list("left_out").iter().chain(list("skipped")) {
        session
            .output
            .say(&format!("left out: {}", text.as_str().unwrap_or_default()));
    }
    for row in list("ignored") {
        let text = |key: &str| row[key].as_str().unwrap_or_default();
        let keys = row["keys"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let keys: Vec<_> = keys.iter().filter_map(Value::as_str).collect();
        session.output.say(&format!(
            "without effect: {} of {} '{}' in vhost '{}'",
            keys.join(", "),
            text("kind"),
            text("name"),
            text("vhost"),
        ));
    }
    let more = report["not_listed"].as_u64().unwrap_or_default();
    if more > 0 {
        session.output.say(&format!("and {more} more"));
    }
}

/// The text of a file, or of standard input for `-`.
pub(crate) fn read(file: &str) -> Result<String> {
    let named = |error: io::Error| Failure::usage(format!("{file}: {error}"));
    if file != "-" {
        return fs::read_to_string(file).map_err(named);
    }
    let mut text = String::new();
    io::stdin()
        .lock()
        .read_to_string(&mut text)
        .map_err(named)?;
    Ok(text)
}

/// Writes a file that only its owner may read.
pub(crate) fn write_private(file: &str, bytes: &[u8]) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = fs::OpenOptions::new();
    let opened = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(file);
    let written = opened.and_then(|mut opened| opened.write_all(bytes));
    written.map_err(|error| Failure::failed(format!("{file}: {error}")))
}
