//! Dead messages, copied out of their queue into one buffer for all of a group.

use std::sync::Arc;

use leveret_queue::{Dead, Death, Rank};
use leveret_record::{Blob, Body, Memory};

use crate::publish::PERSISTENT;
use crate::publish::space::record_bytes;
use crate::queue::copied::is_shared;

/// Dead messages of one queue, in the order they died; kept between groups for their memory.
#[derive(Default)]
pub(super) struct Corpses {
    /// Route, content header and body of each, unless that is shared.
    bytes: Vec<u8>,
    places: Vec<Place>,
    /// Of bodies that are shared.
    shared_bytes: usize,
}

/// One of them; its bytes follow those of the one before.
struct Place {
    death: Death,
    rank: Rank,
    stored: bool,
    deaths: bool,
    start: usize,
    route_len: usize,
    header_len: usize,
    end: usize,
    blob: Option<Arc<Blob>>,
}

/// A dead message, copied out of its queue.
#[derive(Clone, Copy)]
pub(super) struct Corpse<'a> {
    pub(super) death: Death,
    /// Its place in the queue it died in.
    pub(super) rank: Rank,
    /// The store knows it.
    pub(super) stored: bool,
    /// The broker wrote what its headers tell of deaths.
    pub(super) deaths: bool,
    /// Exchange and routing key as two raw short strings.
    pub(super) route: &'a [u8],
    /// Payload of its content header frame.
    pub(super) header: &'a [u8],
    pub(super) body: &'a [u8],
    /// The body, if it is shared.
    pub(super) blob: Option<&'a Arc<Blob>>,
}

/// Some that died one after the other.
#[derive(Clone, Copy)]
pub(super) struct CorpseRun<'a> {
    bytes: &'a [u8],
    places: &'a [Place],
}

impl Corpses {
    /// Memory that is kept from group to group, bytes.
    const KEEP_BYTES: usize = 1 << 20;

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(Self::KEEP_BYTES);
        self.places.clear();
        self.shared_bytes = 0;
    }

    /// So many are about to come.
    pub(super) fn reserve(&mut self, count: usize) {
        self.places.reserve(count);
    }

    pub(super) fn push(&mut self, dead: &Dead<'_>) {
        let record = dead.record;
        let (body, blob) = match record.body {
            Body::Inline(body) => (body, None),
            Body::Blob { .. } => ([].as_slice(), dead.blob.cloned()),
        };
        if self.places.is_empty() {
            // Most are like the first one.
            let one = record.route.len() + record.header.len() + body.len();
            let all = one.saturating_mul(self.places.capacity());
            self.bytes.reserve(all.min(Self::KEEP_BYTES));
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(record.route);
        self.bytes.extend_from_slice(record.header);
        self.bytes.extend_from_slice(body);
        self.shared_bytes += blob.as_ref().map_or(0, |blob| blob.len());
        self.places.push(Place {
            death: dead.death,
            rank: Rank {
                level: dead.unacked.level,
                seq: dead.unacked.seq,
            },
            stored: dead.unacked.persistent,
            deaths: record.marks.deaths(),
            start,
            route_len: record.route.len(),
            header_len: record.header.len(),
            end: self.bytes.len(),
            blob,
        });
    }

    pub(super) const fn len(&self) -> usize {
        self.places.len()
    }

    /// Bytes that one copy of each takes, also of those whose body is shared.
    pub(super) const fn recorded_bytes(&self) -> usize {
        self.bytes.len() + self.shared_bytes
    }

    pub(super) fn all(&self) -> CorpseRun<'_> {
        CorpseRun {
            bytes: &self.bytes,
            places: &self.places,
        }
    }
}

impl<'a> CorpseRun<'a> {
    pub(super) const fn len(self) -> usize {
        self.places.len()
    }

    pub(super) fn first(self) -> Option<Corpse<'a>> {
        self.iter().next()
    }

    #[inline]
    pub(super) fn iter(self) -> impl Iterator<Item = Corpse<'a>> {
        self.places.iter().map(move |place| place.of(self.bytes))
    }

    /// The first so many.
    pub(super) fn take(self, count: usize) -> Self {
        let places = self.places.get(..count).unwrap_or(self.places);
        Self { places, ..self }
    }

    /// All but the first so many.
    pub(super) fn skip(self, count: usize) -> Self {
        let places = self.places.get(count..).unwrap_or_default();
        Self { places, ..self }
    }

    pub(super) fn body_bytes(self) -> u64 {
        self.iter().map(|corpse| corpse.body_bytes()).sum()
    }

    /// What copies of them may take of the disk, about: there are seldom more than a few.
    pub(super) fn claimed_bytes(self) -> usize {
        self.iter().map(|corpse| corpse.claimed_bytes()).sum()
    }
}

impl Place {
    #[inline]
    fn of<'a>(&'a self, bytes: &'a [u8]) -> Corpse<'a> {
        let bytes = bytes.get(self.start..self.end).unwrap_or_default();
        let (route, rest) = bytes.split_at_checked(self.route_len).unwrap_or_default();
        let (header, body) = rest.split_at_checked(self.header_len).unwrap_or_default();
        Corpse {
            death: self.death,
            rank: self.rank,
            stored: self.stored,
            deaths: self.deaths,
            route,
            header,
            body: self.blob.as_ref().map_or(body, |blob| &***blob),
            blob: self.blob.as_ref(),
        }
    }
}

impl Corpse<'_> {
    pub(super) fn is_persistent(&self) -> bool {
        leveret_codec::delivery_mode(self.header) == PERSISTENT
    }

    pub(super) const fn body_bytes(&self) -> u64 {
        self.body.len() as u64
    }

    /// Whether this one died like another, with the same header: its copies have the same, too.
    #[inline]
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.death == other.death
            && self.deaths == other.deaths
            && self.route == other.route
            && self.header == other.header
    }

    /// The body to be shared, if copies of it are kept outside the chunks.
    pub(super) fn shared(&self, by_many: bool, memory: &Memory) -> Option<Arc<Blob>> {
        match self.blob {
            Some(blob) => Some(Arc::clone(blob)),
            None if is_shared(self.body.len(), by_many) => Some(memory.share(self.body.to_vec())),
            None => None,
        }
    }

    fn claimed_bytes(&self) -> usize {
        const HEADERS: usize = 1024;
        const TARGETS: usize = 16;
        if !self.is_persistent() {
            return 0;
        }
        let bytes = self.header.len() + self.body.len() + HEADERS;
        record_bytes(self.route.len(), TARGETS) + bytes
    }
}
