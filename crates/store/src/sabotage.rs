//! Deliberate faults: each breaks one rule the journal lives by, and a crash test must notice.

use crate::JournalConfig;

/// One broken rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(
    not(feature = "sabotage"),
    expect(unreachable_pub, reason = "public only for the tests that ask for it")
)]
pub enum StoreSabotage {
    /// Nothing is broken.
    #[cfg(feature = "sabotage")]
    None,
    /// A commit is announced before its frame is written.
    WatermarkFirst,
    /// A frame is written and announced, but not synced.
    SkipFrameSync,
    /// The next segment is used before the seal that points to it is synced.
    SkipSeal,
    /// A dead segment is reused without waiting for checkpoints.
    FreeEarly,
    /// A dead segment is reused after one checkpoint: the older one still needs it.
    FreeAfterOne,
    /// The tail that may not be on the disk is served without being written again.
    SkipTailRewrite,
    /// A checkpoint is believed to be written without a sync.
    SkipCheckpointSync,
    /// The checkpoint in use is overwritten instead of the other one.
    OneCheckpointFile,
    /// A frame is accepted if its header is, whatever its records are.
    TrustBody,
    /// A record is accepted whatever its checksum says.
    TrustRecords,
    /// The chain from frame to frame is not followed.
    IgnoreChain,
    /// A settlement that comes before its message is forgotten.
    ForgetEarly,
    /// A message with several targets is elided when one is settled.
    ElideMany,
    /// Messages are copied out of a segment whether they live or not.
    CopyDead,
    /// A checkpoint leaves delivery counts out.
    ForgetReturns,
    /// Delivery counts of messages that have gone are kept.
    KeepCounts,
    /// A bad frame is the end of the journal, whatever comes after it.
    TruncateAtRot,
    /// A deleted lane takes messages that were on their way.
    ReviveLanes,
    /// A segment that a backup has another name for is written again.
    ReuseLinked,
    /// What an atomic group settles is written in a frame before the one with its messages.
    SettleBeforeCopy,
    /// What an atomic group settles is written in a frame after the one with its messages.
    CopyBeforeSettle,
    /// A checkpoint leaves moved chunks out.
    ForgetMoved,
    /// A chunk is recorded as moved before its file is synced; by whoever writes it.
    #[cfg(feature = "sabotage")]
    MoveBeforeSync,
    /// A file is removed when all its messages are settled, be that durable or not; by whoever has
    /// it.
    #[cfg(feature = "sabotage")]
    RemoveRunsEarly,
    /// The place of a chunk that was written anew is free before that is recorded; by whoever has
    /// it.
    #[cfg(feature = "sabotage")]
    FreeRewritten,
    /// A chunk that was written anew is recorded with messages that were settled before, and are
    /// not there; by whoever has it.
    #[cfg(feature = "sabotage")]
    MoveSettled,
}

impl JournalConfig {
    /// Whether this rule is broken; never, outside the tests that ask for it.
    #[cfg(feature = "sabotage")]
    pub(crate) fn breaks(&self, rule: StoreSabotage) -> bool {
        self.sabotage == rule
    }

    /// Whether this rule is broken; never, outside the tests that ask for it.
    #[cfg(not(feature = "sabotage"))]
    #[expect(
        clippy::unused_self,
        reason = "the same call with and without the feature"
    )]
    pub(crate) const fn breaks(&self, _rule: StoreSabotage) -> bool {
        false
    }
}
