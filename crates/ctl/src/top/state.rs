//! What `top` shows and how keys change it.

use std::collections::VecDeque;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::data::{Kind, Query, Snapshot, Tab};
use crate::failure::Result;
use crate::output::field;

/// Points of the charts that are kept.
const HISTORY: usize = 300;

pub(crate) struct State {
    query: Query,
    pub(crate) snapshot: Option<Snapshot>,
    /// Why the last look failed, if it did.
    pub(crate) problem: Option<String>,
    pub(crate) paused: bool,
    /// Whether keys are text for the filter.
    pub(crate) typing: bool,
    pub(crate) scroll: usize,
    pub(crate) done: bool,
    /// Published messages a second, and ready messages, oldest first.
    pub(crate) published: VecDeque<u64>,
    pub(crate) ready: VecDeque<u64>,
}

impl State {
    pub(crate) fn new(connections: bool, filter: String) -> Self {
        let tab = if connections {
            Tab::Connections
        } else {
            Tab::Queues
        };
        Self {
            query: Query {
                filter,
                ..fresh(tab)
            },
            snapshot: None,
            problem: None,
            paused: false,
            typing: false,
            scroll: 0,
            done: false,
            published: VecDeque::new(),
            ready: VecDeque::new(),
        }
    }

    pub(crate) fn query(&self) -> Query {
        self.query.clone()
    }

    /// Takes what was fetched, unless the screen is held still.
    pub(crate) fn take(&mut self, fetched: Result<Snapshot>) {
        if self.paused {
            return;
        }
        match fetched {
            Ok(snapshot) => {
                let rate = field(&snapshot.overview, "message_stats.publish_details.rate");
                let rate = rate.and_then(serde_json::Value::as_f64).unwrap_or_default();
                let ready = field(&snapshot.overview, "queue_totals.messages_ready");
                let ready = ready
                    .and_then(serde_json::Value::as_u64)
                    .unwrap_or_default();
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a point of a chart; rates are not negative"
                )]
                push(&mut self.published, rate.round() as u64);
                push(&mut self.ready, ready);
                self.problem = None;
                self.snapshot = Some(snapshot);
            }
            Err(failure) => self.problem = Some(failure.text),
        }
    }

    pub(crate) fn key(&mut self, key: KeyEvent) {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            self.done = true;
        } else if self.typing {
            self.type_filter(key.code);
        } else {
            self.command(key.code);
        }
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.query.filter.clear();
            }
            KeyCode::Backspace => {
                self.query.filter.pop();
            }
            KeyCode::Char(c) => self.query.filter.push(c),
            _ => {}
        }
        self.scroll = 0;
    }

    fn command(&mut self, code: KeyCode) {
        let columns = self.query.tab.columns().len();
        match code {
            KeyCode::Char('q') => self.done = true,
            KeyCode::Char('p') => self.paused = !self.paused,
            KeyCode::Char('r') => self.query.descending = !self.query.descending,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Esc => self.query.filter.clear(),
            KeyCode::Char('>') | KeyCode::Right => self.sort_by((self.query.sort + 1) % columns),
            KeyCode::Char('<') | KeyCode::Left => {
                self.sort_by((self.query.sort + columns - 1) % columns);
            }
            KeyCode::Tab => {
                self.query = fresh(match self.query.tab {
                    Tab::Queues => Tab::Connections,
                    Tab::Connections => Tab::Queues,
                });
                self.scroll = 0;
            }
            KeyCode::Down | KeyCode::Char('j') => self.scroll += 1,
            KeyCode::Up | KeyCode::Char('k') => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::PageDown => self.scroll += 20,
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(20),
            KeyCode::Home => self.scroll = 0,
            _ => {}
        }
        let rows = self
            .snapshot
            .as_ref()
            .map_or(0, |snapshot| snapshot.rows.len());
        self.scroll = self.scroll.min(rows.saturating_sub(1));
    }

    /// Numbers are looked at largest first, names from the start.
    fn sort_by(&mut self, column: usize) {
        self.query.sort = column;
        let kind = self.query.tab.columns()[column].kind;
        self.query.descending = !matches!(kind, Kind::Name | Kind::Text);
    }
}

/// How a list is first shown: the most messages, or the most bytes, first.
fn fresh(tab: Tab) -> Query {
    let sort = match tab {
        Tab::Queues => 2,
        Tab::Connections => 5,
    };
    Query {
        tab,
        sort,
        descending: true,
        filter: String::new(),
    }
}

fn push(points: &mut VecDeque<u64>, point: u64) {
    if points.len() == HISTORY {
        points.pop_front();
    }
    points.push_back(point);
}
