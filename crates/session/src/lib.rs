//! One connection's protocol state and what others may write to it.
