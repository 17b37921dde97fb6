//! What durable means: the journal, group commit, recovery.
