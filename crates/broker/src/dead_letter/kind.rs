//! Dead messages of one kind: what they tell of their death and where they go is found once.

use std::sync::Arc;

use leveret_codec::Properties;
use leveret_queue::Death;

use super::corpses::Corpse;
use super::headers::Letter;
use crate::publish::routes::Route;
use crate::queue::cell::QueueCell;

/// What all that has to do with the death of a message, and where messages go that share it.
pub(super) struct DeathKind {
    death: Death,
    /// The broker wrote what the headers tell of deaths.
    deaths: bool,
    /// Exchange and routing key as two raw short strings.
    route: Vec<u8>,
    headers: Option<Vec<u8>>,
    expiration: Option<Vec<u8>>,
    pub(super) onward: Onward,
}

/// Where they go, and as what.
pub(super) struct Onward {
    /// Exchange and routing key as two raw short strings.
    pub(super) route: Vec<u8>,
    pub(super) letter: Letter,
    /// As it was found; `None` when there is no such exchange.
    pub(super) found: Option<Route>,
    /// Those of its queues that want them.
    pub(super) targets: Vec<Arc<QueueCell>>,
}

impl DeathKind {
    /// The kind of one that died with these properties.
    pub(super) fn of(corpse: &Corpse<'_>, properties: &Properties<'_>, onward: Onward) -> Self {
        Self {
            death: corpse.death,
            deaths: corpse.deaths,
            route: corpse.route.to_vec(),
            headers: properties.headers.map(|table| table.as_bytes().to_vec()),
            expiration: properties.expiration.map(<[u8]>::to_vec),
            onward,
        }
    }

    /// Whether this is another one, and would go the same way. Where that depends on more than the
    /// routing key none does.
    pub(super) fn goes_for(&self, corpse: &Corpse<'_>) -> bool {
        let found = self.onward.found.as_ref();
        let properties = Properties::decode(corpse.header);
        found.is_none_or(Route::stands)
            && properties.is_ok_and(|properties| self.covers(corpse, &properties))
    }

    /// Whether this is another one.
    pub(super) fn covers(&self, corpse: &Corpse<'_>, properties: &Properties<'_>) -> bool {
        let headers = properties.headers.map(|table| table.as_bytes());
        self.death == corpse.death
            && self.deaths == corpse.deaths
            && self.route == corpse.route
            && self.headers.as_deref() == headers
            && self.expiration.as_deref() == properties.expiration
    }
}

impl Onward {
    /// Whether it is good for one message only.
    pub(super) fn is_for_one(&self) -> bool {
        self.found.as_ref().is_some_and(Route::is_for_one)
    }
}
