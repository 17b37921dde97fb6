//! Answers to everything that is not traffic: just enough for this crate's own generator.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::wire::{
    BASIC_CONSUME, BASIC_CONSUME_OK, BASIC_QOS, BASIC_QOS_OK, CHANNEL_CLOSE, CHANNEL_CLOSE_OK,
    CHANNEL_OPEN, CHANNEL_OPEN_OK, CONFIRM_SELECT, CONFIRM_SELECT_OK, CONNECTION_CLOSE,
    CONNECTION_CLOSE_OK, CONNECTION_OPEN, CONNECTION_OPEN_OK, CONNECTION_START,
    CONNECTION_START_OK, CONNECTION_TUNE, EXCHANGE_DECLARE, EXCHANGE_DECLARE_OK, EXCHANGE_DELETE,
    EXCHANGE_DELETE_OK, Fields, Method, MethodId, QUEUE_BIND, QUEUE_BIND_OK, QUEUE_DECLARE,
    QUEUE_DECLARE_OK, QUEUE_DELETE, QUEUE_DELETE_OK,
};

/// The `connection.start` a floor sends first.
pub fn start() -> Vec<u8> {
    let start = Method::new(0, CONNECTION_START).u8(0).u8(9).long("");
    start.long("PLAIN").long("en_US").finish()
}

/// The reply to a method other than `connection.tune-ok`, `basic.publish` and `basic.ack`.
pub fn reply(channel: u16, id: MethodId, mut fields: Fields<'_>) -> Option<Vec<u8>> {
    let method = |id| Method::new(channel, id);
    let reply = match id {
        CONNECTION_START_OK => method(CONNECTION_TUNE).u16(2047).u32(128 * 1024).u16(0),
        CONNECTION_OPEN => method(CONNECTION_OPEN_OK).short(""),
        CONNECTION_CLOSE => method(CONNECTION_CLOSE_OK),
        CHANNEL_OPEN => method(CHANNEL_OPEN_OK).long(""),
        CHANNEL_CLOSE => method(CHANNEL_CLOSE_OK),
        EXCHANGE_DECLARE => method(EXCHANGE_DECLARE_OK),
        EXCHANGE_DELETE => method(EXCHANGE_DELETE_OK),
        QUEUE_DECLARE => {
            fields.u16();
            method(QUEUE_DECLARE_OK).short(fields.short()).u32(0).u32(0)
        }
        QUEUE_BIND => method(QUEUE_BIND_OK),
        QUEUE_DELETE => method(QUEUE_DELETE_OK).u32(0),
        BASIC_QOS => method(BASIC_QOS_OK),
        BASIC_CONSUME => {
            fields.u16();
            fields.short();
            method(BASIC_CONSUME_OK).short(fields.short())
        }
        CONFIRM_SELECT => method(CONFIRM_SELECT_OK),
        _ => return None,
    };
    Some(reply.finish())
}

/// Which consumers a routing key reaches. `C` is what a floor keeps per consuming connection.
pub struct Directory<C>(Mutex<Entries<C>>);

struct Entries<C> {
    /// Queues by exchange and routing key, as they stand in a publish.
    bindings: HashMap<Vec<u8>, Vec<Vec<u8>>>,
    /// Consumer tag and connection by queue.
    consumers: HashMap<Vec<u8>, (Vec<u8>, C)>,
}

impl<C: Clone> Directory<C> {
    /// An empty directory.
    pub fn new() -> Self {
        Self(Mutex::new(Entries {
            bindings: HashMap::new(),
            consumers: HashMap::new(),
        }))
    }

    /// Keeps what a `queue.bind` or `basic.consume` of `connection` says.
    pub fn learn(&self, id: MethodId, mut fields: Fields<'_>, connection: &C) {
        fields.u16();
        let queue = fields.short().to_vec();
        if id == QUEUE_BIND {
            let (exchange, key) = (fields.short(), fields.short());
            let key = [&[exchange.len() as u8], exchange, &[key.len() as u8], key].concat();
            self.lock().bindings.entry(key).or_default().push(queue);
        } else if id == BASIC_CONSUME {
            let tag = fields.short().to_vec();
            self.lock()
                .consumers
                .insert(queue, (tag, connection.clone()));
        }
    }

    /// Consumer tag and connection of every queue bound to `key` (exchange and routing key).
    pub fn route(&self, key: &[u8]) -> Vec<(Vec<u8>, C)> {
        let entries = self.lock();
        let queues = entries.bindings.get(key).into_iter().flatten();
        queues
            .filter_map(|queue| entries.consumers.get(queue).cloned())
            .collect()
    }

    /// Forgets the consumers of a closed connection, and their bindings.
    pub fn forget(&self, mut is_closed: impl FnMut(&C) -> bool) {
        let mut entries = self.lock();
        let Entries {
            bindings,
            consumers,
        } = &mut *entries;
        // Not all queues without a consumer: somebody else may have bound one and consume next.
        let gone: HashSet<_> = consumers
            .extract_if(|_, (_, connection)| is_closed(connection))
            .map(|(queue, _)| queue)
            .collect();
        bindings.retain(|_, queues| {
            queues.retain(|queue| !gone.contains(queue));
            !queues.is_empty()
        });
    }

    fn lock(&self) -> MutexGuard<'_, Entries<C>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Clone> Default for Directory<C> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Frame;

    fn learn(directory: &Directory<u32>, method: Method, connection: u32) {
        let bytes = method.finish();
        let (id, fields) = Frame::read(&bytes).unwrap().unwrap().method().unwrap();
        directory.learn(id, fields, &connection);
    }

    fn bind(directory: &Directory<u32>, queue: &str, connection: u32) {
        let bind = Method::new(1, QUEUE_BIND).u16(0).short(queue);
        learn(directory, bind.short("e").short(queue), connection);
    }

    fn consume(directory: &Directory<u32>, queue: &str, connection: u32) {
        let consume = Method::new(1, BASIC_CONSUME).u16(0).short(queue);
        learn(directory, consume.short("tag"), connection);
    }

    #[test]
    fn who_leaves_takes_no_binding_of_one_who_is_about_to_consume() {
        let directory = Directory::new();
        bind(&directory, "a", 1);
        consume(&directory, "a", 1);
        bind(&directory, "b", 2);
        directory.forget(|connection| *connection == 1);
        consume(&directory, "b", 2);
        assert!(directory.route(b"\x01e\x01a").is_empty());
        assert_eq!(directory.route(b"\x01e\x01b"), [(b"tag".to_vec(), 2)]);
    }
}
