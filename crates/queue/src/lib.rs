//! One queue: order, consumers, credit, limits.
