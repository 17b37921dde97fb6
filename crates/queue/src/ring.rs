//! Whose turn it is among consumers of one priority.

/// Where a consumer stands: its neighbours in its ring, by their numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seat {
    pub(crate) next: u32,
    pub(crate) previous: u32,
}

/// Finds consumers' seats by number.
pub(crate) trait Seats {
    /// The seat of a consumer that exists.
    fn seat_mut(&mut self, number: u32) -> Option<&mut Seat>;
}

/// Consumers of one priority that have credit, as a ring linked through them: taking any of them
/// out costs the same however many there are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ConsumerRing {
    pub(crate) priority: i32,
    /// Whose turn it is, if there are any.
    head: u32,
    pub(crate) len: u32,
}

impl ConsumerRing {
    pub(crate) const fn new(priority: i32) -> Self {
        Self {
            priority,
            head: 0,
            len: 0,
        }
    }

    #[inline]
    pub(crate) fn first(&self) -> Option<u32> {
        (self.len > 0).then_some(self.head)
    }

    /// Goes to the end: it is the last one's turn after all others.
    pub(crate) fn push(&mut self, number: u32, seats: &mut impl Seats) {
        if self.len == 0 {
            self.head = number;
        }
        let last = seats
            .seat_mut(self.head)
            .filter(|_| self.len > 0)
            .map(|first| std::mem::replace(&mut first.previous, number));
        let seat = Seat {
            next: self.head,
            previous: last.unwrap_or(number),
        };
        if let Some(last) = last.and_then(|last| seats.seat_mut(last)) {
            last.next = number;
        }
        if let Some(own) = seats.seat_mut(number) {
            *own = seat;
        }
        self.len += 1;
    }

    /// Takes out a consumer that is in it.
    pub(crate) fn remove(&mut self, number: u32, seats: &mut impl Seats) {
        let Some(&mut Seat { next, previous }) = seats.seat_mut(number) else {
            return;
        };
        if let Some(seat) = seats.seat_mut(previous) {
            seat.next = next;
        }
        if let Some(seat) = seats.seat_mut(next) {
            seat.previous = previous;
        }
        if self.head == number {
            self.head = next;
        }
        self.len -= 1;
    }

    /// The first one has had its turn.
    #[inline]
    pub(crate) const fn rotate(&mut self, first: Seat) {
        self.head = first.next;
    }
}
