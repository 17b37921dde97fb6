//! A load generator that speaks AMQP to any broker.
