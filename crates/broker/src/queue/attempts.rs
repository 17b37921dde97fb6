//! What consumers of a quorum queue are told of earlier attempts.

use leveret_codec::{Properties, Table, Value, decode_header};
use leveret_queue::{Attempts, Delivery};

use crate::queue::cell::QueueCell;

/// The content header of a delivery with RabbitMQ's counts in its headers, if its queue tells them:
/// a quorum queue, from the second time on (RabbitMQ docs: "Quorum Queues", "Poison Message
/// Handling").
#[inline]
pub(crate) fn counted_header(cell: &QueueCell, delivery: &Delivery<'_>) -> Option<Vec<u8>> {
    if delivery.unacked.attempts.acquired == 0 || !cell.tells_attempts() {
        return None;
    }
    with_counts(delivery.record.header, delivery.unacked.attempts)
}

#[cold]
fn with_counts(header: &[u8], attempts: Attempts) -> Option<Vec<u8>> {
    let mut properties = Properties::decode(header).ok()?;
    let body_size = decode_header(header).ok()?.body_size;
    let headers = properties.headers.take();
    let mut table = headers.map_or_else(Table::new, |headers| headers.to_table());
    table.insert("x-acquired-count", Value::I64(attempts.acquired.into()));
    if attempts.failed > 0 {
        table.insert("x-delivery-count", Value::I64(attempts.failed.into()));
    }
    let mut counted = Vec::with_capacity(header.len() + 64);
    let properties = Properties {
        headers: Some(table.as_raw()),
        ..properties
    };
    properties.encode(body_size, &mut counted);
    Some(counted)
}

#[cfg(test)]
mod tests {
    use leveret_codec::ValueRef;

    use super::*;

    #[test]
    fn counts_are_told_beside_the_clients_own_headers() {
        let mut own = Table::new();
        own.insert("mine", Value::I32(1));
        own.insert("x-delivery-count", Value::I32(99));
        let properties = Properties {
            headers: Some(own.as_raw()),
            priority: Some(3),
            ..Properties::default()
        };
        let mut header = Vec::new();
        properties.encode(7, &mut header);
        let attempts = Attempts {
            acquired: 3,
            failed: 2,
        };
        let counted = with_counts(&header, attempts).unwrap();
        assert_eq!(decode_header(&counted).unwrap().body_size, 7);
        let properties = Properties::decode(&counted).unwrap();
        let headers = properties.headers.unwrap();
        assert_eq!(properties.priority, Some(3));
        assert_eq!(headers.get(b"mine"), Some(ValueRef::I32(1)));
        assert_eq!(headers.get(b"x-acquired-count"), Some(ValueRef::I64(3)));
        assert_eq!(headers.get(b"x-delivery-count"), Some(ValueRef::I64(2)));
    }
}
