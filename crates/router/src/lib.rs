//! Exchanges, bindings and routes.
