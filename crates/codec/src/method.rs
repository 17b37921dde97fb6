//! Every method of AMQP 0-9-1 and of RabbitMQ's extensions as a struct, from one table.
//!
//! Fields have the specification's names and order; reserved ones are skipped when read and written
//! as zero. Made for methods that come once per channel, queue or consumer rather than per message.

use crate::frame::{FrameError, method_id};
use crate::read::PayloadReader;
use crate::table::RawTable;
use crate::write::Writer;

/// The Rust type of a domain.
macro_rules! domain {
    (bit) => { bool };
    (octet) => { u8 };
    (short) => { u16 };
    (long) => { u32 };
    (longlong) => { u64 };
    (shortstr) => { &'a [u8] };
    (longstr) => { &'a [u8] };
    (table) => { RawTable<'a> };
}

/// One line a method: ids, name, struct, reserved fields in front, fields, reserved fields behind.
macro_rules! methods {
    ($($class:literal $id:literal $name:literal $Method:ident $(<$a:lifetime>)?
       [$($front:ident)*] { $($field:ident: $domain:ident),* } [$($behind:ident)*])*) => {
        $(
            #[doc = concat!("`", $name, "`")]
            #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
            #[allow(missing_docs, reason = "the fields are the specification's")]
            pub struct $Method $(<$a>)? {
                $(pub $field: domain!($domain),)*
            }
        )*

        /// Any method.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Method<'a> {
            $(#[doc = concat!("`", $name, "`")] $Method($Method $(<$a>)?),)*
        }

        impl<'a> Method<'a> {
            /// Decodes the payload of a method frame; bytes behind the last argument are ignored.
            pub fn decode(payload: &'a [u8]) -> Result<Self, FrameError> {
                let mut reader = PayloadReader::new(payload.get(4..).unwrap_or_default());
                match method_id(payload)? {
                    $(($class, $id) => {
                        $(reader.$front()?;)*
                        Ok(Self::$Method($Method { $($field: reader.$domain()?,)* }))
                    })*
                    (class, method) => Err(FrameError::UnknownMethod { class, method }),
                }
            }

            /// The class and method id.
            #[must_use]
            pub const fn id(&self) -> (u16, u16) {
                match self {
                    $(Self::$Method(_) => ($class, $id),)*
                }
            }

            /// The name as the specification has it, such as `queue.declare`.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Self::$Method(_) => $name,)*
                }
            }

            /// Appends the whole method frame. A short string over 255 bytes is cut.
            pub fn encode(&self, channel: u16, out: &mut Vec<u8>) {
                let mut writer = Writer::method(out, channel, self.id());
                match *self {
                    $(Self::$Method($Method { $($field),* }) => {
                        $(writer.$front(Default::default());)*
                        $(writer.$domain($field);)*
                        $(writer.$behind(Default::default());)*
                    })*
                }
                writer.end();
            }
        }

        $(
            impl<'a> From<$Method $(<$a>)?> for Method<'a> {
                fn from(method: $Method $(<$a>)?) -> Self {
                    Self::$Method(method)
                }
            }
        )*
    };
}

methods! {
    10 10 "connection.start" ConnectionStart<'a> [] {
        version_major: octet, version_minor: octet, server_properties: table,
        mechanisms: longstr, locales: longstr
    } []
    10 11 "connection.start-ok" ConnectionStartOk<'a> [] {
        client_properties: table, mechanism: shortstr, response: longstr, locale: shortstr
    } []
    10 20 "connection.secure" ConnectionSecure<'a> [] { challenge: longstr } []
    10 21 "connection.secure-ok" ConnectionSecureOk<'a> [] { response: longstr } []
    10 30 "connection.tune" ConnectionTune [] {
        channel_max: short, frame_max: long, heartbeat: short
    } []
    10 31 "connection.tune-ok" ConnectionTuneOk [] {
        channel_max: short, frame_max: long, heartbeat: short
    } []
    10 40 "connection.open" ConnectionOpen<'a> [] { virtual_host: shortstr } [shortstr bit]
    10 41 "connection.open-ok" ConnectionOpenOk [] {} [shortstr]
    10 50 "connection.close" ConnectionClose<'a> [] {
        reply_code: short, reply_text: shortstr, class_id: short, method_id: short
    } []
    10 51 "connection.close-ok" ConnectionCloseOk [] {} []
    10 60 "connection.blocked" ConnectionBlocked<'a> [] { reason: shortstr } []
    10 61 "connection.unblocked" ConnectionUnblocked [] {} []
    10 70 "connection.update-secret" ConnectionUpdateSecret<'a> [] {
        new_secret: longstr, reason: shortstr
    } []
    10 71 "connection.update-secret-ok" ConnectionUpdateSecretOk [] {} []

    20 10 "channel.open" ChannelOpen [] {} [shortstr]
    20 11 "channel.open-ok" ChannelOpenOk [] {} [longstr]
    20 20 "channel.flow" ChannelFlow [] { active: bit } []
    20 21 "channel.flow-ok" ChannelFlowOk [] { active: bit } []
    20 40 "channel.close" ChannelClose<'a> [] {
        reply_code: short, reply_text: shortstr, class_id: short, method_id: short
    } []
    20 41 "channel.close-ok" ChannelCloseOk [] {} []

    30 10 "access.request" AccessRequest<'a> [] {
        realm: shortstr, exclusive: bit, passive: bit, active: bit, write: bit, read: bit
    } []
    30 11 "access.request-ok" AccessRequestOk [] { ticket: short } []

    40 10 "exchange.declare" ExchangeDeclare<'a> [short] {
        exchange: shortstr, kind: shortstr, passive: bit, durable: bit, auto_delete: bit,
        internal: bit, nowait: bit, arguments: table
    } []
    40 11 "exchange.declare-ok" ExchangeDeclareOk [] {} []
    40 20 "exchange.delete" ExchangeDelete<'a> [short] {
        exchange: shortstr, if_unused: bit, nowait: bit
    } []
    40 21 "exchange.delete-ok" ExchangeDeleteOk [] {} []
    40 30 "exchange.bind" ExchangeBind<'a> [short] {
        destination: shortstr, source: shortstr, routing_key: shortstr, nowait: bit,
        arguments: table
    } []
    40 31 "exchange.bind-ok" ExchangeBindOk [] {} []
    40 40 "exchange.unbind" ExchangeUnbind<'a> [short] {
        destination: shortstr, source: shortstr, routing_key: shortstr, nowait: bit,
        arguments: table
    } []
    40 51 "exchange.unbind-ok" ExchangeUnbindOk [] {} []

    50 10 "queue.declare" QueueDeclare<'a> [short] {
        queue: shortstr, passive: bit, durable: bit, exclusive: bit, auto_delete: bit,
        nowait: bit, arguments: table
    } []
    50 11 "queue.declare-ok" QueueDeclareOk<'a> [] {
        queue: shortstr, message_count: long, consumer_count: long
    } []
    50 20 "queue.bind" QueueBind<'a> [short] {
        queue: shortstr, exchange: shortstr, routing_key: shortstr, nowait: bit, arguments: table
    } []
    50 21 "queue.bind-ok" QueueBindOk [] {} []
    50 30 "queue.purge" QueuePurge<'a> [short] { queue: shortstr, nowait: bit } []
    50 31 "queue.purge-ok" QueuePurgeOk [] { message_count: long } []
    50 40 "queue.delete" QueueDelete<'a> [short] {
        queue: shortstr, if_unused: bit, if_empty: bit, nowait: bit
    } []
    50 41 "queue.delete-ok" QueueDeleteOk [] { message_count: long } []
    50 50 "queue.unbind" QueueUnbind<'a> [short] {
        queue: shortstr, exchange: shortstr, routing_key: shortstr, arguments: table
    } []
    50 51 "queue.unbind-ok" QueueUnbindOk [] {} []

    60 10 "basic.qos" BasicQos [] { prefetch_size: long, prefetch_count: short, global: bit } []
    60 11 "basic.qos-ok" BasicQosOk [] {} []
    60 20 "basic.consume" BasicConsume<'a> [short] {
        queue: shortstr, consumer_tag: shortstr, no_local: bit, no_ack: bit, exclusive: bit,
        nowait: bit, arguments: table
    } []
    60 21 "basic.consume-ok" BasicConsumeOk<'a> [] { consumer_tag: shortstr } []
    60 30 "basic.cancel" BasicCancel<'a> [] { consumer_tag: shortstr, nowait: bit } []
    60 31 "basic.cancel-ok" BasicCancelOk<'a> [] { consumer_tag: shortstr } []
    60 40 "basic.publish" BasicPublish<'a> [short] {
        exchange: shortstr, routing_key: shortstr, mandatory: bit, immediate: bit
    } []
    60 50 "basic.return" BasicReturn<'a> [] {
        reply_code: short, reply_text: shortstr, exchange: shortstr, routing_key: shortstr
    } []
    60 60 "basic.deliver" BasicDeliver<'a> [] {
        consumer_tag: shortstr, delivery_tag: longlong, redelivered: bit, exchange: shortstr,
        routing_key: shortstr
    } []
    60 70 "basic.get" BasicGet<'a> [short] { queue: shortstr, no_ack: bit } []
    60 71 "basic.get-ok" BasicGetOk<'a> [] {
        delivery_tag: longlong, redelivered: bit, exchange: shortstr, routing_key: shortstr,
        message_count: long
    } []
    60 72 "basic.get-empty" BasicGetEmpty [] {} [shortstr]
    60 80 "basic.ack" BasicAck [] { delivery_tag: longlong, multiple: bit } []
    60 90 "basic.reject" BasicReject [] { delivery_tag: longlong, requeue: bit } []
    60 100 "basic.recover-async" BasicRecoverAsync [] { requeue: bit } []
    60 110 "basic.recover" BasicRecover [] { requeue: bit } []
    60 111 "basic.recover-ok" BasicRecoverOk [] {} []
    60 120 "basic.nack" BasicNack [] { delivery_tag: longlong, multiple: bit, requeue: bit } []

    85 10 "confirm.select" ConfirmSelect [] { nowait: bit } []
    85 11 "confirm.select-ok" ConfirmSelectOk [] {} []

    90 10 "tx.select" TxSelect [] {} []
    90 11 "tx.select-ok" TxSelectOk [] {} []
    90 20 "tx.commit" TxCommit [] {} []
    90 21 "tx.commit-ok" TxCommitOk [] {} []
    90 30 "tx.rollback" TxRollback [] {} []
    90 31 "tx.rollback-ok" TxRollbackOk [] {} []
}

impl Method<'_> {
    /// Whether a content header and body follow the method.
    #[must_use]
    pub const fn has_content(&self) -> bool {
        matches!(
            self,
            Self::BasicPublish(_)
                | Self::BasicReturn(_)
                | Self::BasicDeliver(_)
                | Self::BasicGetOk(_)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded<'a>(method: impl Into<Method<'a>>) -> Vec<u8> {
        let mut out = Vec::new();
        method.into().encode(0, &mut out);
        out
    }

    /// Between the frame's head and its end.
    fn payload<'a>(method: impl Into<Method<'a>>) -> Vec<u8> {
        let frame = encoded(method);
        frame[7..frame.len() - 1].to_vec()
    }

    #[test]
    fn replies_that_strict_decoders_catch_have_their_reserved_fields() {
        assert_eq!(payload(ChannelOpenOk {}), [0, 20, 0, 11, 0, 0, 0, 0]);
        assert_eq!(payload(ConnectionOpenOk {}), [0, 10, 0, 41, 0]);
        assert_eq!(payload(BasicGetEmpty {}), [0, 60, 0, 72, 0]);
        assert_eq!(payload(ExchangeUnbindOk {}), [0, 40, 0, 51]);
        assert_eq!(payload(QueueUnbindOk {}), [0, 50, 0, 51]);
        assert_eq!(payload(AccessRequestOk { ticket: 1 }), [0, 30, 0, 11, 0, 1]);
        assert_eq!(payload(BasicRecoverOk {}), [0, 60, 0, 111]);
    }

    #[test]
    fn a_whole_frame_is_written_behind_what_is_there() {
        let mut out = b"before".to_vec();
        let tune = ConnectionTune {
            channel_max: 2047,
            frame_max: 131_072,
            heartbeat: 60,
        };
        Method::from(tune).encode(0x0102, &mut out);
        assert_eq!(
            out,
            b"before\x01\x01\x02\0\0\0\x0C\0\x0A\0\x1E\x07\xFF\0\x02\0\0\0\x3C\xCE"
        );
    }

    #[test]
    fn bits_share_an_octet_and_the_next_field_begins_a_new_one() {
        let declare = QueueDeclare {
            queue: b"q",
            passive: true,
            durable: false,
            exclusive: false,
            auto_delete: true,
            nowait: true,
            arguments: RawTable::EMPTY,
        };
        let bytes = payload(declare);
        assert_eq!(bytes, b"\0\x32\0\x0A\0\0\x01q\x19\0\0\0\0");
        assert_eq!(Method::decode(&bytes), Ok(Method::QueueDeclare(declare)));
    }

    #[test]
    fn names_and_flags_answer_for_the_method() {
        let publish = Method::from(BasicGet {
            queue: b"",
            no_ack: true,
        });
        assert_eq!((publish.name(), publish.id()), ("basic.get", (60, 70)));
        assert!(!publish.has_content());
        let nothing = Method::decode(b"\0\x3C\0\x28\0\0\0\0\0").unwrap();
        assert!(nothing.has_content());
    }

    #[test]
    fn every_truncation_is_malformed_and_trailing_bytes_are_not() {
        let mut bytes = payload(QueueBind {
            queue: b"queue",
            exchange: b"exchange",
            routing_key: b"\xFFnot UTF-8",
            nowait: true,
            arguments: RawTable::parse(b"\x01kI\0\0\0\x01").unwrap(),
        });
        for len in 0..bytes.len() {
            let refused = Method::decode(&bytes[..len]);
            assert!(matches!(refused, Err(FrameError::Malformed(_))), "{len}");
        }
        bytes.push(0);
        let Ok(Method::QueueBind(bind)) = Method::decode(&bytes) else {
            panic!("{bytes:?}")
        };
        assert_eq!(bind.routing_key, b"\xFFnot UTF-8");
    }

    #[test]
    fn unknown_methods_are_named() {
        let unknown = [
            (0_u16, 0_u16),
            (10, 12),
            (40, 41),
            (60, 121),
            (70, 10),
            (u16::MAX, 1),
        ];
        for (class, method) in unknown {
            let payload = [class.to_be_bytes(), method.to_be_bytes()].concat();
            let unknown = FrameError::UnknownMethod { class, method };
            assert_eq!(Method::decode(&payload), Err(unknown));
        }
    }

    #[test]
    fn a_long_reply_text_is_cut_and_the_rest_of_the_frame_stays_right() {
        let text = "é".repeat(200);
        let close = ChannelClose {
            reply_code: 404,
            reply_text: text.as_bytes(),
            class_id: 50,
            method_id: 10,
        };
        let bytes = payload(close);
        let Ok(Method::ChannelClose(read)) = Method::decode(&bytes) else {
            panic!("{bytes:?}")
        };
        assert_eq!(read.reply_text, "é".repeat(127).as_bytes());
        assert_eq!((read.class_id, read.method_id), (50, 10));
    }

    #[test]
    fn no_method_is_large() {
        assert!(size_of::<Method<'_>>() <= 80, "{}", size_of::<Method<'_>>());
    }
}
