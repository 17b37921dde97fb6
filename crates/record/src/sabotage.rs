//! Deliberate faults: each breaks one rule that queues and the broker live by, and the simulation
//! must notice.

/// One broken rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sabotage {
    /// A consumer whose connection has no room is not remembered.
    LoseWakeup,
    /// Bytes for a connection are left there and nobody is told.
    LoseFlush,
    /// A delivery that comes back goes behind those that came back before.
    RequeueLast,
    /// A settled delivery gives its consumer no credit back.
    KeepCredit,
    /// A delivery that comes back is not marked as delivered.
    ForgetDelivery,
    /// A dead message is settled, and the journal hears nothing of its copies.
    LoseCopy,
    /// A dead message's copies are in the journal, and it is not settled there.
    KeepDead,
    /// A copy is served before its group was submitted.
    ServeEarly,
    /// The deadline of what comes back is not looked for.
    ForgetDeadline,
    /// A message may fail once more than its queue allows.
    ExceedLimit,
    /// The highest level that has messages is passed over.
    SkipLane,
    /// What was not settled in time is looked for once, and not again for what came later.
    ForgetLease,
    /// What was not settled in time counts as a failed attempt, whatever its queue says.
    FailOverdue,
    /// A queue is durable before the lanes of its priorities are.
    LateLanes,
}

#[cfg(feature = "sabotage")]
thread_local! {
    static BROKEN: std::cell::Cell<Option<Sabotage>> = const { std::cell::Cell::new(None) };
}

/// Breaks a rule on this thread from now on, or none.
#[cfg(feature = "sabotage")]
pub fn sabotage(rule: Option<Sabotage>) {
    BROKEN.set(rule);
}

/// Whether this rule is broken; never, outside the tests that ask for it.
#[cfg(feature = "sabotage")]
#[must_use]
pub fn breaks(rule: Sabotage) -> bool {
    BROKEN.get() == Some(rule)
}

/// Whether this rule is broken; never, outside the tests that ask for it.
#[cfg(not(feature = "sabotage"))]
#[must_use]
#[inline]
pub const fn breaks(_: Sabotage) -> bool {
    false
}
