//! Rows as `rabbitmqctl` prints them: tab-separated, or for `--formatter`.

use comfy_table::{Table, presets};
use serde_json::{Map, Value};

use super::erlang::Term;
use super::{Outcome, Shim, Stop, exit};

/// One value of a row.
#[derive(Clone, Debug)]
pub(crate) enum Cell {
    /// Not there.
    None,
    Text(String),
    Flag(bool),
    Number(serde_json::Number),
    /// A process, shown without quotes.
    Pid(String),
    /// Words such as a user's tags.
    Words(Vec<String>),
    /// AMQP arguments.
    Table(Value),
}

impl Cell {
    /// A value of the API.
    pub(crate) fn from_json(value: Option<&Value>) -> Self {
        match value {
            None | Some(Value::Null) => Self::None,
            Some(Value::String(text)) => Self::Text(text.clone()),
            Some(Value::Bool(flag)) => Self::Flag(*flag),
            Some(Value::Number(number)) => Self::Number(number.clone()),
            Some(other) => Self::Table(other.clone()),
        }
    }

    fn plain(&self) -> String {
        match self {
            Self::None => String::new(),
            // As it is: RabbitMQ's tools neither quote nor escape names.
            Self::Text(text) => text.clone(),
            Self::Flag(flag) => flag.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Pid(pid) => pid.clone(),
            Self::Words(words) => format!("[{}]", words.join(", ")),
            Self::Table(value) => Term::table(value).to_string(),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::None => "".into(),
            Self::Text(text) | Self::Pid(text) => text.clone().into(),
            Self::Flag(flag) => (*flag).into(),
            Self::Number(number) => Value::Number(number.clone()),
            Self::Words(words) => words.iter().cloned().map(Value::String).collect(),
            Self::Table(value) => typed(value),
        }
    }
}

/// A table with the AMQP type of each field, which RabbitMQ's JSON has.
fn typed(value: &Value) -> Value {
    let Value::Object(fields) = value else {
        return value.clone();
    };
    let entry = |(name, value): (&String, &Value)| {
        let kind = match value {
            Value::Bool(_) => "bool",
            Value::Number(number) if number.is_f64() => "double",
            Value::Number(_) => "long",
            Value::Array(_) => "array",
            Value::Object(_) => "table",
            Value::String(_) | Value::Null => "longstr",
        };
        Value::Array(vec![name.as_str().into(), kind.into(), typed(value)])
    };
    fields.iter().map(entry).collect()
}

/// Prints rows of cells under `columns`.
pub(crate) fn print(shim: &Shim, columns: &[&str], rows: &[Vec<Cell>]) -> Outcome {
    let invocation = &shim.invocation;
    let headers = !invocation.silent && !invocation.has("no-table-headers");
    let text = match invocation.option("formatter").unwrap_or("table") {
        "table" => tabbed(columns, rows, headers),
        "pretty_table" => pretty(columns, rows, headers),
        "json" => json(columns, rows)?,
        "csv" => csv(columns, rows),
        other => {
            let text = format!("Error: formatter '{other}' is not supported");
            return Err(Stop::new(exit::USAGE, text));
        }
    };
    Ok(crate::output::print(&text)?)
}

fn tabbed(columns: &[&str], rows: &[Vec<Cell>], headers: bool) -> String {
    let mut text = String::new();
    if headers && !rows.is_empty() {
        text.push_str(&format!("{}\n", columns.join("\t")));
    }
    for row in rows {
        let cells: Vec<String> = row.iter().map(Cell::plain).collect();
        text.push_str(&format!("{}\n", cells.join("\t")));
    }
    text
}

fn pretty(columns: &[&str], rows: &[Vec<Cell>], headers: bool) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    if headers {
        table.set_header(columns.iter().copied());
    }
    for row in rows {
        table.add_row(row.iter().map(Cell::plain));
    }
    format!("{table}\n")
}

fn json(columns: &[&str], rows: &[Vec<Cell>]) -> Result<String, Stop> {
    let mut lines = Vec::new();
    for row in rows {
        let pairs = columns.iter().zip(row);
        let object: Map<String, Value> = pairs
            .map(|(&column, cell)| (column.to_owned(), cell.json()))
            .collect();
        let line = serde_json::to_string(&object).map_err(crate::failure::Failure::from)?;
        lines.push(format!("{line}\n"));
    }
    Ok(format!("[\n{}]\n", lines.join(",")))
}

fn csv(columns: &[&str], rows: &[Vec<Cell>]) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let line = |cells: Vec<String>| format!("{}\n", cells.join(","));
    let mut text = String::new();
    if !columns.is_empty() {
        text.push_str(&line(columns.iter().map(|column| quoted(column)).collect()));
    }
    for row in rows {
        text.push_str(&line(
            row.iter().map(|cell| quoted(&cell.plain())).collect(),
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_printed_as_they_are() {
        let name = "a b\tc \"d\" 'e' \\ é€\u{7f}";
        let row = vec![
            Cell::Text(name.to_owned()),
            Cell::Words(vec!["t 1".to_owned(), "\"q\"".to_owned()]),
            Cell::Table(json!({"x-a b": "c\td \"e\" é \\"})),
        ];
        let table = tabbed(&["name", "tags", "arguments"], &[row], false);
        let arguments = r#"[{"x-a b","c\td \"e\" é \\"}]"#;
        assert_eq!(table, format!("{name}\t[t 1, \"q\"]\t{arguments}\n"));
    }
}
