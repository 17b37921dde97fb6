//! Addresses from which too many logins were refused: logins from there take turns.

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
    /// When the next login may be tried, once there were too many.
    next: Instant,
}

impl Refusals {
    fn ends(&self) -> Instant {
        self.since + WINDOW
    }
}

impl Throttle {
    /// Allows so many refusals a minute from one address, and after them so many logins a minute; 0
    /// allows any number.
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
            next: now,
        };
        let refusals = addresses.entry(address).or_insert(fresh);
        if refusals.ends() <= now {
            *refusals = fresh;
        }
        refusals.count = refusals.count.saturating_add(1);
        refusals.next = refusals.next.max(now + self.turn());
    }

    /// Lets a login from there be tried: gives whether it takes a turn, to be given back by
    /// [`Self::accepted`], or until when it has to wait at most.
    ///
    /// Nothing is said of the credentials before the turn, right or wrong: else a guess could be
    /// told to be wrong by having to wait.
    pub(crate) fn admit(&self, address: IpAddr, now: Instant) -> Result<bool, Instant> {
        let Ok(mut addresses) = self.addresses.lock() else {
            return Ok(false);
        };
        let refusals = addresses.get_mut(&network(address));
        let is_limited =
            |refusals: &&mut Refusals| refusals.count >= self.per_minute && refusals.ends() > now;
        let Some(refusals) = refusals.filter(is_limited) else {
            return Ok(false);
        };
        if refusals.next > now {
            return Err(refusals.next);
        }
        refusals.next = now + self.turn();
        Ok(true)
    }

    /// A login that took a turn was accepted: the turn is free again, and no more than that, as
    /// who knows one password may be guessing another.
    pub(crate) fn accepted(&self, address: IpAddr) {
        let Ok(mut addresses) = self.addresses.lock() else {
            return;
        };
        if let Some(refusals) = addresses.get_mut(&network(address)) {
            let before = refusals.next.checked_sub(self.turn());
            refusals.next = before.unwrap_or(refusals.next);
        }
    }

    /// As many turns make a minute as refusals are allowed in one.
    fn turn(&self) -> Duration {
        WINDOW / self.per_minute.max(1)
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

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_address_goes_on_in_turns_until_its_minute_is_over_and_others_do_not_notice() {
        let throttle = Throttle::new(60);
        let start = Instant::now();
        let [guesser, neighbour, other] = ["2001:db8::1", "2001:db8::2", "192.0.2.1"]
            .map(|address| address.parse::<IpAddr>().unwrap());
        for _ in 0..60 {
            assert_eq!(throttle.admit(guesser, start), Ok(false));
            throttle.refused(guesser, start);
        }
        assert_eq!(throttle.admit(other, start), Ok(false));
        for turn in 1..50 {
            let next = start + SECOND * turn;
            assert_eq!(throttle.admit(guesser, next - SECOND / 10), Err(next));
            assert_eq!(throttle.admit(neighbour, next), Ok(true), "same network");
            throttle.refused(neighbour, next);
        }
        let later = start + WINDOW;
        assert_eq!(throttle.admit(guesser, later), Ok(false));
        throttle.refused(guesser, later);
        assert_eq!(throttle.admit(guesser, later), Ok(false), "it counts anew");
    }

    #[test]
    fn who_is_right_takes_no_turn_from_others_and_gains_none() {
        let throttle = Throttle::new(60);
        let now = Instant::now();
        let address = Ipv6Addr::LOCALHOST.into();
        for _ in 0..60 {
            throttle.refused(address, now);
        }
        let now = now + SECOND;
        for _ in 0..100 {
            assert_eq!(throttle.admit(address, now), Ok(true));
            assert!(throttle.admit(address, now).is_err(), "one at a time");
            throttle.accepted(address);
        }
        assert_eq!(throttle.admit(address, now), Ok(true));
        throttle.refused(address, now);
        assert_eq!(throttle.admit(address, now), Err(now + SECOND));
    }

    #[test]
    fn no_limit_and_a_bounded_table() {
        let off = Throttle::new(0);
        let now = Instant::now();
        off.refused(Ipv6Addr::LOCALHOST.into(), now);
        assert_eq!(off.admit(Ipv6Addr::LOCALHOST.into(), now), Ok(false));
        let throttle = Throttle::new(2);
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        throttle.refused(address(0), now);
        throttle.refused(address(0), now);
        for number in 1..10_000 {
            throttle.refused(address(number), now);
        }
        assert_eq!(throttle.addresses.lock().unwrap().len(), ADDRESSES_MAX);
        assert!(throttle.admit(address(0), now).is_err());
    }
}
