//! Printing: tables for people, JSON, NDJSON, YAML and CSV for programs.

use std::cmp::Ordering;
use std::io::{self, Write as _};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Map, Value, json};

use crate::failure::{Failure, Result};

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns
    #[default]
    Table,
    /// The API's own objects
    Json,
    /// One JSON object a line
    Ndjson,
    /// The API's own objects as YAML
    Yaml,
    /// Comma-separated values with a line of names
    Csv,
}

/// Says how to print, and prints.
#[derive(Clone, Debug, Default)]
pub(crate) struct Output {
    pub(crate) format: Format,
    /// Fields to show, dotted for those of inner objects; none: the command's own choice.
    pub(crate) columns: Vec<String>,
    /// A field to sort by; `-` before it turns the order around.
    pub(crate) sort: Option<String>,
    pub(crate) headers: bool,
    pub(crate) quiet: bool,
}

impl Output {
    /// The fields that have to be asked for, or none for all.
    pub(crate) fn wanted(&self, own: &[&str]) -> Vec<String> {
        let tabular = matches!(self.format, Format::Table | Format::Csv);
        let mut wanted = if !self.columns.is_empty() {
            self.columns.clone()
        } else if tabular {
            own.iter().map(|&column| column.to_owned()).collect()
        } else {
            return Vec::new();
        };
        if let Some(sort) = &self.sort {
            wanted.push(sort.trim_start_matches('-').to_owned());
        }
        wanted.dedup();
        wanted
    }

    /// Prints a list; `own` are the columns shown when none were asked for.
    pub(crate) fn rows(&self, mut rows: Vec<Value>, own: &[&str]) -> Result<()> {
        if let Some(sort) = &self.sort {
            sort_rows(&mut rows, sort);
        }
        let own: Vec<String> = own.iter().map(|&column| column.to_owned()).collect();
        let columns = if self.columns.is_empty() {
            &own
        } else {
            &self.columns
        };
        match self.format {
            Format::Table => print(&self.table(&rows, columns)),
            Format::Csv => print(&self.csv(&rows, columns)?),
            Format::Json => print(&lines(&self.projected(rows), true)?),
            Format::Yaml => print(&yaml(&self.projected(rows))?),
            Format::Ndjson => {
                for row in self.projected_rows(rows) {
                    print(&lines(&row, false)?)?;
                }
                Ok(())
            }
        }
    }

    /// Prints one object; a table of its fields unless another format is asked for.
    pub(crate) fn object(&self, value: &Value) -> Result<()> {
        if matches!(self.format, Format::Table | Format::Csv) && self.columns.is_empty() {
            let plain = Self {
                sort: None,
                ..self.clone()
            };
            return plain.rows(self.fields(value), &["field", "value"]);
        }
        match self.format {
            Format::Table | Format::Csv => self.rows(vec![value.clone()], &[]),
            Format::Json => print(&lines(&self.project(value.clone()), true)?),
            Format::Yaml => print(&yaml(&self.project(value.clone()))?),
            Format::Ndjson => print(&lines(&self.project(value.clone()), false)?),
        }
    }

    /// The fields of one object as rows of their names and values.
    fn fields(&self, value: &Value) -> Vec<Value> {
        let mut fields = Vec::new();
        flatten(value, "", &mut fields);
        let row = |(field, value): (String, Value)| {
            // Under `value` a rate is not seen to be one any more.
            let value = if self.format == Format::Table && is_rate(&field) {
                cell_for_people(&field, Some(&value)).into()
            } else {
                value
            };
            json!({"field": field, "value": value})
        };
        fields.into_iter().map(row).collect()
    }

    /// Says to a person what was done, apart from data.
    pub(crate) fn say(&self, text: &str) {
        if !self.quiet {
            eprintln!("{text}");
        }
    }

    fn projected(&self, rows: Vec<Value>) -> Value {
        Value::Array(self.projected_rows(rows).collect())
    }

    fn projected_rows(&self, rows: Vec<Value>) -> impl Iterator<Item = Value> + '_ {
        rows.into_iter().map(|row| self.project(row))
    }

    fn project(&self, row: Value) -> Value {
        if self.columns.is_empty() {
            return row;
        }
        let mut projected = Map::new();
        for column in &self.columns {
            if let Some(value) = field(&row, column) {
                projected.insert(column.clone(), value.clone());
            }
        }
        Value::Object(projected)
    }

    fn table(&self, rows: &[Value], columns: &[String]) -> String {
        let mut table = Table::new();
        table
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled);
        if self.headers && !rows.is_empty() {
            table.set_header(columns.iter().map(|column| title(column)));
        }
        for row in rows {
            table.add_row(
                columns
                    .iter()
                    .map(|column| one_line(&cell_for_people(column, field(row, column)))),
            );
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let mut text = String::new();
        for line in table.lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    fn csv(&self, rows: &[Value], columns: &[String]) -> Result<String> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let unwritten = |error: csv::Error| Failure::failed(error.to_string());
        if self.headers {
            writer.write_record(columns).map_err(unwritten)?;
        }
        for row in rows {
            let cells = columns.iter().map(|column| cell(field(row, column)));
            writer.write_record(cells).map_err(unwritten)?;
        }
        let bytes = writer
            .into_inner()
            .map_err(|error| Failure::failed(error.to_string()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Rates are asked for by their long name and shown by their short one.
fn title(column: &str) -> String {
    match column.strip_suffix("_details.rate") {
        Some(start) => format!("{}/s", start.rsplit('.').next().unwrap_or(start)),
        None => column.to_owned(),
    }
}

/// The value of a field; dots lead into inner objects.
pub(crate) fn field<'a>(row: &'a Value, column: &str) -> Option<&'a Value> {
    if let Some(value) = row.get(column) {
        return Some(value);
    }
    let (outer, inner) = column.split_once('.')?;
    field(row.get(outer)?, inner)
}

/// Whether a field is a number of something a second.
fn is_rate(column: &str) -> bool {
    let name = column.rsplit('.').next().unwrap_or(column);
    name == "rate" || name.ends_with("_rate")
}

/// A value as text for a person: rates with one decimal; programs get them as they are.
fn cell_for_people(column: &str, value: Option<&Value>) -> String {
    match value.and_then(Value::as_f64) {
        Some(rate) if is_rate(column) => format!("{rate:.1}"),
        _ => cell(value),
    }
}

/// A value as text for a cell.
pub(crate) fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) if items.iter().all(Value::is_string) => {
            let items: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
            items.join(",")
        }
        Some(Value::Object(fields)) if fields.is_empty() => String::new(),
        Some(other) => other.to_string(),
    }
}

/// Control characters shown as escapes, so that a name cannot break a table or a terminal.
pub(crate) fn one_line(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    let escape = |c: char| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.into()
        }
    };
    text.chars().map(escape).collect()
}

/// Fields of inner objects under dotted names; arrays and empty objects stay whole.
fn flatten(value: &Value, prefix: &str, fields: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(inner) if !inner.is_empty() => {
            for (key, value) in inner {
                let name = if prefix.is_empty() {
                    key.clone()
                } else {
                    format!("{prefix}.{key}")
                };
                flatten(value, &name, fields);
            }
        }
        other => fields.push((prefix.to_owned(), other.clone())),
    }
}

fn sort_rows(rows: &mut [Value], sort: &str) {
    let (column, descending) = match sort.strip_prefix('-') {
        Some(column) => (column, true),
        None => (sort, false),
    };
    rows.sort_by(|a, b| {
        let order = compare(field(a, column), field(b, column));
        if descending { order.reverse() } else { order }
    });
}

/// Numbers by size, before texts; what is missing first.
fn compare(a: Option<&Value>, b: Option<&Value>) -> Ordering {
    let number = |value: Option<&Value>| value.and_then(Value::as_f64);
    match (number(a), number(b)) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        _ => {
            let key =
                |value: Option<&Value>| (value.is_some(), number(value).is_none(), cell(value));
            key(a).cmp(&key(b))
        }
    }
}

fn lines(value: &Value, pretty: bool) -> Result<String> {
    let mut text = if pretty {
        serde_json::to_string_pretty(value)?
    } else {
        serde_json::to_string(value)?
    };
    text.push('\n');
    Ok(text)
}

fn yaml(value: &Value) -> Result<String> {
    serde_norway::to_string(value).map_err(|error| Failure::failed(error.to_string()))
}

/// Writes to standard output; a reader that went away (`| head`) is no error.
pub(crate) fn print(text: &str) -> Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_lead_inside_unless_the_field_has_dots_itself() {
        let row = json!({"a": {"b": 1}, "x.y": 2});
        assert_eq!(field(&row, "a.b"), Some(&json!(1)));
        assert_eq!(field(&row, "x.y"), Some(&json!(2)));
        assert_eq!(field(&row, "a.c"), None);
    }

    #[test]
    fn rows_sort_by_number_then_text_and_missing_is_least() {
        let mut rows = vec![
            json!({"n": 10}),
            json!({"n": 9}),
            json!({}),
            json!({"n": "a"}),
        ];
        sort_rows(&mut rows, "-n");
        assert_eq!(
            rows,
            [
                json!({"n": "a"}),
                json!({"n": 10}),
                json!({"n": 9}),
                json!({})
            ]
        );
    }

    #[test]
    fn rates_have_one_decimal_for_people_and_are_exact_for_programs() {
        let row = json!({
            "name": "q",
            "messages": 3,
            "consumer_capacity": 0.333_333,
            "message_stats": {"publish_details": {"rate": 0.333_333}, "ack_details": {"rate": 7}},
        });
        let output = |format| Output {
            format,
            headers: true,
            ..Output::default()
        };
        let columns = [
            "name",
            "messages",
            "consumer_capacity",
            "message_stats.publish_details.rate",
            "message_stats.ack_details.rate",
            "message_stats.deliver_details.rate",
        ];
        let columns = columns.map(str::to_owned);
        let table = output(Format::Table).table(std::slice::from_ref(&row), &columns);
        let cells: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            cells,
            [
                vec![
                    "name",
                    "messages",
                    "consumer_capacity",
                    "publish/s",
                    "ack/s",
                    "deliver/s"
                ],
                vec!["q", "3", "0.333333", "0.3", "7.0"],
            ]
        );
        let csv = output(Format::Csv).csv(&[row], &columns).unwrap();
        assert!(csv.ends_with("\nq,3,0.333333,0.333333,7,\n"), "{csv}");
    }

    #[test]
    fn fields_of_one_object_are_rates_by_their_own_names() {
        let value = json!({"publish_rate": 1.25, "rates_mode": "basic",
            "message_stats": {"ack_details": {"rate": 0.06}}, "vm_memory": 0.65});
        let output = |format| Output {
            format,
            ..Output::default()
        };
        let texts = |format| {
            let rows = output(format).fields(&value);
            rows.iter()
                .map(|row| cell(row.get("value")))
                .collect::<Vec<_>>()
        };
        assert_eq!(texts(Format::Table), ["1.2", "basic", "0.1", "0.65"]);
        assert_eq!(texts(Format::Csv), ["1.25", "basic", "0.06", "0.65"]);
    }

    #[test]
    fn a_name_cannot_write_to_the_terminal() {
        assert_eq!(one_line("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
    }
}
