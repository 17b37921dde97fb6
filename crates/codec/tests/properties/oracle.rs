//! Every method, field tables and content headers agree with amq-protocol byte for byte, both ways.

use crate::fields::{Both, Field, their_bytes, their_table};
use crate::fields::{
    bit, long, longlong, longstr, octet, short, shortstr, sorted_table, table, value,
};
use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, parse_frame};
use amq_protocol::protocol::{
    AMQPClass, access, basic, channel, confirm, connection, exchange, queue, tx,
};
use amq_protocol::types::parsing::parse_field_table;
use leveret_codec::{Frame, FrameKind, Method, Properties, RawTable, Table};
use leveret_codec::{decode_ack, decode_nack, decode_publish, decode_reject, split_route};
use leveret_codec::{decode_header, delivery_mode, flag, frame, has_property, headers, priority};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// Room for whatever the strategies generate.
const FRAME_MAX: u32 = 1 << 20;

/// One frame, and nothing behind it.
fn only_frame(bytes: &[u8]) -> Frame<'_> {
    let (frame, len) = frame(bytes, FRAME_MAX).unwrap().unwrap();
    assert_eq!(len, bytes.len());
    frame
}

fn agree(number: u16, ours: Method<'_>, theirs: &AMQPFrame) -> Result<(), TestCaseError> {
    let mut bytes = Vec::new();
    ours.encode(number, &mut bytes);
    prop_assert_eq!(&bytes, &their_bytes(theirs));

    let (rest, parsed) = parse_frame(bytes.as_slice()).unwrap();
    prop_assert!(rest.is_empty());
    prop_assert_eq!(&parsed, theirs);

    let frame = only_frame(&bytes);
    prop_assert_eq!((frame.kind, frame.channel), (FrameKind::Method, number));
    prop_assert_eq!(Method::decode(frame.payload), Ok(ours));
    Ok(())
}

/// One property a method. A field behind `+` is ours alone; amq-protocol writes that value.
macro_rules! methods_agree {
    ($($test:ident: $Ours:ident = $Class:ident $class:ident::$Theirs:ident
       { $($field:ident: $domain:ident),* } $(+ $only_ours:ident = $value:literal)?)*) => {
        proptest! {
            #![proptest_config(ProptestConfig::with_cases(64))]
            $(
                #[test]
                fn $test(number in short(), $($field in $domain()),*) {
                    let ours = leveret_codec::$Ours {
                        $($field: $field.ours(),)*
                        $($only_ours: $value)?
                    };
                    let theirs = $class::$Theirs { $($field: $field.theirs()),* };
                    let theirs = AMQPClass::$Class($class::AMQPMethod::$Theirs(theirs));
                    agree(number, ours.into(), &AMQPFrame::Method(number, theirs))?;
                }
            )*
        }

        /// The table above leaves no method out.
        #[test]
        fn every_method_is_compared() {
            let compared = [$(stringify!($Ours)),*];
            assert_eq!(compared.len(), METHODS);
            let mut unique = compared.to_vec();
            unique.sort_unstable();
            unique.dedup();
            assert_eq!(unique.len(), METHODS);
        }
    };
}

/// How many methods `Method` has: every id pair there is, tried one by one.
fn known_ids() -> Vec<(u16, u16)> {
    let ids = (0_u16..=100).flat_map(|class| (0_u16..=130).map(move |id| (class, id)));
    ids.filter(|&(class, id)| {
        let payload = [&class.to_be_bytes()[..], &id.to_be_bytes(), &[0; 64]].concat();
        Method::decode(&payload).is_ok()
    })
    .collect()
}

const METHODS: usize = 66;

#[test]
fn no_method_beyond_those_compared_exists() {
    assert_eq!(known_ids().len(), METHODS);
}

methods_agree! {
    start: ConnectionStart = Connection connection::Start {
        version_major: octet, version_minor: octet, server_properties: table, mechanisms: longstr,
        locales: longstr
    }
    start_ok: ConnectionStartOk = Connection connection::StartOk {
        client_properties: table, mechanism: shortstr, response: longstr, locale: shortstr
    }
    secure: ConnectionSecure = Connection connection::Secure { challenge: longstr }
    secure_ok: ConnectionSecureOk = Connection connection::SecureOk { response: longstr }
    tune: ConnectionTune = Connection connection::Tune {
        channel_max: short, frame_max: long, heartbeat: short
    }
    tune_ok: ConnectionTuneOk = Connection connection::TuneOk {
        channel_max: short, frame_max: long, heartbeat: short
    }
    connection_open: ConnectionOpen = Connection connection::Open { virtual_host: shortstr }
    connection_open_ok: ConnectionOpenOk = Connection connection::OpenOk {}
    connection_close: ConnectionClose = Connection connection::Close {
        reply_code: short, reply_text: shortstr, class_id: short, method_id: short
    }
    connection_close_ok: ConnectionCloseOk = Connection connection::CloseOk {}
    blocked: ConnectionBlocked = Connection connection::Blocked { reason: shortstr }
    unblocked: ConnectionUnblocked = Connection connection::Unblocked {}
    update_secret: ConnectionUpdateSecret = Connection connection::UpdateSecret {
        new_secret: longstr, reason: shortstr
    }
    update_secret_ok: ConnectionUpdateSecretOk = Connection connection::UpdateSecretOk {}

    channel_open: ChannelOpen = Channel channel::Open {}
    channel_open_ok: ChannelOpenOk = Channel channel::OpenOk {}
    flow: ChannelFlow = Channel channel::Flow { active: bit }
    flow_ok: ChannelFlowOk = Channel channel::FlowOk { active: bit }
    channel_close: ChannelClose = Channel channel::Close {
        reply_code: short, reply_text: shortstr, class_id: short, method_id: short
    }
    channel_close_ok: ChannelCloseOk = Channel channel::CloseOk {}

    request: AccessRequest = Access access::Request {
        realm: shortstr, exclusive: bit, passive: bit, active: bit, write: bit, read: bit
    }
    request_ok: AccessRequestOk = Access access::RequestOk {} + ticket = 1

    exchange_declare: ExchangeDeclare = Exchange exchange::Declare {
        exchange: shortstr, kind: shortstr, passive: bit, durable: bit, auto_delete: bit,
        internal: bit, nowait: bit, arguments: table
    }
    exchange_declare_ok: ExchangeDeclareOk = Exchange exchange::DeclareOk {}
    exchange_delete: ExchangeDelete = Exchange exchange::Delete {
        exchange: shortstr, if_unused: bit, nowait: bit
    }
    exchange_delete_ok: ExchangeDeleteOk = Exchange exchange::DeleteOk {}
    exchange_bind: ExchangeBind = Exchange exchange::Bind {
        destination: shortstr, source: shortstr, routing_key: shortstr, nowait: bit,
        arguments: table
    }
    exchange_bind_ok: ExchangeBindOk = Exchange exchange::BindOk {}
    exchange_unbind: ExchangeUnbind = Exchange exchange::Unbind {
        destination: shortstr, source: shortstr, routing_key: shortstr, nowait: bit,
        arguments: table
    }
    exchange_unbind_ok: ExchangeUnbindOk = Exchange exchange::UnbindOk {}

    queue_declare: QueueDeclare = Queue queue::Declare {
        queue: shortstr, passive: bit, durable: bit, exclusive: bit, auto_delete: bit, nowait: bit,
        arguments: table
    }
    queue_declare_ok: QueueDeclareOk = Queue queue::DeclareOk {
        queue: shortstr, message_count: long, consumer_count: long
    }
    queue_bind: QueueBind = Queue queue::Bind {
        queue: shortstr, exchange: shortstr, routing_key: shortstr, nowait: bit, arguments: table
    }
    queue_bind_ok: QueueBindOk = Queue queue::BindOk {}
    purge: QueuePurge = Queue queue::Purge { queue: shortstr, nowait: bit }
    purge_ok: QueuePurgeOk = Queue queue::PurgeOk { message_count: long }
    queue_delete: QueueDelete = Queue queue::Delete {
        queue: shortstr, if_unused: bit, if_empty: bit, nowait: bit
    }
    queue_delete_ok: QueueDeleteOk = Queue queue::DeleteOk { message_count: long }
    queue_unbind: QueueUnbind = Queue queue::Unbind {
        queue: shortstr, exchange: shortstr, routing_key: shortstr, arguments: table
    }
    queue_unbind_ok: QueueUnbindOk = Queue queue::UnbindOk {}

    qos: BasicQos = Basic basic::Qos { prefetch_count: short, global: bit } + prefetch_size = 0
    qos_ok: BasicQosOk = Basic basic::QosOk {}
    consume: BasicConsume = Basic basic::Consume {
        queue: shortstr, consumer_tag: shortstr, no_local: bit, no_ack: bit, exclusive: bit,
        nowait: bit, arguments: table
    }
    consume_ok: BasicConsumeOk = Basic basic::ConsumeOk { consumer_tag: shortstr }
    cancel: BasicCancel = Basic basic::Cancel { consumer_tag: shortstr, nowait: bit }
    cancel_ok: BasicCancelOk = Basic basic::CancelOk { consumer_tag: shortstr }
    publish: BasicPublish = Basic basic::Publish {
        exchange: shortstr, routing_key: shortstr, mandatory: bit, immediate: bit
    }
    basic_return: BasicReturn = Basic basic::Return {
        reply_code: short, reply_text: shortstr, exchange: shortstr, routing_key: shortstr
    }
    deliver: BasicDeliver = Basic basic::Deliver {
        consumer_tag: shortstr, delivery_tag: longlong, redelivered: bit, exchange: shortstr,
        routing_key: shortstr
    }
    get: BasicGet = Basic basic::Get { queue: shortstr, no_ack: bit }
    get_ok: BasicGetOk = Basic basic::GetOk {
        delivery_tag: longlong, redelivered: bit, exchange: shortstr, routing_key: shortstr,
        message_count: long
    }
    get_empty: BasicGetEmpty = Basic basic::GetEmpty {}
    ack: BasicAck = Basic basic::Ack { delivery_tag: longlong, multiple: bit }
    reject: BasicReject = Basic basic::Reject { delivery_tag: longlong, requeue: bit }
    recover_async: BasicRecoverAsync = Basic basic::RecoverAsync { requeue: bit }
    recover: BasicRecover = Basic basic::Recover { requeue: bit }
    recover_ok: BasicRecoverOk = Basic basic::RecoverOk {}
    nack: BasicNack = Basic basic::Nack { delivery_tag: longlong, multiple: bit, requeue: bit }

    confirm_select: ConfirmSelect = Confirm confirm::Select { nowait: bit }
    confirm_select_ok: ConfirmSelectOk = Confirm confirm::SelectOk {}

    tx_select: TxSelect = Tx tx::Select {}
    tx_select_ok: TxSelectOk = Tx tx::SelectOk {}
    commit: TxCommit = Tx tx::Commit {}
    commit_ok: TxCommitOk = Tx tx::CommitOk {}
    rollback: TxRollback = Tx tx::Rollback {}
    rollback_ok: TxRollbackOk = Tx tx::RollbackOk {}
}

/// Encodes through `Method`, hands the payload to the decoder written by hand.
fn by_hand<T>(method: Method<'_>, decode: impl Fn(&[u8]) -> T) -> T {
    let mut bytes = Vec::new();
    method.encode(1, &mut bytes);
    decode(only_frame(&bytes).payload)
}

proptest! {
    #[test]
    fn hot_decoders_read_what_the_method_table_writes(
        exchange in shortstr(), key in shortstr(), tag in longlong(), bits: (bool, bool),
    ) {
        let (exchange, routing_key) = (exchange.as_bytes(), key.as_bytes());
        let (one, two) = bits;
        let publish = leveret_codec::BasicPublish {
            exchange, routing_key, mandatory: one, immediate: two,
        };
        by_hand(publish.into(), |payload| {
            let publish = decode_publish(payload).unwrap();
            assert_eq!(split_route(publish.route), Some((exchange, routing_key)));
            assert_eq!((publish.mandatory, publish.immediate), bits);
        });
        let ack = leveret_codec::BasicAck { delivery_tag: tag, multiple: one };
        let ack = by_hand(ack.into(), decode_ack).unwrap();
        prop_assert_eq!((ack.delivery_tag, ack.multiple), (tag, one));
        let reject = leveret_codec::BasicReject { delivery_tag: tag, requeue: one };
        let reject = by_hand(reject.into(), decode_reject).unwrap();
        prop_assert_eq!((reject.delivery_tag, reject.requeue), (tag, one));
        let nack = leveret_codec::BasicNack { delivery_tag: tag, multiple: one, requeue: two };
        let nack = by_hand(nack.into(), decode_nack).unwrap();
        prop_assert_eq!((nack.delivery_tag, nack.multiple, nack.requeue), (tag, one, two));
    }

    #[test]
    fn tables_agree_in_any_order(entries in vec(("\\PC{0,8}", value()), 0..12)) {
        let mut ours = Table::new();
        entries.into_iter().for_each(|(key, value)| ours.insert(key, value));
        let mut bytes = Vec::new();
        ours.encode(&mut bytes);
        let (rest, theirs) = parse_field_table(bytes.as_slice()).unwrap();
        prop_assert!(rest.is_empty());
        prop_assert_eq!(&theirs, &their_table(&ours));
        let raw = RawTable::parse(&bytes[4..]).unwrap();
        prop_assert_eq!(raw.to_table(), ours);
    }

    #[test]
    fn of_duplicate_keys_both_keep_the_last(keys in vec("[ab]{0,2}", 0..12)) {
        let mut bytes = vec![0; 4];
        for (at, key) in (0_u8..).zip(&keys) {
            bytes.push(key.len() as u8);
            bytes.extend_from_slice(key.as_bytes());
            bytes.extend_from_slice(&[b'B', at]);
        }
        let len = (bytes.len() - 4) as u32;
        bytes[..4].copy_from_slice(&len.to_be_bytes());
        let (_, theirs) = parse_field_table(bytes.as_slice()).unwrap();
        let raw = RawTable::parse(&bytes[4..]).unwrap();
        let ours = raw.to_table();
        prop_assert_eq!(theirs, their_table(&ours));
        for key in &keys {
            let kept = ours.get(key.as_bytes()).and_then(|value| value.as_integer());
            prop_assert_eq!(raw.get(key.as_bytes()).and_then(|value| value.as_integer()), kept);
        }
    }

    #[test]
    fn content_headers_agree(
        names in vec(option::of(shortstr()), 10), table in option::of(table()),
        octets in (option::of(octet()), option::of(octet())), timestamp in option::of(longlong()),
        body_size in longlong(),
    ) {
        let name = |at: usize| names[at].as_deref().map(str::as_bytes);
        let ours = Properties {
            content_type: name(0), content_encoding: name(1),
            headers: table.as_ref().map(Both::ours),
            delivery_mode: octets.0, priority: octets.1, correlation_id: name(2),
            reply_to: name(3), expiration: name(4), message_id: name(5), timestamp,
            kind: name(6), user_id: name(7), app_id: name(8), cluster_id: name(9),
        };
        let properties = their_properties(&names, table.as_ref(), octets, timestamp);
        let header = AMQPContentHeader { class_id: 60, body_size, properties };
        let theirs = their_bytes(&AMQPFrame::Header(7, header));

        let mut payload = Vec::new();
        ours.encode(body_size, &mut payload);
        let mut bytes = Vec::new();
        leveret_codec::header_frame(&mut bytes, 7, &payload);
        prop_assert_eq!(&bytes, &theirs);

        let raw = only_frame(&theirs).payload;
        let header = decode_header(raw).unwrap();
        prop_assert_eq!((header.class_id, header.weight, header.body_size), (60, 0, body_size));
        prop_assert_eq!(header.raw, raw);
        prop_assert_eq!(Properties::decode(raw), Ok(ours));
        prop_assert_eq!(delivery_mode(raw), octets.0.unwrap_or(0));
        prop_assert_eq!(priority(raw), octets.1);
        prop_assert_eq!(headers(raw), ours.headers);
        prop_assert_eq!(has_property(raw, flag::USER_ID), ours.user_id.is_some());
    }

    #[test]
    fn what_the_oracle_reads_we_read(
        method in 0..METHODS, tail in vec(any::<u8>(), 0..40), nested in sorted_table(),
    ) {
        // Bytes that are nearly right: an id that exists, then noise with a table somewhere in it.
        let (class, id) = known_ids()[method];
        let mut payload = [class.to_be_bytes(), id.to_be_bytes()].concat();
        payload.extend_from_slice(&tail);
        nested.encode(&mut payload);
        let mut bytes = vec![1, 0, 1];
        bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        bytes.extend_from_slice(&payload);
        bytes.push(0xCE);
        if let Ok((_, theirs)) = parse_frame(bytes.as_slice()) {
            let ours = Method::decode(only_frame(&bytes).payload).unwrap();
            let mut again = Vec::new();
            ours.encode(1, &mut again);
            prop_assert_eq!(parse_frame(again.as_slice()).unwrap().1, theirs);
        }
    }
}

fn their_properties(
    names: &[Option<String>],
    headers: Option<&Both>,
    octets: (Option<u8>, Option<u8>),
    timestamp: Option<u64>,
) -> basic::AMQPProperties {
    let mut theirs = basic::AMQPProperties::default();
    macro_rules! set {
        ($($value:expr => $with:ident)*) => { $(
            if let Some(value) = $value {
                theirs = theirs.$with(value);
            }
        )* };
    }
    let name = |at: usize| names[at].as_ref().map(Field::theirs);
    set! {
        name(0) => with_content_type
        name(1) => with_content_encoding
        headers.map(Field::theirs) => with_headers
        octets.0 => with_delivery_mode
        octets.1 => with_priority
        name(2) => with_correlation_id
        name(3) => with_reply_to
        name(4) => with_expiration
        name(5) => with_message_id
        timestamp => with_timestamp
        name(6) => with_type
        name(7) => with_user_id
        name(8) => with_app_id
        name(9) => with_cluster_id
    }
    theirs
}
