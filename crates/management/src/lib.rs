//! The HTTP API and the metrics endpoint: RabbitMQ's management API over the broker.
//!
//! Endpoints are plain functions from a request to an answer, listed in one table; they run on
//! threads of their own, so that they may wait for locks and for the disk. Nothing here is on the
//! way of a message.

mod admin;
mod amqp;
mod app;
mod audit;
mod backup;
mod binding;
mod body;
mod budget;
mod call;
mod caller;
mod change;
mod channel;
mod connection;
mod consumer;
mod definitions;
mod detailed;
mod durable;
mod endpoint;
mod exchange;
mod exposition;
mod feature;
mod field;
mod figures;
mod health;
mod history;
mod ignored;
mod limit;
mod list;
mod listen;
mod message;
mod metrics;
mod node;
mod operate;
mod overview;
mod parameter;
mod peek;
mod permission;
mod policy;
mod problem;
mod queue;
mod reply;
mod rights;
mod routes;
mod sampler;
mod server;
mod stream;
mod turns;
mod user;
mod vhost;
mod walk;

pub use app::{App, BackupRefusal, Host, HttpSettings, Listener, Vitals};
pub use caller::Clearance;
pub use definitions::{declared, import_definitions, message_to_json};
pub use endpoint::{Endpoint, Verb};
pub use listen::listen;
pub use metrics::metrics_router;
pub use routes::ENDPOINTS;
pub use server::{router, sample};
