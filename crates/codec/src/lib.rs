//! Frames, methods, field tables and content headers of AMQP 0-9-1 as bytes, in both directions.
//!
//! Everything here is a total function over slices: no state, no I/O, and no panic on any input.
//! What a frame means on its channel is the session's business.

#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        reason = "a test may fail loudly"
    )
)]

pub mod content;
pub mod deliver;
pub mod frame;
pub mod method;
mod publish;
mod read;
pub mod reply;
pub mod table;
pub mod value;
mod write;

pub use content::{
    ContentHeader, Properties, decode_header, decode_header_start, delivery_mode, flag,
    has_property,
};
pub use content::{headers, priority, property_flags};
pub use deliver::{Content, DeliverTemplate, GetOk, HEARTBEAT, Tails, ack, basic_return};
pub use deliver::{body_frame_head, content, content_len, get_ok, header_frame, nack};
pub use frame::{FRAME_END, FRAME_MIN_SIZE, FRAME_OVERHEAD, Frame, FrameError, FrameKind};
pub use frame::{PROTOCOL_HEADER, frame, frame_len, method_id};
pub use method::*;
pub use publish::{Ack, Nack, Publish, Reject, decode_ack, decode_nack, decode_publish};
pub use publish::{decode_reject, push_route, split_route};
pub use reply::{HardCode, SoftCode};
pub use table::{EntryPlace, RawArray, RawTable, TABLE_DEPTH_MAX, ValueRef};
pub use value::{Table, Value};
