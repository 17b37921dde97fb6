//! Ports for brokers whose address others have to know before they listen.

use std::fs;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context as _, Result};

/// Below are those that programs of the system use.
const FIRST: u16 = 10_000;
/// Where the system's range cannot be read.
const FIRST_OF_SYSTEM: u16 = 32_768;
const TRIES: u64 = 1_000;

/// A port of the loopback address that nothing listens on now. It is none of those that the system
/// gives to whoever connects: such a port may be a client's by the time its broker starts, and
/// whoever asks again and again whether somebody listens on one will meet itself there one day.
///
/// # Errors
/// There is none.
pub(crate) fn free() -> Result<u16> {
    let span = u64::from(first_of_system().saturating_sub(FIRST).max(1));
    // Others choose as well at this moment.
    let begin = RandomState::new().build_hasher().finish() % span;
    let offsets = (begin..begin + TRIES).map(|offset| offset % span);
    let mut ports = offsets.filter_map(|offset| FIRST.checked_add(u16::try_from(offset).ok()?));
    ports
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .context("no port is free")
}

/// The first of the ports that the system gives away by itself.
fn first_of_system() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first = range.split_whitespace().next();
    let first = first.and_then(|first| first.parse().ok());
    // Where it gives away all of them, these are as good as others.
    first
        .filter(|first| *first > FIRST)
        .unwrap_or(FIRST_OF_SYSTEM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_free_and_none_of_the_system() {
        for _ in 0..20 {
            let port = free().unwrap();
            assert!((FIRST..first_of_system()).contains(&port), "{port}");
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        }
    }
}
