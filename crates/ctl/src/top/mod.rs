//! `leveretctl top`: what the broker does now, on a terminal.

mod data;
mod state;
mod view;

use std::io::{self, IsTerminal as _};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use crate::arguments::duration;
use crate::failure::{Failure, Result};
use crate::session::Session;
use data::{Query, Snapshot};
use state::State;

/// Time after which a key is answered at the latest.
const KEY_STEP: Duration = Duration::from_millis(50);

/// Queues, connections and rates, live. Keys: Tab other list, < > sort, r reverse, / filter,
/// p pause, q quit
#[derive(Args, Debug)]
pub(crate) struct Top {
    /// Time between two looks
    #[arg(long, short, default_value = "2s", value_parser = duration)]
    interval: Duration,
    /// Begin with connections instead of queues
    #[arg(long)]
    connections: bool,
    /// Begin with names that contain this
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
}

impl Top {
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        if !io::stdout().is_terminal() {
            return Err(Failure::usage(
                "top needs a terminal; see: leveretctl queue list",
            ));
        }
        // What is wrong with the connection is better said before the screen is taken.
        session.get(&["overview"], "overview")?;
        let mut state = State::new(self.connections, self.filter);
        let query = Mutex::new(state.query());
        let over = AtomicBool::new(false);
        let (sender, receiver) = sync_channel(1);
        let mut terminal = ratatui::init();
        let outcome = thread::scope(|scope| {
            scope.spawn(|| fetch(session, &query, &over, (self.interval, sender)));
            let outcome = show(&mut terminal, &mut state, &query, &receiver);
            over.store(true, Ordering::Release);
            drop(receiver);
            outcome
        });
        ratatui::restore();
        outcome
    }
}

/// Asks the broker again and again, apart from the terminal, which it must not hold up.
fn fetch(
    session: &Session,
    query: &Mutex<Query>,
    over: &AtomicBool,
    (interval, sender): (Duration, SyncSender<Result<Snapshot>>),
) {
    while !over.load(Ordering::Acquire) {
        let asked = current(query);
        if sender.send(Snapshot::fetch(session, &asked)).is_err() {
            return;
        }
        let next = Instant::now() + interval;
        // A key that changes what is asked for does not wait for the next look.
        while Instant::now() < next && !over.load(Ordering::Acquire) && current(query) == asked {
            thread::sleep(KEY_STEP);
        }
    }
}

fn current(query: &Mutex<Query>) -> Query {
    query.lock().map(|query| query.clone()).unwrap_or_default()
}

fn show(
    terminal: &mut DefaultTerminal,
    state: &mut State,
    query: &Mutex<Query>,
    receiver: &Receiver<Result<Snapshot>>,
) -> Result<()> {
    loop {
        while let Ok(fetched) = receiver.try_recv() {
            state.take(fetched);
        }
        terminal.draw(|frame| view::draw(frame, state))?;
        if !event::poll(KEY_STEP)? {
            continue;
        }
        if let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
        {
            state.key(key);
            if state.done {
                return Ok(());
            }
            if let Ok(mut query) = query.lock() {
                *query = state.query();
            }
        }
    }
}
