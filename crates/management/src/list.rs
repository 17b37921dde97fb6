//! Lists: filter by name, sort, cut into pages, choose columns.
//!
//! A page of a long list costs little: JSON is made for the rows of the page alone. Where rows are
//! kept in order, no others are looked at; names and sort keys are looked at for every row.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::call::Call;
use crate::history::Window;
use crate::problem::Problem;
use crate::reply::{Answer, Reply};

/// The lists that come in pages; as in RabbitMQ the others come whole, whatever is asked for.
const PAGED: [&str; 8] = [
    "/api/queues",
    "/api/queues/detailed",
    "/api/queues/{vhost}",
    "/api/exchanges",
    "/api/exchanges/{vhost}",
    "/api/users",
    "/api/connections",
    "/api/channels",
];
const NO_PAGE: &str = "Pagination parameters are invalid";
const PAGE_SIZE_DEFAULT: usize = 100;
const PAGE_SIZE_MAX: usize = 500;
const PATTERN_CHARS_MAX: usize = 1024;
/// So many rows are picked out of a long list one by one; more are sorted.
const FRONT_MAX: usize = 1024;
/// Compiled size of a pattern, bytes: a short pattern can stand for a huge program.
const PATTERN_BYTES_MAX: usize = 256 << 10;

/// One row of a list, not yet written out.
pub(crate) trait Row: Send + Sync + 'static {
    /// What the `name` filter looks at.
    fn name(&self) -> &str;

    /// The order without `sort`.
    fn order(&self, other: &Self) -> Ordering;

    /// The whole row.
    fn json(&self, app: &App, window: &Window) -> Map<String, Value>;

    /// What `sort` compares, if it is cheaper than making the whole row.
    fn key(&self, app: &App, field: &str) -> Option<Key> {
        let _ = (app, field);
        None
    }
}

/// What rows are sorted by. A missing value counts as 0, and numbers come before texts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Key {
    Number(f64),
    Text(String),
}

impl Key {
    fn of(value: Option<&Value>) -> Self {
        match value {
            Some(Value::Number(number)) => Self::Number(number.as_f64().unwrap_or(0.0)),
            Some(Value::Bool(flag)) => Self::Number(f64::from(u8::from(*flag))),
            Some(Value::String(text)) => Self::Text(text.clone()),
            Some(Value::Null) | None => Self::Number(0.0),
            Some(other) => Self::Text(other.to_string()),
        }
    }

    fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => a.total_cmp(b),
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (Self::Number(_), Self::Text(_)) => Ordering::Less,
            (Self::Text(_), Self::Number(_)) => Ordering::Greater,
        }
    }
}

/// Rows that are kept in order somewhere, so that those of a page can be had alone.
pub(crate) trait Ordered {
    /// One of them.
    type Row: Row;

    /// How many there are.
    fn len(&self) -> usize;

    /// Those at these places, in order.
    fn at(&self, places: Range<usize>) -> Vec<Self::Row>;

    /// Those whose names are wanted, in order.
    fn named(&self, wanted: &dyn Fn(&str) -> bool) -> Vec<Self::Row>;
}

/// Answers with these rows as the request's parameters ask. Without `sort`, no row of another page
/// is made.
pub(crate) fn list_ordered<O: Ordered>(call: &Call, rows: &O) -> Answer {
    let total = rows.len();
    if is_sorted_by_request(call) {
        return list(call, rows.at(0..total));
    }
    let reverse = call.flag("sort_reverse");
    let Some(page) = Page::of(call)? else {
        let mut rows = rows.at(0..total);
        if reverse {
            rows.reverse();
        }
        return stream(call, rows);
    };
    if page.filter.is_all() {
        let places = page.places(total)?;
        let mut items = if reverse {
            rows.at(total - places.end..total - places.start)
        } else {
            rows.at(places)
        };
        if reverse {
            items.reverse();
        }
        return page.answer(call, items, (total, total));
    }
    let mut matching = rows.named(&|name| page.filter.wants(name));
    if reverse {
        matching.reverse();
    }
    let filtered = matching.len();
    let places = page.places(filtered)?;
    let items = matching.drain(places).collect();
    page.answer(call, items, (total, filtered))
}

/// Answers with these rows as the request's parameters ask.
pub(crate) fn list<R: Row>(call: &Call, mut rows: Vec<R>) -> Answer {
    let window = Window::of(call)?;
    let total = rows.len();
    let Some(page) = Page::of(call)? else {
        return stream(call, sorted(call, &window, rows, total));
    };
    if !page.filter.is_all() {
        rows.retain(|row| page.filter.wants(row.name()));
    }
    let filtered = rows.len();
    let places = page.places(filtered)?;
    let mut rows = sorted(call, &window, rows, places.end);
    let items = rows.drain(places).collect();
    page.answer(call, items, (total, filtered))
}

/// Answers with all of these rows in their order, each made when it is sent.
fn stream<R: Row>(call: &Call, rows: Vec<R>) -> Answer {
    let (window, columns) = (Window::of(call)?, Columns::of(call));
    let app = Arc::clone(&call.app);
    let items = rows
        .into_iter()
        .map(move |row| Value::Object(columns.apply(row.json(&app, &window))));
    Ok(Reply::List(Box::new(items)))
}

fn is_sorted_by_request(call: &Call) -> bool {
    call.parameter("sort")
        .is_some_and(|field| !field.is_empty())
}

/// Sorts so much of the rows that the first `end` of them are in their places.
fn sorted<R: Row>(call: &Call, window: &Window, rows: Vec<R>, end: usize) -> Vec<R> {
    let reverse = call.flag("sort_reverse");
    let field = call.parameter("sort").filter(|field| !field.is_empty());
    let Some(field) = field else {
        let mut rows = rows;
        sort_front(&mut rows, end, reverse, R::order);
        return rows;
    };
    let path: Vec<&str> = field.split('.').collect();
    let key = |row: &R| {
        let cheap = row.key(&call.app, field);
        cheap.unwrap_or_else(|| Key::of(at(&row.json(&call.app, window), &path)))
    };
    let mut keyed: Vec<(Key, R)> = rows.into_iter().map(|row| (key(&row), row)).collect();
    let order = |a: &(Key, R), b: &(Key, R)| a.0.order(&b.0).then_with(|| a.1.order(&b.1));
    sort_front(&mut keyed, end, reverse, order);
    keyed.into_iter().map(|(_, row)| row).collect()
}

fn sort_front<T>(items: &mut [T], end: usize, reverse: bool, order: impl Fn(&T, &T) -> Ordering) {
    let order = |a: &T, b: &T| if reverse { order(b, a) } else { order(a, b) };
    if end > 0 && end <= FRONT_MAX && end < items.len() / 8 {
        return keep_least(items, end, order);
    }
    if end < items.len() && end > 0 {
        items.select_nth_unstable_by(end - 1, order);
    }
    if let Some(front) = items.get_mut(..end) {
        front.sort_unstable_by(order);
    }
}

/// Brings the `end` least items to the front, in order. Each of the others is looked at once, and
/// compared with one that is at hand: what costs in a long list is reaching a row, not comparing.
fn keep_least<T>(items: &mut [T], end: usize, order: impl Fn(&T, &T) -> Ordering) {
    let (front, rest) = items.split_at_mut(end);
    front.sort_unstable_by(&order);
    for item in rest {
        let Some(last) = front.last_mut() else { return };
        if order(item, last) == Ordering::Less {
            std::mem::swap(item, last);
            let inner = front.len() - 1;
            let (sorted, new) = front.split_at(inner);
            let place = sorted.partition_point(|known| order(known, &new[0]) != Ordering::Greater);
            front[place..].rotate_right(1);
        }
    }
}

/// A value inside an object, by the keys that lead to it.
fn at<'a>(object: &'a Map<String, Value>, path: &[&str]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter()
        .try_fold(object.get(*first)?, |value, key| value.get(key))
}

/// Which page of which rows.
struct Page {
    number: usize,
    size: usize,
    filter: Filter,
}

impl Page {
    fn of(call: &Call) -> Result<Option<Self>, Problem> {
        let Some(number) = call
            .parameter("page")
            .filter(|_| PAGED.contains(&call.path))
        else {
            return Ok(None);
        };
        let read = |text: &str| text.parse::<i64>().map_err(|_| Problem::bad(NO_PAGE));
        let number = read(number)?;
        let given = call.parameter("page_size").filter(|text| !text.is_empty());
        let given = given.map(read).transpose()?;
        let size = given.map_or(Ok(PAGE_SIZE_DEFAULT), usize::try_from);
        match (usize::try_from(number), size) {
            (Ok(number @ 1..), Ok(size @ 1..=PAGE_SIZE_MAX)) => Ok(Some(Self {
                number,
                size,
                filter: Filter::of(call)?,
            })),
            _ => {
                let size = given.map_or("undefined".to_owned(), |size| size.to_string());
                Err(Problem::BadRequestAs(
                    "invalid_pagination_parameters",
                    format!(
                        "Invalid pagination parameters: page number {number}, page size {size}"
                    ),
                ))
            }
        }
    }

    /// Where the page's rows are among so many.
    fn places(&self, filtered: usize) -> Result<Range<usize>, Problem> {
        let start = (self.number - 1).saturating_mul(self.size);
        if start >= filtered && self.number > 1 {
            let (page, size) = (self.number, self.size);
            return Err(Problem::BadRequestAs(
                "page_out_of_range",
                format!("Page out of range, page: {page} page size: {size}, len: {filtered}"),
            ));
        }
        Ok(start..self.number.saturating_mul(self.size).min(filtered))
    }

    /// The page with these rows, out of so many in all and so many that the filter lets through.
    fn answer<R: Row>(
        &self,
        call: &Call,
        rows: Vec<R>,
        (total, filtered): (usize, usize),
    ) -> Answer {
        let (window, columns) = (Window::of(call)?, Columns::of(call));
        let item = |row: &R| Value::Object(columns.apply(row.json(&call.app, &window)));
        let items: Vec<Value> = rows.iter().map(item).collect();
        Ok(Reply::Json(json!({
            "total_count": total,
            "item_count": items.len(),
            "filtered_count": filtered,
            "page": self.number,
            "page_size": self.size,
            "page_count": filtered.div_ceil(self.size).max(1),
            "items": items,
        })))
    }
}

/// Which names are wanted.
enum Filter {
    All,
    Part(String),
    Pattern(Regex),
}

impl Filter {
    fn of(call: &Call) -> Result<Self, Problem> {
        let name = call.parameter("name").unwrap_or_default();
        if name.is_empty() {
            return Ok(Self::All);
        }
        if name.chars().count() > PATTERN_CHARS_MAX {
            return Err(Problem::bad(format!(
                "name filter is longer than {PATTERN_CHARS_MAX} characters"
            )));
        }
        if !call.flag("use_regex") {
            return Ok(Self::Part(name.to_lowercase()));
        }
        RegexBuilder::new(name)
            .case_insensitive(true)
            .size_limit(PATTERN_BYTES_MAX)
            .build()
            .map(Self::Pattern)
            .map_err(|error| Problem::bad(format!("invalid name pattern: {error}")))
    }

    const fn is_all(&self) -> bool {
        matches!(self, Self::All)
    }

    fn wants(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Part(part) => contains(name, part),
            Self::Pattern(pattern) => pattern.is_match(name),
        }
    }
}

/// Whether a name holds a part in any case; `part` is in lower case.
fn contains(name: &str, part: &str) -> bool {
    if name.is_ascii() {
        let (name, part) = (name.as_bytes(), part.as_bytes());
        return name
            .windows(part.len())
            .any(|window| window.eq_ignore_ascii_case(part));
    }
    name.to_lowercase().contains(part)
}

/// Which parts of a row are wanted.
pub(crate) struct Columns(Vec<Vec<String>>);

impl Columns {
    pub(crate) fn of(call: &Call) -> Self {
        let names = call.parameter("columns").unwrap_or_default();
        let names = names.split(',').filter(|name| !name.is_empty());
        Self(
            names
                .map(|name| name.split('.').map(str::to_owned).collect())
                .collect(),
        )
    }

    /// The wanted parts of an object; all of it when nothing was asked for.
    pub(crate) fn apply(&self, object: Map<String, Value>) -> Map<String, Value> {
        if self.0.is_empty() {
            return object;
        }
        let mut chosen = Map::new();
        for path in &self.0 {
            copy(&object, &mut chosen, path);
        }
        chosen
    }

    /// The same for a single object.
    pub(crate) fn reply(call: &Call, object: Map<String, Value>) -> Reply {
        Reply::Json(Value::Object(Self::of(call).apply(object)))
    }
}

fn copy(from: &Map<String, Value>, to: &mut Map<String, Value>, path: &[String]) {
    let Some((first, rest)) = path.split_first() else {
        return;
    };
    let Some(value) = from.get(first) else {
        return;
    };
    match (rest.is_empty(), value) {
        (true, value) => {
            to.insert(first.clone(), value.clone());
        }
        (false, Value::Object(inner)) => {
            let slot = to.entry(first.clone()).or_insert_with(|| json!({}));
            if let Value::Object(slot) = slot {
                copy(inner, slot, rest);
            }
        }
        (false, Value::Array(list)) => {
            let pick = |item: &Value| {
                let mut chosen = Map::new();
                if let Value::Object(inner) = item {
                    copy(inner, &mut chosen, rest);
                }
                Value::Object(chosen)
            };
            to.insert(first.clone(), list.iter().map(pick).collect());
        }
        (false, _) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_is_sorted_and_the_rest_is_left() {
        let mut numbers: Vec<u32> = (0..1000).map(|n| (n * 7919) % 1000).collect();
        sort_front(&mut numbers, 10, false, Ord::cmp);
        assert_eq!(numbers[..10], (0..10).collect::<Vec<_>>());
        sort_front(&mut numbers, 3, true, Ord::cmp);
        assert_eq!(numbers[..3], [999, 998, 997]);
        sort_front(&mut numbers, 100, false, Ord::cmp);
        assert_eq!(numbers[..100], (0..100).collect::<Vec<_>>());
        sort_front(&mut numbers, 400, true, Ord::cmp);
        assert_eq!(numbers[..400], (600..1000).rev().collect::<Vec<_>>());
        sort_front(&mut numbers, 0, true, Ord::cmp);
        sort_front(&mut numbers, 1000, false, Ord::cmp);
        assert!(numbers.is_sorted());
    }

    #[test]
    fn names_are_found_in_any_case() {
        for (name, part, found) in [
            ("Orders", "order", true),
            ("orders", "", true),
            ("o", "orders", false),
            ("ÄRGER", "ärg", true),
        ] {
            assert_eq!(
                part.is_empty() || contains(name, part),
                found,
                "{name} {part}"
            );
        }
    }

    #[test]
    fn columns_reach_into_objects() {
        let object = json!({"a": {"b": 1, "c": 2}, "d": 3, "l": [{"x": 1, "y": 2}]});
        let columns =
            ["a.b", "d", "none", "l.x"].map(|c| c.split('.').map(str::to_owned).collect());
        let chosen = Columns(columns.into()).apply(object.as_object().unwrap().clone());
        assert_eq!(
            Value::Object(chosen),
            json!({"a": {"b": 1}, "d": 3, "l": [{"x": 1}]})
        );
    }

    #[test]
    fn missing_keys_sort_as_zero() {
        assert_eq!(Key::of(None).order(&Key::Number(0.0)), Ordering::Equal);
        assert_eq!(
            Key::Number(9.0).order(&Key::Text(String::new())),
            Ordering::Less
        );
    }
}
