//! Addresses from which too many logins were refused: new connections from there wait.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

/// Over this time refusals are counted.
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses remembered; when there are more, the one with the fewest refusals is forgotten.
const ADDRESSES_MAX: usize = 4096;
/// An IPv6 client chooses the lower half of its address.
const IPV6_NETWORK: u128 = !0 << 64;

/// Counts refused logins by address.
#[derive(Debug)]
pub(crate) struct Throttle {
    per_minute: u32,
    addresses: Mutex<HashMap<IpAddr, Refusals>>,
}

#[derive(Clone, Copy, Debug)]
struct Refusals {
    since: Instant,
    count: u32,
}

impl Refusals {
    fn ends(&self) -> Instant {
        self.since + WINDOW
    }
}

impl Throttle {
    /// Allows so many refusals a minute from one address; 0 allows any number.
    pub(crate) fn new(per_minute: u32) -> Self {
        Self {
            per_minute,
            addresses: Mutex::default(),
        }
    }

    /// A login from there was refused.
    pub(crate) fn refused(&self, address: IpAddr, now: Instant) {
        if self.per_minute == 0 {
            return;
        }
        let Ok(mut addresses) = self.addresses.lock() else {
            return;
        };
        let address = network(address);
        if addresses.len() >= ADDRESSES_MAX && !addresses.contains_key(&address) {
            forget(&mut addresses, now);
        }
        let fresh = Refusals {
            since: now,
            count: 0,
        };
        let refusals = addresses.entry(address).or_insert(fresh);
        if refusals.ends() <= now {
            *refusals = fresh;
        }
        refusals.count = refusals.count.saturating_add(1);
    }

    /// Until when a new connection from there has to wait, if it has to.
    pub(crate) fn waits_until(&self, address: IpAddr, now: Instant) -> Option<Instant> {
        if self.per_minute == 0 {
            return None;
        }
        let addresses = self.addresses.lock().ok()?;
        let refusals = addresses.get(&network(address))?;
        let waits = refusals.count >= self.per_minute && refusals.ends() > now;
        waits.then(|| refusals.ends())
    }
}

fn forget(addresses: &mut HashMap<IpAddr, Refusals>, now: Instant) {
    addresses.retain(|_, refusals| refusals.ends() > now);
    if addresses.len() < ADDRESSES_MAX {
        return;
    }
    let least = addresses.iter().min_by_key(|(_, refusals)| refusals.count);
    if let Some(address) = least.map(|(address, _)| *address) {
        addresses.remove(&address);
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & IPV6_NETWORK).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_waits_until_its_minute_is_over_and_others_do_not() {
        let throttle = Throttle::new(3);
        let start = Instant::now();
        let [guesser, neighbour, other] = ["2001:db8::1", "2001:db8::2", "192.0.2.1"]
            .map(|address| address.parse::<IpAddr>().unwrap());
        for second in 0..3 {
            let now = start + Duration::from_secs(second);
            assert_eq!(throttle.waits_until(guesser, now), None);
            throttle.refused(guesser, now);
        }
        let now = start + Duration::from_secs(3);
        assert_eq!(throttle.waits_until(guesser, now), Some(start + WINDOW));
        assert!(
            throttle.waits_until(neighbour, now).is_some(),
            "same network"
        );
        assert_eq!(throttle.waits_until(other, now), None);
        let later = start + WINDOW;
        assert_eq!(throttle.waits_until(guesser, later), None);
        throttle.refused(guesser, later);
        assert_eq!(throttle.waits_until(guesser, later), None, "it counts anew");
    }

    #[test]
    fn no_limit_and_a_bounded_table() {
        let off = Throttle::new(0);
        let now = Instant::now();
        off.refused(Ipv6Addr::LOCALHOST.into(), now);
        assert_eq!(off.waits_until(Ipv6Addr::LOCALHOST.into(), now), None);
        let throttle = Throttle::new(2);
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        throttle.refused(address(0), now);
        throttle.refused(address(0), now);
        for number in 1..10_000 {
            throttle.refused(address(number), now);
        }
        assert_eq!(throttle.addresses.lock().unwrap().len(), ADDRESSES_MAX);
        assert!(throttle.waits_until(address(0), now).is_some());
    }
}
