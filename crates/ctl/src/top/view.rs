//! The screen of `top`.

use std::collections::VecDeque;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Row, Sparkline, Table};
use serde_json::Value;

use super::data::{Kind, Snapshot};
use super::state::State;
use crate::output::{cell, field, one_line};

/// Draws everything.
pub(crate) fn draw(frame: &mut Frame<'_>, state: &State) {
    let parts = [
        Constraint::Length(3),
        Constraint::Length(5),
        Constraint::Min(3),
        Constraint::Length(1),
    ];
    let [head, charts, list, foot] = Layout::vertical(parts).areas(frame.area());
    if let Some(snapshot) = &state.snapshot {
        frame.render_widget(Paragraph::new(header(snapshot)), head);
        let halves = [Constraint::Percentage(50), Constraint::Percentage(50)];
        let [left, right] = Layout::horizontal(halves).areas(charts);
        chart(frame, left, "published/s", &state.published);
        chart(frame, right, "ready", &state.ready);
        frame.render_widget(table(snapshot, state.scroll), list);
    } else {
        frame.render_widget(Paragraph::new("asking the broker ..."), head);
    }
    frame.render_widget(Paragraph::new(footer(state)), foot);
}

fn header(snapshot: &Snapshot) -> Vec<Line<'static>> {
    let Snapshot { overview, node, .. } = snapshot;
    let text = |value: Option<&Value>| one_line(&cell(value));
    let product = text(overview.get("product_name"));
    let version = overview
        .get("product_version")
        .or_else(|| overview.get("rabbitmq_version"));
    let uptime = node["uptime"].as_u64().unwrap_or_default() / 1000;
    let first = format!(
        "{} {}   {}   up {}",
        if product.is_empty() {
            "RabbitMQ"
        } else {
            &product
        },
        text(version),
        text(overview.get("node")),
        duration(uptime),
    );
    let count = |field: &str| text(overview["object_totals"].get(field));
    let second = format!(
        "connections {}   channels {}   queues {}   consumers {}   unacked {}",
        count("connections"),
        count("channels"),
        count("queues"),
        count("consumers"),
        text(field(overview, "queue_totals.messages_unacknowledged")),
    );
    let mut third = vec![Span::raw(format!(
        "memory {} of {}   disk free {}   ",
        bytes(&node["mem_used"]),
        bytes(&node["mem_limit"]),
        bytes(&node["disk_free"]),
    ))];
    for (field, name) in [
        ("mem_alarm", "MEMORY ALARM "),
        ("disk_free_alarm", "DISK ALARM "),
    ] {
        if node[field] == true {
            let style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
            third.push(Span::styled(name, style));
        }
    }
    let bold = Style::new().add_modifier(Modifier::BOLD);
    vec![
        Line::styled(first, bold),
        Line::raw(second),
        Line::from(third),
    ]
}

/// The newest points that fit, with the last one in the title.
fn chart(frame: &mut Frame<'_>, area: Rect, title: &str, points: &VecDeque<u64>) {
    let last = points.back().copied().unwrap_or_default();
    let block = Block::new()
        .borders(Borders::ALL)
        .title(format!(" {title} {last} "));
    let width = usize::from(area.width.saturating_sub(2));
    let skip = points.len().saturating_sub(width);
    let shown: Vec<u64> = points.iter().skip(skip).copied().collect();
    let chart = Sparkline::default().data(shown).block(block);
    frame.render_widget(chart.style(Style::new().fg(Color::Cyan)), area);
}

fn table(snapshot: &Snapshot, scroll: usize) -> Table<'static> {
    let query = &snapshot.query;
    let columns = query.tab.columns();
    let titles = columns.iter().enumerate().map(|(index, column)| {
        let arrow = match (index == query.sort, query.descending) {
            (false, _) => "",
            (true, true) => " ↓",
            (true, false) => " ↑",
        };
        let line = Line::raw(format!("{}{arrow}", column.title));
        if is_number(column.kind) {
            line.right_aligned()
        } else {
            line
        }
    });
    let header = Row::new(titles).style(Style::new().add_modifier(Modifier::REVERSED));
    let rows = snapshot.rows.iter().skip(scroll).map(|row| {
        Row::new(columns.iter().map(|column| {
            let line = Line::raw(shown(field(row, column.field), column.kind));
            if is_number(column.kind) {
                line.right_aligned()
            } else {
                line
            }
        }))
    });
    let widths = columns.iter().map(|column| match column.kind {
        Kind::Name => Constraint::Min(20),
        Kind::Text => Constraint::Length(10),
        _ => Constraint::Length(11),
    });
    Table::new(rows, widths).header(header).column_spacing(1)
}

fn footer(state: &State) -> Line<'static> {
    if let Some(problem) = &state.problem {
        let style = Style::new().fg(Color::Red);
        return Line::styled(format!("{} (trying again)", one_line(problem)), style);
    }
    let query = state.query();
    if state.typing {
        return Line::raw(format!(
            "filter: {}_  (Enter keeps it, Esc clears it)",
            query.filter
        ));
    }
    let mut text = String::new();
    if state.paused {
        text.push_str("PAUSED  ");
    }
    if !query.filter.is_empty() {
        text.push_str(&format!("filter: {}  ", one_line(&query.filter)));
    }
    if let Some(snapshot) = &state.snapshot {
        text.push_str(&format!("{} of {}  ", snapshot.rows.len(), snapshot.total));
    }
    text.push_str("Tab other list  < > sort  r reverse  / filter  p pause  q quit");
    Line::raw(text)
}

fn is_number(kind: Kind) -> bool {
    matches!(kind, Kind::Count | Kind::Rate | Kind::ByteRate)
}

fn shown(value: Option<&Value>, kind: Kind) -> String {
    let number = value.and_then(Value::as_f64).unwrap_or_default();
    match kind {
        Kind::Name | Kind::Text => one_line(&cell(value)),
        Kind::Count => cell(value),
        Kind::Rate if number == 0.0 => "-".to_owned(),
        Kind::Rate => format!("{number:.1}"),
        Kind::ByteRate if number == 0.0 => "-".to_owned(),
        Kind::ByteRate => scaled(number),
    }
}

fn bytes(value: &Value) -> String {
    value.as_f64().map_or_else(|| "?".to_owned(), scaled)
}

/// `1.5 MiB`.
fn scaled(mut number: f64) -> String {
    let mut units = ["B", "KiB", "MiB", "GiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    for larger in units {
        if number < 1024.0 {
            break;
        }
        number /= 1024.0;
        unit = larger;
    }
    if unit == "B" {
        format!("{number:.0} B")
    } else {
        format!("{number:.1} {unit}")
    }
}

fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes}m {}s", seconds % 60),
        (0, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
    use serde_json::json;

    use super::*;
    use crate::failure::Failure;

    fn screen(state: &State) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(110, 14)).unwrap();
        terminal.draw(|frame| draw(frame, state)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |row: u16| {
            let cells = (0..110).map(|column| buffer[(column, row)].symbol());
            cells.collect::<String>().trim_end().to_owned()
        };
        (0..14).map(line).collect()
    }

    fn snapshot(state: &State) -> Snapshot {
        Snapshot {
            query: state.query(),
            overview: json!({
                "product_name": "Leveret", "product_version": "0.1.0", "node": "rabbit@here",
                "object_totals": {"connections": 3, "channels": 4, "queues": 2, "consumers": 5},
                "queue_totals": {"messages_ready": 70, "messages_unacknowledged": 6},
                "message_stats": {"publish_details": {"rate": 12.4}},
            }),
            node: json!({
                "uptime": 3_720_000, "mem_used": 52_428_800, "mem_limit": 1_073_741_824,
                "mem_alarm": true, "disk_free": 2048, "disk_free_alarm": false,
            }),
            rows: vec![
                json!({"name": "in\nbox", "vhost": "/", "messages_ready": 70, "consumers": 5,
                       "message_stats": {"publish_details": {"rate": 12.4}}}),
                json!({"name": "work", "vhost": "/", "messages_ready": 0}),
            ],
            total: 2,
        }
    }

    fn press(state: &mut State, code: KeyCode) {
        state.key(KeyEvent::new(code, KeyModifiers::NONE));
    }

    #[test]
    fn queues_are_shown_with_totals_and_alarms() {
        let mut state = State::new(false, String::new());
        assert_eq!(screen(&state)[0], "asking the broker ...");
        state.take(Ok(snapshot(&state)));
        let lines = screen(&state);
        assert_eq!(lines[0], "Leveret 0.1.0   rabbit@here   up 1h 2m");
        let totals = "connections 3   channels 4   queues 2   consumers 5   unacked 6";
        assert_eq!(lines[1], totals);
        let node = "memory 50.0 MiB of 1.0 GiB   disk free 2.0 KiB   MEMORY ALARM";
        assert_eq!(lines[2], node);
        assert!(lines[3].contains(" published/s 12 ") && lines[3].contains(" ready 70 "));
        assert!(
            lines[8].starts_with("QUEUE") && lines[8].contains("READY ↓"),
            "{}",
            lines[8]
        );
        assert!(
            lines[9].starts_with("in\\nbox") && lines[9].contains(" 70 "),
            "{}",
            lines[9]
        );
        assert!(lines[9].contains(" 12.4"), "{}", lines[9]);
        assert!(lines[10].starts_with("work"), "{}", lines[10]);
        assert!(
            lines[13].starts_with("2 of 2  Tab other list"),
            "{}",
            lines[13]
        );
    }

    #[test]
    fn keys_change_what_is_asked_for() {
        let mut state = State::new(false, String::new());
        press(&mut state, KeyCode::Char('<'));
        let query = state.query();
        assert_eq!(
            (query.tab.columns()[query.sort].title, query.descending),
            ("VHOST", false)
        );
        press(&mut state, KeyCode::Char('r'));
        assert!(state.query().descending);
        press(&mut state, KeyCode::Char('/'));
        for c in "quay".chars() {
            press(&mut state, KeyCode::Char(c));
        }
        assert!(!state.done, "a letter of the filter is no command");
        press(&mut state, KeyCode::Enter);
        assert_eq!(state.query().filter, "quay");
        press(&mut state, KeyCode::Tab);
        assert_eq!(state.query().tab.columns()[0].title, "CONNECTION");
        press(&mut state, KeyCode::Char('q'));
        assert!(state.done);
    }

    #[test]
    fn a_failure_is_told_and_the_last_screen_stays() {
        let mut state = State::new(false, String::new());
        state.take(Ok(snapshot(&state)));
        state.take(Err(Failure::failed("connection refused")));
        let lines = screen(&state);
        assert!(lines[10].starts_with("work"));
        assert_eq!(lines[13], "connection refused (trying again)");
        press(&mut state, KeyCode::Char('p'));
        state.take(Ok(snapshot(&state)));
        assert_eq!(state.published.len(), 1, "a paused screen takes nothing");
    }
}
