//! What a dead letter's headers say of how it died.
//!
//! The names, the order and the types are RabbitMQ's (docs: "Dead Letter Exchanges", "Effects of
//! Dead-Lettering on a Message").

use leveret_codec::{Properties, RawTable, Table, Value, ValueRef, split_route};
use leveret_queue::Death;

const DEATHS: &str = "x-death";
/// With a longer header a message fits no frame of the smallest size that is allowed: then the
/// oldest deaths are forgotten.
const HEADER_BYTES_MAX: usize = 4096 - 8;

/// Deaths of one kind in one queue.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    original_expiration: Option<Vec<u8>>,
    count: i64,
    pub(super) reason: Vec<u8>,
    pub(super) queue: Vec<u8>,
    /// Of the first one, seconds since 1970.
    time: u64,
    exchange: Vec<u8>,
    routing_keys: Vec<Vec<u8>>,
}

/// A message that dies, as its queue had it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dying<'a> {
    pub(super) queue: &'a str,
    pub(super) death: Death,
    /// Seconds since 1970.
    pub(super) time: u64,
    /// Exchange and routing key as two raw short strings.
    pub(super) route: &'a [u8],
    pub(super) properties: &'a Properties<'a>,
    /// The broker wrote what the headers tell of deaths; otherwise they count for nothing.
    pub(super) deaths: bool,
}

/// What messages that have died tell of it from now on.
#[derive(Debug)]
pub(super) struct Letter {
    /// Their header table.
    table: Table,
    /// All their deaths, the latest first.
    deaths: Vec<Entry>,
    /// The keys they were published with that their headers name.
    pub(super) more_keys: Vec<Vec<u8>>,
}

impl Letter {
    /// `None` when the route is none: then it cannot be moved on.
    pub(super) fn of(dying: &Dying<'_>) -> Option<Self> {
        let (exchange, key) = split_route(dying.route)?;
        let mut table = dying
            .properties
            .headers
            .map(|headers| headers.to_table())
            .unwrap_or_default();
        let mut deaths = if dying.deaths {
            deaths_in(table.as_raw())
        } else {
            Vec::new()
        };
        // A dead letter that was given a key has lost those of its headers.
        let more_keys = match deaths.first() {
            None => carbon_copies(table.as_raw()),
            Some(last) if last.routing_keys.first().is_some_and(|first| first == key) => {
                last.routing_keys.iter().skip(1).cloned().collect()
            }
            Some(_) => Vec::new(),
        };
        note(&mut deaths, dying, |entry| {
            entry.original_expiration = dying.properties.expiration.map(<[u8]>::to_vec);
            entry.exchange = exchange.to_vec();
            let keys = std::iter::once(key.to_vec());
            entry.routing_keys = keys.chain(more_keys.iter().cloned()).collect();
        });
        let reason = dying.death.name();
        for (prefix, always) in [("x-first-death-", !dying.deaths), ("x-last-death-", true)] {
            if always {
                table.insert(format!("{prefix}exchange"), text(exchange));
                table.insert(format!("{prefix}queue"), text(dying.queue.as_bytes()));
                table.insert(format!("{prefix}reason"), text(reason.as_bytes()));
            }
        }
        table.insert(DEATHS, told(&deaths));
        Some(Self {
            table,
            deaths,
            more_keys,
        })
    }

    /// Appends the payload of the content header frame of such a message that died with these
    /// properties. Where it would fit no frame the oldest deaths are left out.
    pub(super) fn write_header(
        &self,
        properties: &Properties<'_>,
        body_size: u64,
        out: &mut Vec<u8>,
    ) {
        let start = out.len();
        let write = |table: &Table, out: &mut Vec<u8>| {
            let told = Properties {
                headers: Some(table.as_raw()),
                expiration: None,
                ..*properties
            };
            out.truncate(start);
            told.encode(body_size, out);
        };
        write(&self.table, out);
        let mut left = self.deaths.as_slice();
        let mut table = None;
        while out.len() - start > HEADER_BYTES_MAX
            && let [fewer @ .., _] = left
            && !fewer.is_empty()
        {
            left = fewer;
            let table = table.get_or_insert_with(|| self.table.clone());
            table.insert(DEATHS, told(left));
            write(table, out);
        }
    }

    /// Whether the message would come back to a queue without anybody having rejected it since it
    /// was there last.
    pub(super) fn goes_in_circles(&self, queue: &str) -> bool {
        let was_there = |entry: &Entry| entry.queue == queue.as_bytes();
        let Some(last) = self.deaths.iter().position(was_there) else {
            return false;
        };
        let since = self.deaths.iter().take(last + 1);
        let rejected = Death::Rejected.name().as_bytes();
        since.into_iter().all(|entry| entry.reason != rejected)
    }
}

/// Counts a death: one more of a kind that is known, or the first one, which `fill` describes.
fn note(deaths: &mut Vec<Entry>, dying: &Dying<'_>, fill: impl FnOnce(&mut Entry)) {
    let (queue, reason) = (dying.queue.as_bytes(), dying.death.name().as_bytes());
    let same = |entry: &Entry| entry.queue == queue && entry.reason == reason;
    if let Some(at) = deaths.iter().position(same) {
        let mut entry = deaths.remove(at);
        entry.count = entry.count.saturating_add(1);
        deaths.insert(0, entry);
        return;
    }
    let mut entry = Entry {
        original_expiration: None,
        count: 1,
        reason: reason.to_vec(),
        queue: queue.to_vec(),
        time: dying.time,
        exchange: Vec::new(),
        routing_keys: Vec::new(),
    };
    fill(&mut entry);
    deaths.insert(0, entry);
}

impl Entry {
    fn value(&self) -> Value {
        let mut table = Table::new();
        if let Some(expiration) = &self.original_expiration {
            table.insert("original-expiration", text(expiration));
        }
        table.insert("count", Value::I64(self.count));
        table.insert("reason", text(&self.reason));
        table.insert("queue", text(&self.queue));
        table.insert("time", Value::Timestamp(self.time));
        table.insert("exchange", text(&self.exchange));
        let keys = self.routing_keys.iter().map(text);
        table.insert("routing-keys", Value::Array(keys.collect()));
        Value::Table(table)
    }

    fn read(table: RawTable<'_>) -> Option<Self> {
        let bytes = |key: &[u8]| Some(table.get(key)?.as_str_bytes()?.to_vec());
        let ValueRef::Timestamp(time) = table.get(b"time")? else {
            return None;
        };
        Some(Self {
            original_expiration: bytes(b"original-expiration"),
            count: table.get(b"count")?.as_integer()?,
            reason: bytes(b"reason")?,
            queue: bytes(b"queue")?,
            time,
            exchange: bytes(b"exchange")?,
            routing_keys: strings(table.get(b"routing-keys")),
        })
    }
}

fn told(deaths: &[Entry]) -> Value {
    Value::Array(deaths.iter().map(Entry::value).collect())
}

fn deaths_in(headers: RawTable<'_>) -> Vec<Entry> {
    let Some(ValueRef::Array(list)) = headers.get(DEATHS.as_bytes()) else {
        return Vec::new();
    };
    let entries = list.iter().filter_map(|item| match item {
        ValueRef::Table(table) => Entry::read(table),
        _ => None,
    });
    entries.collect()
}

/// The routing keys in the header `CC`.
fn carbon_copies(headers: RawTable<'_>) -> Vec<Vec<u8>> {
    strings(headers.get(b"CC"))
}

fn strings(value: Option<ValueRef<'_>>) -> Vec<Vec<u8>> {
    let Some(ValueRef::Array(list)) = value else {
        return Vec::new();
    };
    let strings = list.iter().filter_map(|item| match item {
        ValueRef::LongString(bytes) => Some(bytes.to_vec()),
        _ => None,
    });
    strings.collect()
}

fn text(bytes: impl AsRef<[u8]>) -> Value {
    Value::LongString(bytes.as_ref().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(headers: Option<&Table>, expiration: Option<&[u8]>) -> Vec<u8> {
        let properties = Properties {
            headers: headers.map(Table::as_raw),
            expiration,
            ..Properties::default()
        };
        let mut header = Vec::new();
        properties.encode(5, &mut header);
        header
    }

    /// A dead letter, and its content header.
    struct Died {
        letter: Letter,
        header: Vec<u8>,
    }

    fn die(queue: &str, death: Death, header: &[u8], deaths: bool) -> Died {
        let properties = Properties::decode(header).unwrap();
        let dying = Dying {
            queue,
            death,
            time: 77,
            route: b"\x02ex\x03key",
            properties: &properties,
            deaths,
        };
        let letter = Letter::of(&dying).unwrap();
        let mut header = Vec::new();
        letter.write_header(&properties, 5, &mut header);
        Died { letter, header }
    }

    #[test]
    fn a_death_is_told_in_rabbitmqs_order_and_types() {
        let letter = die("q", Death::Expired, &header(None, Some(b"500")), false);
        let properties = Properties::decode(&letter.header).unwrap();
        assert_eq!(properties.expiration, None);
        let headers = properties.headers.unwrap();
        let Some(ValueRef::Array(list)) = headers.get(b"x-death") else {
            panic!("no deaths")
        };
        let Some(ValueRef::Table(entry)) = list.iter().next() else {
            panic!("no death")
        };
        let keys: Vec<_> = entry.iter().map(|(key, _)| key.to_vec()).collect();
        let keys: Vec<_> = keys
            .iter()
            .map(|key| std::str::from_utf8(key).unwrap())
            .collect();
        let expected = [
            "original-expiration",
            "count",
            "reason",
            "queue",
            "time",
            "exchange",
            "routing-keys",
        ];
        assert_eq!(keys, expected);
        assert_eq!(entry.get(b"count"), Some(ValueRef::I64(1)));
        assert_eq!(entry.get(b"time"), Some(ValueRef::Timestamp(77)));
        let first = headers.get(b"x-first-death-reason");
        assert_eq!(first, Some(ValueRef::LongString(b"expired")));
    }

    #[test]
    fn deaths_of_a_kind_are_counted_and_the_latest_is_the_first() {
        let mut letter = die("a", Death::Expired, &header(None, None), false);
        letter = die("b", Death::Rejected, &letter.header, true);
        letter = die("a", Death::Expired, &letter.header, true);
        let told: Vec<_> = letter
            .letter
            .deaths
            .iter()
            .map(|entry| (entry.queue.as_slice(), entry.count))
            .collect();
        assert_eq!(told, [(&b"a"[..], 2), (b"b", 1)]);
        let headers = Properties::decode(&letter.header).unwrap().headers.unwrap();
        let queue = |key: &[u8]| headers.get(key).and_then(|value| value.as_str_bytes());
        assert_eq!(queue(b"x-first-death-queue"), Some(&b"a"[..]));
        assert_eq!(queue(b"x-last-death-queue"), Some(&b"a"[..]));
    }

    #[test]
    fn what_a_client_says_of_deaths_counts_for_nothing() {
        let mut forged = Table::new();
        forged.insert("x-death", Value::I32(5));
        forged.insert("x-first-death-queue", text("elsewhere"));
        let letter = die("q", Death::MaxLength, &header(Some(&forged), None), false);
        assert_eq!(letter.letter.deaths.len(), 1);
        let headers = Properties::decode(&letter.header).unwrap().headers.unwrap();
        let queue = headers.get(b"x-first-death-queue");
        assert_eq!(queue, Some(ValueRef::LongString(b"q")));
    }

    #[test]
    fn a_circle_is_one_unless_somebody_rejected_in_between() {
        let plain = header(None, None);
        let expired = die("a", Death::Expired, &plain, false);
        assert!(expired.letter.goes_in_circles("a") && !expired.letter.goes_in_circles("b"));
        let rejected = die("b", Death::Rejected, &expired.header, true);
        assert!(!rejected.letter.goes_in_circles("a") && !rejected.letter.goes_in_circles("b"));
        let before = die("first", Death::Rejected, &plain, false);
        let around = die("a", Death::Expired, &before.header, true);
        assert!(around.letter.goes_in_circles("a"));
    }

    #[test]
    fn the_oldest_deaths_are_forgotten_before_a_header_fits_no_frame() {
        let mut letter = die("q0", Death::Expired, &header(None, None), false);
        for number in 1..200 {
            let queue = format!("queue-{number}");
            letter = die(&queue, Death::Expired, &letter.header, true);
        }
        assert!(letter.header.len() <= HEADER_BYTES_MAX);
        let headers = Properties::decode(&letter.header).unwrap().headers.unwrap();
        let deaths = deaths_in(headers);
        assert!(deaths.len() > 10);
        assert_eq!(deaths[0].queue, b"queue-199");
    }
}
