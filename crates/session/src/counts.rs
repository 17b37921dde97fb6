//! What a channel was handed, as it is counted.

use std::ops::AddAssign;

/// Messages handed to a channel since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeliveryCounts {
    /// To consumers that acknowledge.
    pub delivered: u64,
    /// To consumers that do not acknowledge.
    pub delivered_no_ack: u64,
    /// Fetched with `basic.get`, to be acknowledged.
    pub got: u64,
    /// Fetched with `basic.get`, not to be acknowledged.
    pub got_no_ack: u64,
    /// Those of all these that had been delivered before.
    pub redelivered: u64,
    /// Those of all these that were taken back, as they were not settled in time.
    pub timed_out: u64,
    /// Those that were settled after that, in vain.
    pub late: u64,
}

impl AddAssign for DeliveryCounts {
    fn add_assign(&mut self, other: Self) {
        self.delivered += other.delivered;
        self.delivered_no_ack += other.delivered_no_ack;
        self.got += other.got;
        self.got_no_ack += other.got_no_ack;
        self.redelivered += other.redelivered;
        self.timed_out += other.timed_out;
        self.late += other.late;
    }
}
