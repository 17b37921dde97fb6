//! The byte layout of one message in a chunk, a run or the journal.
