//! A load generator that speaks AMQP to any broker, and the floors it is compared with.
//!
//! It knows brokers only over the wire and by their process id.

pub mod brokers;
pub mod builds;
pub mod cleanup;
pub mod compare;
pub mod connection;
pub mod consumer;
pub mod deaths;
pub mod deep;
pub mod durable;
pub mod floor;
pub mod management;
pub mod message;
pub mod one_in_flight;
pub mod pairs;
pub mod perf_test;
pub mod process;
pub mod progress;
pub mod publish_only;
pub mod publisher;
pub mod report;
pub mod resources;
pub mod scenario;
pub mod syncs;
pub mod traffic;
pub mod unpaced;
pub mod wire;
