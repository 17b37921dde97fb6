//! The formats of `rabbitmqadmin`: its table, tsv, long, kvp, bash, and JSON.

use serde_json::Value;

/// Columns that come first, in this order, when all are shown.
const FIRST: &[&str] = &[
    "vhost",
    "name",
    "type",
    "source",
    "destination",
    "destination_type",
    "routing_key",
];

/// Fields whose objects are shown as JSON instead of being taken apart.
const WHOLE: &[&str] = &["definition", "value"];

/// Rows as text; empty if there are none, nothing for an unknown format.
pub(super) fn format(
    rows: &Value,
    columns: &[String],
    format: &str,
    depth: usize,
) -> Option<String> {
    match format {
        "raw_json" => return Some(format!("{rows}\n")),
        "pretty_json" => {
            return serde_json::to_string_pretty(rows)
                .ok()
                .map(|text| text + "\n");
        }
        _ => {}
    }
    let items = rows.as_array().map(Vec::as_slice).unwrap_or_default();
    let depth = if columns.is_empty() {
        depth
    } else {
        usize::MAX
    };
    let flat: Vec<Vec<(String, String)>> = items
        .iter()
        .map(|item| {
            let mut fields = Vec::new();
            flatten(item, "", (1, depth), &mut fields);
            fields
        })
        .collect();
    let columns = if columns.is_empty() {
        all_columns(&flat)
    } else {
        columns.to_vec()
    };
    let cell = |fields: &Vec<(String, String)>, column: &String| {
        let found = fields.iter().find(|(name, _)| name == column);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    };
    let row = |fields: &Vec<(String, String)>| -> Vec<String> {
        columns.iter().map(|column| cell(fields, column)).collect()
    };
    let rows: Vec<Vec<String>> = flat.iter().map(row).collect();
    if rows.is_empty() {
        return Some(String::new());
    }
    match format {
        "table" => Some(table(&columns, &rows)),
        "tsv" => Some(tsv(&columns, &rows)),
        "long" => Some(long(&columns, &rows)),
        "kvp" => Some(pairs(&columns, &rows)),
        "bash" => Some(names(&columns, &rows)),
        _ => None,
    }
}

fn flatten(
    item: &Value,
    prefix: &str,
    (level, depth): (usize, usize),
    fields: &mut Vec<(String, String)>,
) {
    for (key, value) in item.as_object().into_iter().flatten() {
        let name = if prefix.is_empty() {
            key.clone()
        } else {
            format!("{prefix}.{key}")
        };
        match value {
            Value::Object(_) if WHOLE.contains(&key.as_str()) => {
                fields.push((name, spaced(value)));
            }
            Value::Object(_) if level < depth => flatten(value, &name, (level + 1, depth), fields),
            Value::Object(_) => {}
            Value::Array(items) if items.iter().all(Value::is_string) => {
                let words: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
                fields.push((name, words.join(" ")));
            }
            Value::String(text) => fields.push((name, text.clone())),
            Value::Bool(flag) => {
                fields.push((name, if *flag { "True" } else { "False" }.to_owned()));
            }
            Value::Null => fields.push((name, String::new())),
            other => fields.push((name, spaced(other))),
        }
    }
}

/// JSON as Python writes it: with a space after each comma and colon.
fn spaced(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| {
                format!("{}: {}", Value::from(name.as_str()), spaced(value))
            };
            format!(
                "{{{}}}",
                fields.iter().map(field).collect::<Vec<_>>().join(", ")
            )
        }
        Value::Array(items) => {
            format!(
                "[{}]",
                items.iter().map(spaced).collect::<Vec<_>>().join(", ")
            )
        }
        other => other.to_string(),
    }
}

fn all_columns(rows: &[Vec<(String, String)>]) -> Vec<String> {
    let names = rows.iter().flatten().map(|(name, _)| name.clone());
    let mut columns: Vec<String> = names.collect();
    let place = |name: &str| {
        FIRST
            .iter()
            .position(|first| *first == name)
            .unwrap_or(FIRST.len())
    };
    columns.sort_by(|a, b| (place(a), a).cmp(&(place(b), b)));
    columns.dedup();
    columns
}

fn width(text: &str) -> usize {
    text.chars().count()
}

fn table(columns: &[String], rows: &[Vec<String>]) -> String {
    let widest = |index: usize| {
        let cells = rows.iter().map(|row| width(&row[index]));
        cells
            .chain([width(&columns[index])])
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns.len()).map(widest).collect();
    let bar: String = widths
        .iter()
        .map(|width| format!("{}+", "-".repeat(width + 2)))
        .collect();
    let bar = format!("+{bar}\n");
    let titles = columns
        .iter()
        .zip(&widths)
        .map(|(title, width)| format!(" {title:^width$} |"));
    let mut text = format!("{bar}|{}\n{bar}", titles.collect::<String>());
    for row in rows {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!(" {cell:<width$} |"));
        text.push_str(&format!("|{}\n", cells.collect::<String>()));
    }
    text.push_str(&bar);
    text
}

fn tsv(columns: &[String], rows: &[Vec<String>]) -> String {
    let mut text = format!("{}\n", columns.join("\t"));
    for row in rows {
        text.push_str(&format!("{}\n", row.join("\t")));
    }
    text
}

fn long(columns: &[String], rows: &[Vec<String>]) -> String {
    let widest = columns
        .iter()
        .map(|column| width(column))
        .max()
        .unwrap_or_default();
    let rule = format!("\n{}\n\n", "-".repeat(80));
    let mut text = rule.clone();
    for row in rows {
        for (column, cell) in columns.iter().zip(row) {
            text.push_str(&format!("{column:>widest$}: {cell}\n"));
        }
        text.push_str(&rule);
    }
    text
}

fn pairs(columns: &[String], rows: &[Vec<String>]) -> String {
    let line = |row: &Vec<String>| {
        let pairs = columns
            .iter()
            .zip(row)
            .map(|(column, cell)| format!("{column}=\"{cell}\""));
        pairs.collect::<Vec<_>>().join(" ") + "\n"
    };
    rows.iter().map(line).collect()
}

fn names(columns: &[String], rows: &[Vec<String>]) -> String {
    let Some(index) = columns.iter().position(|column| column == "name") else {
        return String::new();
    };
    let names: Vec<&str> = rows.iter().map(|row| row[index].as_str()).collect();
    names.join(" ") + "\n"
}
