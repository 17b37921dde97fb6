//! Dead messages of one kind: what they tell of their death and where they go is found once.

use std::sync::Arc;

use leveret_codec::Properties;
use leveret_queue::Death;

use super::Corpse;
use super::headers::Letter;
use crate::publish::routes::Route;
use crate::queue::cell::QueueCell;

/// What all that has to do with the death of a message, and where messages go that share it.
pub(super) struct Kind {
    death: Death,
    /// The broker wrote what the headers tell of deaths.
    deaths: bool,
    /// Exchange and routing key as two raw short strings.
    route: Vec<u8>,
    headers: Option<Vec<u8>>,
    expiration: Option<Vec<u8>>,
    /// `None`: they go nowhere.
    pub(super) onward: Option<Onward>,
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

impl Kind {
    /// The kind of one that died with these properties.
    pub(super) fn of(corpse: &Corpse, properties: &Properties<'_>, onward: Option<Onward>) -> Self {
        Self {
            death: corpse.death,
            deaths: corpse.deaths,
            route: corpse.copied.route.clone(),
            headers: properties.headers.map(|table| table.as_bytes().to_vec()),
            expiration: properties.expiration.map(<[u8]>::to_vec),
            onward,
        }
    }

    /// Whether this is another one, and would go the same way.
    pub(super) fn covers(&self, corpse: &Corpse, properties: &Properties<'_>) -> bool {
        let headers = properties.headers.map(|table| table.as_bytes());
        self.death == corpse.death
            && self.deaths == corpse.deaths
            && self.route == corpse.copied.route
            && self.headers.as_deref() == headers
            && self.expiration.as_deref() == properties.expiration
            && self.onward.as_ref().is_none_or(Onward::stands)
    }
}

impl Onward {
    /// A route that depends on more than the routing key never does.
    fn stands(&self) -> bool {
        self.found.as_ref().is_none_or(Route::stands)
    }
}
