//! One run against one broker: what every command needs.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use crate::client::{Answer, Client, Request};
use crate::failure::{Failure, Kind, Result};
use crate::output::{Output, one_line, print};
use crate::settings::Settings;

/// Objects asked for at a time when a filter makes the broker page.
const PAGE_SIZE: &str = "500";
/// Fewer steps than these are done before a bar could be read.
const PROGRESS_STEPS_MIN: usize = 20;

/// A broker, how to print, and how careful to be.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) settings: Settings,
    pub(crate) output: Output,
    /// Do not ask before destructive commands.
    pub(crate) yes: bool,
    /// Print what would be changed instead of changing it.
    pub(crate) dry_run: bool,
}

impl Session {
    /// The virtual host of commands on one object.
    pub(crate) fn vhost(&self) -> &str {
        self.settings.vhost.as_deref().unwrap_or("/")
    }

    pub(crate) fn get(&self, segments: &[&str], what: &str) -> Result<Value> {
        self.client.call(&Request::get(segments), what)
    }

    /// What the broker calls itself; old versions of RabbitMQ do not say.
    pub(crate) fn product(&self) -> Result<String> {
        let overview = self.get(&["overview"], "overview")?;
        Ok(overview["product_name"]
            .as_str()
            .unwrap_or("RabbitMQ")
            .to_owned())
    }

    /// Prints the list at `segments`, of the virtual host if one was named.
    pub(crate) fn list(&self, segments: &[&str], scoped: bool, columns: &[&str]) -> Result<()> {
        let rows = self.rows(segments, scoped, columns, None)?;
        self.output.rows(rows, columns)
    }

    /// Fetches a list; with `filter`, a regular expression on names, page by page.
    pub(crate) fn rows(
        &self,
        segments: &[&str],
        scoped: bool,
        columns: &[&str],
        filter: Option<&str>,
    ) -> Result<Vec<Value>> {
        let mut segments = segments.to_vec();
        if let Some(vhost) = self.settings.vhost.as_deref().filter(|_| scoped) {
            segments.push(vhost);
        }
        let mut request = Request::get(&segments);
        let wanted = self.output.wanted(columns);
        if !wanted.is_empty() {
            request = request.query("columns", wanted.join(","));
        }
        match filter {
            Some(filter) => self.pages(&request, filter),
            None => array(self.client.call(&request, segments[0])?),
        }
    }

    fn pages(&self, request: &Request, filter: &str) -> Result<Vec<Value>> {
        let mut rows = Vec::new();
        for page in 1.. {
            let request = request.clone().query("page", page.to_string());
            let request = request.query("page_size", PAGE_SIZE).query("name", filter);
            let mut answer = self.client.call(&request.flag("use_regex", true), "list")?;
            rows.extend(array(answer["items"].take())?);
            if answer["page_count"]
                .as_u64()
                .is_none_or(|count| count <= page)
            {
                break;
            }
        }
        Ok(rows)
    }

    /// Sends a request that changes something, or prints it in a dry run.
    pub(crate) fn change(&self, request: &Request, what: &str) -> Result<Option<Answer>> {
        if self.dry_run {
            print(&describe(request)?)?;
            return Ok(None);
        }
        let answer = self.client.send(request)?;
        if (200..300).contains(&answer.status) {
            return Ok(Some(answer));
        }
        Err(Failure::from_answer(answer.status, &answer.body, what))
    }

    /// As [`Session::change`], and says `done` of `what` afterwards.
    pub(crate) fn apply(&self, request: &Request, what: &str, done: &str) -> Result<()> {
        if self.change(request, what)?.is_some() {
            self.output.say(&format!("{} {done}", one_line(what)));
        }
        Ok(())
    }

    /// Whether somebody is there to be asked, and wants to be.
    fn asks(&self) -> bool {
        !self.yes && !self.dry_run && io::stdin().is_terminal()
    }

    /// Asks before something is lost; only a person at a terminal is asked, and only then is the
    /// question put together.
    pub(crate) fn confirm(&self, question: impl FnOnce() -> String) -> Result<()> {
        if !self.asks() {
            return Ok(());
        }
        let question = question();
        let mut errors = io::stderr().lock();
        write!(errors, "{} [y/N] ", one_line(&question))?;
        errors.flush()?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        if matches!(answer.trim(), "y" | "Y" | "yes") {
            return Ok(());
        }
        Err(Failure::failed("nothing done"))
    }

    /// Does `step` for each of `items`, with a bar if it takes long. What fails does not keep the
    /// rest from being done.
    pub(crate) fn each<T>(
        &self,
        items: &[T],
        mut step: impl FnMut(&T) -> Result<()>,
    ) -> Result<()> {
        let bar = self.progress(items.len());
        let mut failures = Vec::new();
        for item in items {
            if let Err(failure) = bar.suspend(|| step(item)) {
                failures.push(failure);
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        let failed = failures.len();
        let Some(last) = failures.pop() else {
            return Ok(());
        };
        for failure in failures {
            eprintln!("error: {failure}");
        }
        if failed == items.len() {
            return Err(last);
        }
        eprintln!("error: {last}");
        let text = format!("{failed} of {} failed", items.len());
        Err(Failure::new(Kind::Partial, text))
    }

    /// A bar on standard error, if a person looks at it and there is something to see.
    pub(crate) fn progress(&self, steps: usize) -> ProgressBar {
        let shown = steps >= PROGRESS_STEPS_MIN
            && !self.output.quiet
            && !self.dry_run
            && std::env::var_os("CI").is_none();
        if !shown {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::with_draw_target(
            Some(steps as u64),
            ProgressDrawTarget::stderr_with_hz(10),
        );
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} ({eta} left)");
        bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    }
}

impl Session {
    /// Something that turns while one long request runs; seen only by a person.
    pub(crate) fn spinner(&self, text: String) -> ProgressBar {
        if self.output.quiet || self.dry_run || std::env::var_os("CI").is_some() {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
        bar.set_message(text);
        bar.enable_steady_tick(Duration::from_millis(100));
        bar
    }
}

/// A request as text: what a dry run prints.
pub(crate) fn describe(request: &Request) -> Result<String> {
    let mut text = format!("{} {}\n", request.method, request.target());
    for (name, value) in &request.headers {
        text.push_str(&format!("{name}: {value}\n"));
    }
    if let Some(body) = &request.body {
        text.push_str(&serde_json::to_string_pretty(body)?);
        text.push('\n');
    }
    Ok(text)
}

fn array(value: Value) -> Result<Vec<Value>> {
    match value {
        Value::Array(rows) => Ok(rows),
        _ => Err(Failure::failed(
            "the broker answered with something that is not a list",
        )),
    }
}
