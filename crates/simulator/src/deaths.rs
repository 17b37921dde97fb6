//! What a dead letter's headers have to say of its deaths, by RabbitMQ's rules.

use std::fmt;

use leveret_broker::Death;
use leveret_codec::{Properties, RawTable, ValueRef};

/// Queues of a world times reasons to die.
const KINDS_MAX: usize = 24;
/// All headers of a dead letter, sorted.
const HEADERS: [&str; 7] = [
    "x-death",
    "x-first-death-exchange",
    "x-first-death-queue",
    "x-first-death-reason",
    "x-last-death-exchange",
    "x-last-death-queue",
    "x-last-death-reason",
];

/// A queue and a reason.
type Kind = (u8, Death);

/// The deaths of one copy of a message: each kind with how often, the latest first.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Deaths {
    kinds: [Option<(Kind, u16)>; KINDS_MAX],
    first: Option<Kind>,
}

impl Deaths {
    pub(crate) const fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    fn iter(&self) -> impl Iterator<Item = (Kind, u16)> {
        self.kinds.iter().map_while(|kind| *kind)
    }

    /// With one more death.
    pub(crate) fn and(&self, queue: u8, death: Death) -> Self {
        let kind = (queue, death);
        let count = self.iter().find(|(other, _)| *other == kind);
        let count = 1 + count.map_or(0, |(_, count)| count);
        let others = self.iter().filter(|(other, _)| *other != kind);
        let mut next = Self {
            first: self.first.or(Some(kind)),
            ..Self::default()
        };
        let all = [(kind, count)].into_iter().chain(others);
        for (place, one) in next.kinds.iter_mut().zip(all) {
            *place = Some(one);
        }
        next
    }

    /// Whether it was in that queue already, and nobody has rejected it since.
    pub(crate) fn lead_back_to(&self, queue: u8) -> bool {
        let Some(at) = self.iter().position(|((of, _), _)| of == queue) else {
            return false;
        };
        let mut since = self.iter().take(at + 1);
        since.all(|((_, death), _)| death != Death::Rejected)
    }

    /// Reads them from a message's headers.
    ///
    /// # Errors
    /// What no broker may write.
    pub(crate) fn of(properties: &Properties<'_>) -> Result<Self, String> {
        let Some(headers) = properties.headers else {
            return Ok(Self::default());
        };
        let mut keys: Vec<_> = headers
            .iter()
            .map(|(key, _)| String::from_utf8_lossy(key))
            .collect();
        keys.sort_unstable();
        if keys != HEADERS {
            return Err(format!("a dead letter with the headers {keys:?}"));
        }
        let Some(ValueRef::Array(list)) = headers.get(b"x-death") else {
            return Err("x-death is no list".into());
        };
        let mut deaths = Self {
            first: Some(kind(headers, "x-first-death-")?),
            ..Self::default()
        };
        for (place, entry) in deaths.kinds.iter_mut().zip(list.iter()) {
            let ValueRef::Table(entry) = entry else {
                return Err("a death that is no table".into());
            };
            let count = entry.get(b"count").and_then(|count| count.as_integer());
            let count = count.and_then(|count| u16::try_from(count).ok());
            *place = Some((kind(entry, "")?, count.ok_or("a death without its count")?));
        }
        let last = kind(headers, "x-last-death-")?;
        match deaths.iter().next() {
            Some((latest, _)) if latest == last => Ok(deaths),
            _ => Err(format!("the last death is {last:?} of {deaths:?}")),
        }
    }
}

impl fmt::Debug for Deaths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("deaths[")?;
        for ((queue, death), count) in self.iter() {
            write!(f, " q{queue} {} {count}", death.name())?;
        }
        f.write_str(" ]")
    }
}

fn kind(table: RawTable<'_>, prefix: &str) -> Result<Kind, String> {
    let text = |key: &str| {
        let value = table.get(format!("{prefix}{key}").as_bytes())?;
        String::from_utf8(value.as_str_bytes()?.to_vec()).ok()
    };
    let queue = text("queue").and_then(|name| name.strip_prefix('q')?.parse().ok());
    let reason = text("reason");
    let death = Death::ALL
        .into_iter()
        .find(|death| Some(death.name()) == reason.as_deref());
    let kind = queue.zip(death);
    kind.ok_or_else(|| format!("{prefix}: no queue or no reason of this world"))
}
