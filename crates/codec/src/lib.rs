//! Frames, methods and field tables of AMQP 0-9-1 as bytes.
