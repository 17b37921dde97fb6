//! Vhosts, publish, consume and settle, over router, queues and store.
