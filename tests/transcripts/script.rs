//! Transcripts as text: files of titles, lines and comments, read into steps.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use crate::player::Answer;
use crate::wire::Message;

/// Columns of a recorded line.
const COLUMNS: usize = 100;

/// Who answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    Leveret,
    RabbitMq,
}

/// A channel of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) connection: String,
    pub(crate) channel: u16,
}

pub(crate) enum Expected {
    Message(Message),
    /// Nothing comes for so many milliseconds.
    Nothing(u64),
    /// `?`: a recording fills it in.
    Unknown,
}

pub(crate) enum Step {
    Say(Place, Message),
    /// Says it until the answer is the one that is expected next.
    Ask(Place, Message),
    Hear(Place, Expected),
    /// The client's socket goes away without a word.
    Cut(String),
    Wait(u64),
    /// The next connection of this name is this user's, with this password.
    Login(String, String, String),
    Policy(PolicyChange),
    Http {
        method: String,
        path: String,
        body: String,
    },
    /// Part of the last answer over HTTP; asked again for some seconds until it is so.
    Json(String, Option<Json>),
}

/// What is set, or with no definition removed.
pub(crate) struct PolicyChange {
    pub(crate) operator: bool,
    pub(crate) name: String,
    pub(crate) pattern: String,
    pub(crate) apply_to: String,
    pub(crate) priority: i64,
    pub(crate) definition: Option<Json>,
}

pub(crate) struct Line {
    /// In the file, from 1.
    pub(crate) number: usize,
    pub(crate) text: String,
    pub(crate) only: Option<Target>,
    /// None for comments.
    pub(crate) step: Option<Step>,
}

pub(crate) struct Transcript {
    /// `file/title`.
    pub(crate) name: String,
    /// The row of docs/protocol.md that tells why Leveret's answers are others.
    pub(crate) differs: Option<String>,
    /// Whom it is about, if not about both.
    pub(crate) only: Option<Target>,
    pub(crate) title: String,
    pub(crate) lines: Vec<Line>,
}

pub(crate) struct Script {
    pub(crate) path: PathBuf,
    /// What stands before the first title.
    pub(crate) preface: String,
    pub(crate) transcripts: Vec<Transcript>,
}

impl Transcript {
    /// The index of the last line that is not empty.
    pub(crate) fn last(&self) -> usize {
        let last = self.lines.iter().rposition(|line| line.step.is_some());
        last.unwrap_or(0)
    }

    /// Whether there is something to record.
    pub(crate) fn is_unknown(&self) -> bool {
        let has = |end: fn(&str) -> bool| self.lines.iter().any(|line| end(&line.text));
        has(|text| text.ends_with('?')) || !has(|text| text.starts_with('S'))
    }

    /// Whether it is about this one.
    pub(crate) fn is_for(&self, target: Target) -> bool {
        self.only.is_none_or(|only| only == target)
    }

    /// Whether it has to do with the HTTP API beyond policies, which the broker crate has not.
    pub(crate) fn needs_http(&self) -> bool {
        let steps = self.lines.iter().filter_map(|line| line.step.as_ref());
        steps
            .into_iter()
            .any(|step| matches!(step, Step::Http { .. } | Step::Json(..) | Step::Login(..)))
    }
}

/// Reads a file; `{vhost}` in it is replaced.
pub(crate) fn read(path: &Path, vhost: &str) -> Script {
    let text = std::fs::read_to_string(path).expect("it is readable");
    parse(path, &text, vhost)
}

/// Reads what a file says.
pub(crate) fn parse(path: &Path, text: &str, vhost: &str) -> Script {
    let file = path.file_stem().expect("a name").to_string_lossy();
    let mut script = Script {
        path: path.to_owned(),
        preface: String::new(),
        transcripts: Vec::new(),
    };
    for (number, line) in joined(text) {
        if let Some(title) = line.strip_prefix("== ") {
            script.transcripts.push(Transcript {
                name: format!("{file}/{title}"),
                differs: None,
                only: None,
                title: title.to_owned(),
                lines: Vec::new(),
            });
            continue;
        }
        let Some(transcript) = script.transcripts.last_mut() else {
            writeln!(script.preface, "{line}").expect("memory");
            continue;
        };
        if let Some(row) = line.strip_prefix("differs: ") {
            transcript.differs = Some(row.to_owned());
            continue;
        }
        if let Some(name) = line.strip_prefix("only: ") {
            transcript.only = target(name).expect("a name");
            continue;
        }
        let read = step(&line.replace("{vhost}", vhost));
        let (only, step) =
            read.unwrap_or_else(|error| panic!("{file}:{number}: {error}\n  {line}"));
        let is_explained = only.is_none() || transcript.differs.is_some();
        assert!(
            is_explained,
            "{file}:{number}: who differs says why with differs:"
        );
        transcript.lines.push(Line {
            number,
            text: line,
            only,
            step,
        });
    }
    script
}

/// Lines with their numbers; those that begin with a space go on with the one before.
fn joined(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        match lines.last_mut() {
            Some((_, last)) if line.starts_with(' ') => {
                last.push(' ');
                last.push_str(line.trim());
            }
            _ => lines.push((index + 1, line.to_owned())),
        }
    }
    lines
}

fn step(line: &str) -> Result<(Option<Target>, Option<Step>), String> {
    if line.is_empty() || line.starts_with('#') {
        return Ok((None, None));
    }
    if let Some(rest) = line.strip_prefix("wait ") {
        return Ok((None, Some(Step::Wait(milliseconds(rest)?))));
    }
    if let Some(rest) = line.strip_prefix("login ") {
        let words: Vec<_> = rest.split_whitespace().map(str::to_owned).collect();
        let [name, user, password] = <[String; 3]>::try_from(words)
            .map_err(|_| "login CONNECTION USER PASSWORD".to_owned())?;
        return Ok((None, Some(Step::Login(name, user, password))));
    }
    let (head, rest) = line
        .split_once(": ")
        .ok_or("a mark such as C: was to come")?;
    let (head, name) = head.split_once('@').unwrap_or((head, ""));
    let only = target(name)?;
    let (kind, place) = head.split_at_checked(1).ok_or("no mark")?;
    let step = match kind {
        "C" => say(place, rest)?,
        "S" => Step::Hear(at(place)?, expected(rest)?),
        "P" => Step::Policy(policy(rest)?),
        "H" => http(rest)?,
        "J" => json(rest)?,
        other => return Err(format!("no mark {other:?}")),
    };
    Ok((only, Some(step)))
}

fn target(name: &str) -> Result<Option<Target>, String> {
    match name {
        "" => Ok(None),
        "leveret" => Ok(Some(Target::Leveret)),
        "rabbitmq" => Ok(Some(Target::RabbitMq)),
        other => Err(format!("nobody is called {other:?}")),
    }
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Self::Leveret => "leveret",
            Self::RabbitMq => "rabbitmq",
        }
    }
}

fn say(place: &str, rest: &str) -> Result<Step, String> {
    let (place, again) = place
        .strip_suffix('~')
        .map_or((place, false), |place| (place, true));
    let place = at(place)?;
    if rest == "cut" {
        return Ok(Step::Cut(place.connection));
    }
    let message = Message::parse(rest)?;
    Ok(if again {
        Step::Ask(place, message)
    } else {
        Step::Say(place, message)
    })
}

/// `b2` is channel 2 of connection b; without a letter it is a's, without a number channel 1.
fn at(place: &str) -> Result<Place, String> {
    let digits = place.trim_start_matches(|c: char| c.is_ascii_lowercase());
    let letters = &place[..place.len() - digits.len()];
    let channel = if digits.is_empty() { "1" } else { digits };
    Ok(Place {
        connection: if letters.is_empty() { "a" } else { letters }.to_owned(),
        channel: channel
            .parse()
            .map_err(|_| format!("no channel {digits:?}"))?,
    })
}

fn expected(rest: &str) -> Result<Expected, String> {
    if rest == "?" {
        return Ok(Expected::Unknown);
    }
    match rest.strip_prefix("nothing for ") {
        Some(rest) => milliseconds(rest).map(Expected::Nothing),
        None => Message::parse(rest).map(Expected::Message),
    }
}

fn milliseconds(text: &str) -> Result<u64, String> {
    let number = text.trim().trim_end_matches(" ms");
    number.parse().map_err(|_| format!("no time: {text:?}"))
}

/// `[operator] NAME PATTERN [apply-to=…] [priority=…] {json}` or `delete [operator] NAME`.
fn policy(rest: &str) -> Result<PolicyChange, String> {
    let (words, definition) = match rest.split_once('{') {
        Some((words, json)) => {
            let json = serde_json::from_str(&format!("{{{json}"));
            (words, Some(json.map_err(|error| error.to_string())?))
        }
        None => (rest, None),
    };
    let mut change = PolicyChange {
        operator: false,
        name: String::new(),
        pattern: String::new(),
        apply_to: "all".to_owned(),
        priority: 0,
        definition,
    };
    for word in words.split_whitespace() {
        match word.split_once('=') {
            Some(("apply-to", kind)) => kind.clone_into(&mut change.apply_to),
            Some(("priority", number)) => {
                change.priority = number.parse().map_err(|_| "no priority".to_owned())?;
            }
            _ if word == "delete" => {}
            _ if word == "operator" => change.operator = true,
            _ if change.name.is_empty() => word.clone_into(&mut change.name),
            _ => word.clone_into(&mut change.pattern),
        }
    }
    if change.name.is_empty() || change.definition.is_some() == change.pattern.is_empty() {
        return Err("[operator] NAME PATTERN {json}, or delete [operator] NAME".to_owned());
    }
    Ok(change)
}

fn http(rest: &str) -> Result<Step, String> {
    let (method, rest) = rest.split_once(' ').ok_or("METHOD PATH [body]")?;
    let (path, body) = rest.split_once(' ').unwrap_or((rest, ""));
    Ok(Step::Http {
        method: method.to_owned(),
        path: path.to_owned(),
        body: body.to_owned(),
    })
}

fn json(rest: &str) -> Result<Step, String> {
    let (path, value) = rest.split_once('=').ok_or("PATH=JSON")?;
    let value = match value {
        "?" => None,
        json => Some(serde_json::from_str(json).map_err(|error| error.to_string())?),
    };
    Ok(Step::Json(path.to_owned(), value))
}

/// Writes a file again, with answers in the place of `?`, and those that nobody asked for.
pub(crate) fn write(script: &Script, answers: &[Vec<Answer>]) {
    let mut text = script.preface.clone();
    for (transcript, answers) in script.transcripts.iter().zip(answers) {
        writeln!(text, "== {}", transcript.title).expect("memory");
        if let Some(row) = &transcript.differs {
            writeln!(text, "differs: {row}").expect("memory");
        }
        if let Some(only) = transcript.only {
            writeln!(text, "only: {}", only.name()).expect("memory");
        }
        for (index, line) in transcript.lines.iter().enumerate() {
            let of_line = || answers.iter().filter(|answer| answer.line == index);
            let instead: Vec<_> = of_line().filter(|answer| !answer.is_behind).collect();
            if instead.is_empty() {
                wrapped(&line.text, &mut text);
            }
            let behind = of_line().filter(|answer| answer.is_behind);
            for answer in instead.into_iter().chain(behind) {
                wrapped(&answer.text, &mut text);
            }
        }
    }
    std::fs::write(&script.path, text).expect("it is writable");
}

/// Appends a line, broken at spaces that are not between quotes.
fn wrapped(line: &str, out: &mut String) {
    let (mut start, mut space, mut quoted, mut indent) = (0, None, false, 0);
    for (index, c) in line.char_indices() {
        if line.starts_with('#') {
            break;
        }
        if index - start + indent >= COLUMNS
            && let Some(at) = space.take()
        {
            writeln!(out, "{:indent$}{}", "", &line[start..at]).expect("memory");
            (start, indent) = (at + 1, 5);
        }
        match c {
            '"' if !line[..index].ends_with('\\') => quoted = !quoted,
            ' ' if !quoted => space = Some(index),
            _ => {}
        }
    }
    writeln!(out, "{:indent$}{}", "", &line[start..]).expect("memory");
}
