//! Golden transcripts: commands with what they print, against recorded answers of RabbitMQ.
//!
//! Each `.txt` file is a session at a shell, and the `.jsonl` beside it holds the requests that
//! the commands send, in order, with the broker's answers; requests are compared as well. Answers
//! are RabbitMQ's, or Leveret's where the transcript begins with `# broker leveret`.
//!
//! `LEVERETCTL_RECORD=http://127.0.0.1:15672` writes both anew by that RabbitMQ, and
//! `LEVERETCTL_RECORD_LEVERET` by that Leveret; `LEVERETCTL_BLESS=1` only what is printed.
//! The transcripts of Leveret are also played against the real thing.

mod answers;
mod leveret;
mod process;
mod shell;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use answers::{Answers, Source};
use shell::Step;

/// First line of the transcripts that Leveret answers.
const LEVERET: &str = "# broker leveret\n";

#[test]
fn every_transcript_holds() {
    let failures: Vec<String> = transcripts()
        .iter()
        .filter_map(|path| play(path, None).err())
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn leveret_answers_as_recorded() {
    let mut paths = transcripts();
    paths.retain(|path| fs::read_to_string(path).is_ok_and(|text| text.starts_with(LEVERET)));
    if paths.is_empty() {
        return; // only another one was asked for
    }
    let broker = leveret::Broker::start();
    let failures: Vec<String> = paths
        .iter()
        .filter_map(|path| play(path, Some(&broker.url)).err())
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

/// All transcripts, or the one that `LEVERETCTL_TRANSCRIPT` names.
fn transcripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder)
        .expect("the transcripts")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "txt"))
        .collect();
    paths.sort();
    let only = env::var("LEVERETCTL_TRANSCRIPT").ok();
    paths.retain(|path| only.as_deref().is_none_or(|only| path.ends_with(only)));
    assert!(!paths.is_empty(), "no transcript in {}", folder.display());
    paths
}

/// Runs one transcript against its recording, or against a broker that runs; the error tells where
/// it went another way.
fn play(path: &Path, live: Option<&str>) -> Result<(), String> {
    let text = fs::read_to_string(path).expect("a transcript");
    let recorded = path.with_extension("jsonl");
    let leveret = text.starts_with(LEVERET);
    let variable = if leveret {
        "LEVERETCTL_RECORD_LEVERET"
    } else {
        "LEVERETCTL_RECORD"
    };
    let upstream = env::var(variable).ok().filter(|_| live.is_none());
    let source = match upstream.as_deref().or(live) {
        Some(url) => Source::Broker(url.to_owned()),
        None => Source::recorded(&recorded),
    };
    let answers = Answers::serve(source);
    let home = tempfile();
    let mut actual = String::new();
    for step in shell::parse(&text) {
        match step {
            Step::Text(line) => actual.push_str(&line),
            Step::Wait(seconds) => {
                actual.push_str(&format!("# wait {seconds}\n"));
                if upstream.is_some() || live.is_some() {
                    std::thread::sleep(std::time::Duration::from_secs_f64(seconds));
                }
            }
            Step::Command(command) => actual.push_str(&shell::run(&command, &answers.url, &home)),
        }
    }
    let _ = fs::remove_dir_all(&home);
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let outcome = answers.finish();
    if let Some(lines) = outcome.recorded.filter(|_| upstream.is_some()) {
        fs::write(&recorded, lines).expect("the recording");
    }
    if let Some(problem) = outcome.problem {
        return Err(format!("{name}: {problem}"));
    }
    let bless = env::var_os("LEVERETCTL_BLESS").is_some() && live.is_none();
    if upstream.is_some() || bless {
        fs::write(path, actual).expect("the transcript");
        return Ok(());
    }
    match text
        .lines()
        .zip(actual.lines())
        .find(|(wanted, printed)| wanted != printed)
    {
        Some((wanted, printed)) => Err(format!("{name}:\n  wanted  {wanted}\n  printed {printed}")),
        None if text.lines().count() != actual.lines().count() => Err(format!(
            "{name}: printed more or less than wanted:\n{actual}"
        )),
        None => Ok(()),
    }
}

/// An empty folder of this run.
fn tempfile() -> PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let folder = format!("leveretctl-{}-{number}", std::process::id());
    let folder = env::temp_dir().join(folder);
    fs::create_dir_all(&folder).expect("a temporary folder");
    folder
}
