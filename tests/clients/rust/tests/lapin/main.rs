//! The lapin client library against the broker at `AMQP_URL`.

mod delivery;
mod failures;
mod peer;
mod publishing;
mod topology;
mod tutorials;
