//! Publishers that wait: for room in a queue that holds more than its share of the memory, or until
//! their virtual host may take more.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use leveret_queue::Reason;
use leveret_session::Publishes;

use crate::broker::Broker;
use crate::channel::open::OpenChannel;
use crate::peer::alarms::Obstacle;
use crate::publish::PAUSE_MS_MAX;
use crate::publish::room::Room;
use crate::publish::routes::Route;
use crate::queue::cell::QueueCell;
use crate::vhost::Vhost;
use crate::vhost::quota::Wait;
use crate::vhost::refused::Outcome;

/// So long a publisher in confirm mode waits before it is refused.
const WAIT_MS: u64 = 2000;
const REASON: &str = "low on memory";

/// Whether a connection waits for room.
#[derive(Default)]
pub(crate) struct RoomOfPublishers {
    waits_for: Option<Awaited>,
    /// It has waited long enough, and is refused until there is room.
    waited: bool,
    /// The client has hung up: nothing waits for anything.
    pub(crate) hung_up: bool,
}

/// What a publisher waits for.
enum Awaited {
    Queue(RoomWait),
    /// Its virtual host has reached a limit.
    Quota,
}

/// A publisher's wait for room in a queue above its share.
struct RoomWait {
    cell: Arc<QueueCell>,
    since_ms: u64,
    /// What had been written to the disk to make room then, bytes.
    written: u64,
    /// Its channel is in confirm mode.
    confirms: bool,
}

impl RoomOfPublishers {
    pub(crate) const fn is_waiting(&self) -> bool {
        self.waits_for.is_some()
    }

    /// What the client has left is read to its end.
    pub(crate) fn hang_up(&mut self) {
        self.hung_up = true;
        self.waits_for = None;
    }

    /// Whether a wait is over, as there is room again or it has lasted long enough.
    pub(crate) fn look(&mut self, broker: &Broker, vhost: &Vhost, now_ms: u64) -> bool {
        let wait = match &mut self.waits_for {
            None => return false,
            Some(Awaited::Quota) => {
                let over = vhost.reached(Wait::GoesOn, now_ms).is_none();
                if over {
                    self.waits_for = None;
                }
                return over;
            }
            Some(Awaited::Queue(wait)) => wait,
        };
        let written = broker.runs_stats().written_bytes;
        if written != wait.written && broker.pager.makes_room() {
            // There will be room.
            (wait.written, wait.since_ms) = (written, now_ms);
        }
        let waited = wait.confirms && now_ms.saturating_sub(wait.since_ms) >= WAIT_MS;
        let over = waited || broker.has_room_again(&wait.cell);
        if over {
            self.waited = waited;
            self.waits_for = None;
        }
        over
    }
}

impl OpenChannel<'_> {
    /// What is known of the room for a batch; nothing when it has to wait for some.
    #[inline]
    pub(crate) fn room_for(&mut self, route: &Route, batch: &Publishes<'_>) -> Option<Room> {
        let room = Room::of(self.broker);
        if room == Room::Plenty {
            return Some(room);
        }
        self.room_in(room, route, batch)
    }

    #[cold]
    fn room_in(&mut self, room: Room, route: &Route, batch: &Publishes<'_>) -> Option<Room> {
        let above = |cell: &&Arc<QueueCell>| {
            let state = cell.lock();
            !cell.is_deleted() && room.is_above_share(&state.queue)
        };
        let waiting = &mut self.shared.room;
        let Some(cell) = route.cells.iter().find(above) else {
            waiting.waited = false;
            // Decided for the whole batch: its publisher may not be told of a part.
            return Some(room.without_shares());
        };
        let confirms = self.state.confirms.is_some();
        if waiting.hung_up {
            return Some(Room::of_impatient(self.broker));
        }
        if confirms && waiting.waited {
            return Some(room);
        }
        if waiting.waits_for.is_none() {
            waiting.waits_for = Some(Awaited::Queue(RoomWait {
                cell: Arc::clone(cell),
                since_ms: self.peer.received_ms.load(Ordering::Relaxed),
                written: self.broker.runs_stats().written_bytes,
                confirms,
            }));
            let account = &self.broker.refused;
            account.note(self.vhost, &cell.name, batch.route, (Outcome::Waits, 1));
        }
        self.block(REASON);
        None
    }

    fn block(&mut self, reason: &str) {
        let mut outlet = self.peer.outlet.lock();
        self.peer
            .block(Obstacle::Room, reason, &mut outlet, self.effects);
    }

    /// Whether the virtual host has reached one of its limits, so that its publishers wait.
    #[cold]
    pub(crate) fn waits_for_quota(&mut self, batch: &Publishes<'_>) -> bool {
        let room = &mut self.shared.room;
        if room.hung_up {
            return false;
        }
        let now_ms = self.peer.received_ms.load(Ordering::Relaxed);
        let Some(reached) = self.vhost.reached(Wait::Begins, now_ms) else {
            return false;
        };
        room.waits_for = Some(Awaited::Quota);
        let outcome = Outcome::Limited(reached.limit);
        let account = &self.broker.refused;
        account.note(self.vhost, "", batch.route, (outcome, 1));
        self.block(&reached.text(self.vhost));
        true
    }

    /// Takes note of what the queues of a route refused in this turn.
    #[cold]
    pub(crate) fn note_refused(&mut self, route: &[u8]) {
        let refused = &mut self.effects.refused;
        let by_memory = |(_, reason, _): &(_, Reason, _)| *reason == Reason::Memory;
        if refused.iter().any(by_memory) {
            // The publisher is told, and slowed down.
            self.effects.pause_ms = PAUSE_MS_MAX;
        }
        self.broker.refused.note_all(self.vhost, route, refused);
    }
}
