//! Lists: filter by name, sort, cut into pages, choose columns.
//!
//! Rows come one by one from a walk over what is there and are written out while they are sent, so
//! that a list takes no more memory than what is on its way. Only what is sorted, or read from its
//! end, is kept meanwhile: keys and the least that rows can be made from again, within a budget. Of
//! a page only its rows are written out, and kept only those that may come to stand in it.

mod filter;
mod ranks;

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::app::App;
use crate::budget::ReservedBytes;
use crate::call::Call;
use crate::history::AskedSpans;
use crate::list::filter::Filter;
use crate::list::ranks::Ranks;
use crate::problem::Problem;
use crate::reply::{Answer, Reply};
use crate::stream::{self, Items, Stream, array, items};

/// The lists that come in pages; as in RabbitMQ the others come whole, whatever is asked for.
const PAGED: [&str; 9] = [
    "/api/queues",
    "/api/queues/detailed",
    "/api/queues/{vhost}",
    "/api/exchanges",
    "/api/exchanges/{vhost}",
    "/api/users",
    "/api/users/{user}/queues",
    "/api/connections",
    "/api/channels",
];
const NO_PAGE: &str = "Pagination parameters are invalid";
const PAGE_SIZE_DEFAULT: usize = 100;
const PAGE_SIZE_MAX: usize = 500;
/// Rows beyond those of a page that are kept before the least of them are chosen again.
const FRONT_MIN: usize = 1024;
/// Bytes that an allocation takes beside what is asked for.
const ALLOCATION: usize = 16;

/// One row of a list, not yet written out.
pub(crate) trait Row: Sized + Send + 'static {
    /// What the `name` filter looks at.
    fn name(&self) -> &str;

    /// The whole row.
    fn json(&self, app: &App, window: &AskedSpans) -> Map<String, Value>;

    /// What `sort` compares, if it is cheaper than making the whole row.
    fn key(&self, app: &App, field: &str) -> Option<Key> {
        let _ = (app, field);
        None
    }

    /// Drops what can be had again, while the row is kept.
    fn shed(&mut self) {}

    /// Takes it back; false when what the row shows is gone.
    fn regain(&mut self) -> bool {
        true
    }
}

/// What rows are sorted by. A missing value counts as 0, and numbers come before texts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Key {
    Number(f64),
    Text(Box<str>),
}

impl Key {
    pub(crate) fn text(text: &str) -> Self {
        Self::Text(text.into())
    }

    fn of(value: Option<&Value>) -> Self {
        match value {
            Some(Value::Number(number)) => Self::Number(number.as_f64().unwrap_or(0.0)),
            Some(Value::Bool(flag)) => Self::Number(f64::from(u8::from(*flag))),
            Some(Value::String(text)) => Self::text(text),
            Some(Value::Null) | None => Self::Number(0.0),
            Some(other) => Self::text(&other.to_string()),
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

    /// Bytes beside its own.
    const fn heap_bytes(&self) -> usize {
        match self {
            Self::Number(_) => 0,
            Self::Text(text) => text.len() + ALLOCATION,
        }
    }
}

/// In which order rows are asked for.
enum Order {
    /// As they come.
    Given,
    /// The last one first.
    Reversed,
    /// By the values of a field, up or down.
    By { field: String, reverse: bool },
}

impl Order {
    fn of(call: &Call) -> Self {
        let reverse = call.flag("sort_reverse");
        let field = call.parameter("sort").filter(|field| !field.is_empty());
        match field {
            Some(field) => Self::By {
                field: field.to_owned(),
                reverse,
            },
            None if reverse => Self::Reversed,
            None => Self::Given,
        }
    }
}

/// Answers with these rows as the request's parameters ask.
pub(crate) fn list<R: Row>(call: &Call, rows: impl Iterator<Item = R> + Send + 'static) -> Answer {
    answer(call, items(rows), None)
}

/// The same of so many rows, a number that is known at once: of a page without `sort` and filter no
/// row behind it is looked at.
pub(crate) fn list_counted<R: Row>(
    call: &Call,
    rows: impl Iterator<Item = R> + Send + 'static,
    count: usize,
) -> Answer {
    answer(call, items(rows), Some(count))
}

fn answer<R: Row>(call: &Call, rows: Items<R>, count: Option<usize>) -> Answer {
    let window = AskedSpans::of(call)?;
    let page = Page::of(call)?;
    let reserved = call.app.budget.answer(window.row_bytes())?;
    let order = Order::of(call);
    let Some(page) = page else {
        if matches!(order, Order::Given) {
            let values = written(call, window, rows);
            return Ok(Stream::json(&call.app, reserved, array(values)).into());
        }
        let mut selection = Selection::new(call, window, usize::MAX, reserved);
        selection.take_all(rows, &order, &Filter::All)?;
        let (rows, reserved) = selection.ordered(&order);
        let values = written(call, window, items(rows.filter_map(regained)));
        return Ok(Stream::json(&call.app, reserved, array(values)).into());
    };
    let plain = count.filter(|_| page.filter.is_all());
    if let (Some(count), Order::Given | Order::Reversed) = (plain, &order) {
        let places = page.places(count)?;
        let reversed = matches!(order, Order::Reversed);
        let from = if reversed {
            count - places.end
        } else {
            places.start
        };
        let rows = rows.skip(from).take(places.len());
        let mut rows: Vec<R> = rows.map(shed).collect();
        if reversed {
            rows.reverse();
        }
        let chosen = Chosen {
            rows,
            reserved,
            total: count,
            filtered: count,
        };
        return page.answer(call, window, chosen);
    }
    let mut selection = Selection::new(call, window, page.end(), reserved);
    selection.take_all(rows, &order, &page.filter)?;
    let (total, filtered) = (selection.total, selection.filtered);
    let places = page.places(filtered)?;
    let (rows, reserved) = selection.ordered(&order);
    let rows = rows.skip(places.start).take(places.len());
    let chosen = Chosen {
        rows: rows.collect(),
        reserved,
        total,
        filtered,
    };
    page.answer(call, window, chosen)
}

fn shed<R: Row>(mut row: R) -> R {
    row.shed();
    row
}

fn regained<R: Row>(mut row: R) -> Option<R> {
    row.regain().then_some(row)
}

/// Rows as they are written, each when it is sent.
fn written<R: Row>(call: &Call, window: AskedSpans, rows: Items<R>) -> Items<Value> {
    let (app, columns) = (Arc::clone(&call.app), Columns::of(call));
    items(rows.map(move |row| Value::Object(columns.apply(row.json(&app, &window)))))
}

/// The rows that may come to stand in the wanted part of a list while all of them pass.
struct Selection<'a, R> {
    call: &'a Call,
    window: AskedSpans,
    /// How many are wanted, from the list's beginning.
    end: usize,
    /// In which order they are kept,
    ranks: Ranks,
    /// and the rows, by their slots.
    rows: Vec<Option<R>>,
    /// All rows that passed, and those that the filter let through.
    total: usize,
    filtered: usize,
    reserved: ReservedBytes,
}

impl<'a, R: Row> Selection<'a, R> {
    fn new(call: &'a Call, window: AskedSpans, end: usize, reserved: ReservedBytes) -> Self {
        Self {
            call,
            window,
            end,
            ranks: Ranks::default(),
            rows: Vec::new(),
            total: 0,
            filtered: 0,
            reserved,
        }
    }

    fn take_all(&mut self, rows: Items<R>, order: &Order, filter: &Filter) -> Result<(), Problem> {
        let app = Arc::clone(&self.call.app);
        let mut turn = app.budget.turn();
        for row in rows {
            turn.row();
            self.total += 1;
            if filter.wants(row.name()) {
                self.filtered += 1;
                self.take(row, order)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, row: R, order: &Order) -> Result<(), Problem> {
        match order {
            Order::Given if self.ranks.len() == self.end => Ok(()),
            Order::Given => self.keep(Key::Number(0.0), row),
            Order::Reversed => {
                if self.ranks.len() == self.end {
                    self.ranks.drop_first();
                }
                self.keep(Key::Number(0.0), row)
            }
            Order::By { field, reverse } => {
                let key = self.key(&row, field);
                self.keep(key, row)?;
                if self.ranks.len() >= self.end.saturating_mul(2).max(FRONT_MIN) {
                    self.cut(*reverse);
                }
                Ok(())
            }
        }
    }

    fn key(&self, row: &R, field: &str) -> Key {
        let app = &self.call.app;
        row.key(app, field).unwrap_or_else(|| {
            let path: Vec<&str> = field.split('.').collect();
            Key::of(at(&row.json(app, &self.window), &path))
        })
    }

    fn keep(&mut self, key: Key, mut row: R) -> Result<(), Problem> {
        let (count, capacity) = (self.ranks.len(), self.ranks.capacity());
        if count == capacity {
            // While it grows, the old place is there beside the new one.
            let more = (count / 2).max(FRONT_MIN / 2);
            self.ranks.reserve(more);
            self.rows.reserve_exact(more);
            let more = self.ranks.capacity() - capacity;
            let bytes = Ranks::BYTES + size_of::<Option<R>>();
            self.reserved.grow(more * bytes)?;
        }
        if key.heap_bytes() > 0 {
            self.reserved.grow(key.heap_bytes())?;
        }
        row.shed();
        let slot = self.ranks.push(key, self.filtered);
        match self.rows.get_mut(slot) {
            Some(place) => *place = Some(row),
            None => self.rows.push(Some(row)),
        }
        Ok(())
    }

    /// Leaves those that are wanted so far.
    fn cut(&mut self, reverse: bool) {
        let bytes = self.ranks.cut(self.end, reverse);
        self.reserved.shrink(bytes);
        for slot in self.ranks.free() {
            self.rows[*slot] = None;
        }
    }

    /// What was kept, in its order, and what is reserved for it.
    fn ordered(mut self, order: &Order) -> (Items<R>, ReservedBytes) {
        if let Order::By { reverse, .. } = order {
            self.cut(*reverse);
            self.ranks.sort(*reverse);
        }
        let slots = self.ranks.into_slots(matches!(order, Order::Reversed));
        let mut rows = self.rows;
        let ordered = items(slots.filter_map(move |slot| rows[slot].take()));
        (ordered, self.reserved)
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
                let size = given.map_or_else(|| "undefined".to_owned(), |size| size.to_string());
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
        Ok(start..self.end().min(filtered))
    }

    /// Where its rows end in the list.
    const fn end(&self) -> usize {
        self.number.saturating_mul(self.size)
    }

    /// The page with these rows.
    fn answer<R: Row>(&self, call: &Call, window: AskedSpans, chosen: Chosen<R>) -> Answer {
        let filtered = chosen.filtered;
        let head = json!({
            "total_count": chosen.total,
            "item_count": chosen.rows.len(),
            "filtered_count": filtered,
            "page": self.number,
            "page_size": self.size,
            "page_count": filtered.div_ceil(self.size).max(1),
        });
        let head = head.as_object().cloned().unwrap_or_default();
        let rows = items(chosen.rows.into_iter().filter_map(regained));
        let fragments = stream::object(&head, vec![("items", written(call, window, rows))]);
        Ok(Stream::json(&call.app, chosen.reserved, fragments).into())
    }
}

/// The rows of a page.
struct Chosen<R> {
    rows: Vec<R>,
    /// The memory that they take.
    reserved: ReservedBytes,
    /// How many rows there are in all.
    total: usize,
    /// How many of them the filter lets through.
    filtered: usize,
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

    /// What is wanted of the objects in a field, if anything is.
    fn of_field(&self, field: &str) -> Option<Self> {
        let of_field = |path: &Vec<String>| {
            let (first, rest) = path.split_first()?;
            (first == field).then(|| rest.to_vec())
        };
        let paths: Vec<_> = self.0.iter().filter_map(of_field).collect();
        if self.0.is_empty() || paths.iter().any(Vec::is_empty) {
            return Some(Self(Vec::new()));
        }
        (!paths.is_empty()).then_some(Self(paths))
    }

    /// A single object with a long list in one of its fields.
    pub(crate) fn reply_with(
        call: &Call,
        object: Map<String, Value>,
        field: &'static str,
        values: impl Iterator<Item = Map<String, Value>> + Send + 'static,
    ) -> Answer {
        let columns = Self::of(call);
        let Some(of_items) = columns.of_field(field) else {
            return Ok(Self::reply(call, object));
        };
        let values = items(values.map(move |value| Value::Object(of_items.apply(value))));
        let reserved = call.app.budget.answer(0)?;
        let fragments = stream::object(&columns.apply(object), vec![(field, values)]);
        Ok(Stream::json(&call.app, reserved, fragments).into())
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
    fn columns_of_a_field_are_what_is_wanted_of_its_objects() {
        let columns = |text: &str| {
            let paths = text.split(',').filter(|path| !path.is_empty());
            let paths = paths.map(|path| path.split('.').map(str::to_owned).collect());
            Columns(paths.collect())
        };
        let of_items = |text: &str| columns(text).of_field("items").map(|of| of.0.len());
        for (text, found) in [
            ("", Some(0)),
            ("items", Some(0)),
            ("name,items.a,items.b.c", Some(2)),
            ("items.a,items", Some(0)),
            ("name", None),
        ] {
            assert_eq!(of_items(text), found, "{text}");
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
        assert_eq!(Key::Number(9.0).order(&Key::text("")), Ordering::Less);
    }
}
