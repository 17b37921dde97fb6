//! RabbitMQ's client of the HTTP API against the broker whose port is in `API_PORT`: every answer
//! goes through the types of that library.

mod absent;
mod access;
mod clients;
mod cluster;
mod definitions;
mod health;
mod messages;
mod parameters;
mod peer;
mod policies;
mod topology;
mod vhosts;
