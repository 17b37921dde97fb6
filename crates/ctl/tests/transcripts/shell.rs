//! The transcript files: what they mean, and how a command of one runs.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command as Process, Stdio};

/// One piece of a transcript.
pub(crate) enum Step {
    /// Comments and blank lines, kept as they are.
    Text(String),
    /// Recording lets RabbitMQ's statistics catch up; a replay does not wait.
    Wait(f64),
    Command(Command),
}

/// One command with its input.
pub(crate) struct Command {
    /// As written after `$ `.
    line: String,
    /// Lines written with `< ` before them.
    input: Vec<String>,
}

/// Reads a transcript. What earlier runs printed is passed over.
pub(crate) fn parse(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in text.lines() {
        if let Some(seconds) = line.strip_prefix("# wait ") {
            steps.push(Step::Wait(seconds.parse().expect("seconds to wait")));
        } else if line.starts_with('#') {
            steps.push(Step::Text(format!("{line}\n")));
        } else if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step::Command(Command {
                line: command.to_owned(),
                input: Vec::new(),
            }));
        } else if let Some(input) = line.strip_prefix("< ")
            && let Some(Step::Command(command)) = steps.last_mut()
        {
            command.input.push(input.to_owned());
        }
    }
    steps
}

/// Runs a command and gives its part of the transcript.
pub(crate) fn run(command: &Command, url: &str, home: &Path) -> String {
    let mut words = words(&command.line).into_iter();
    let program = words.next().expect("a program");
    let mut child = Process::new(env!("CARGO_BIN_EXE_leveretctl"))
        .arg0(program)
        .args(words)
        .env_clear()
        .env("HOME", home)
        .env("LEVERETCTL_CONFIG", home.join("config.toml"))
        .env("LEVERETCTL_URL", url)
        .current_dir(home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("leveretctl starts");
    let mut input = child.stdin.take().expect("its input");
    for line in &command.input {
        let _ = writeln!(input, "{line}");
    }
    drop(input);
    let output = child.wait_with_output().expect("leveretctl ends");
    let mut text = format!("$ {}\n", command.line);
    for line in &command.input {
        text.push_str(&format!("< {line}\n"));
    }
    let show = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        let text = text.replace(url, "http://broker");
        hosts_hidden(&text.replace(&home.display().to_string(), "HOME"))
    };
    for line in show(&output.stdout).lines() {
        // A line that would read as another part of the transcript is set off.
        let marked = ["$ ", "< ", "#"].iter().any(|mark| line.starts_with(mark));
        text.push_str(&format!("{}{line}\n", if marked { "1> " } else { "" }));
    }
    for line in show(&output.stderr).lines() {
        text.push_str(format!("2> {line}").trim_end());
        text.push('\n');
    }
    match output.status.code() {
        Some(0) => {}
        Some(code) => text.push_str(&format!("=> {code}\n")),
        None => text.push_str(&format!("=> {}\n", output.status)),
    }
    text.push('\n');
    text
}

/// Node names without the machine's name, which is another one elsewhere.
fn hosts_hidden(text: &str) -> String {
    let mut parts = text.split("rabbit@");
    let mut hidden = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let host = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        hidden.push_str("rabbit@HOST");
        hidden.push_str(part.trim_start_matches(host));
    }
    hidden
}

/// Splits as a shell would: at spaces, but not inside quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}
