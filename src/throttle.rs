//! Addresses from which too many logins were refused: logins from there take turns.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Over this time refusals are counted.
const WINDOW: Duration = Duration::from_secs(60);
/// How often a login that waits for [`LoginWait::Checks`] is tried again.
pub(crate) const CHECKS_CHECK: Duration = Duration::from_millis(5);
/// Addresses remembered; when there are more, the one with the fewest refusals is forgotten.
const ADDRESSES_MAX: usize = 4096;
/// An IPv6 client chooses the lower half of its address.
const IPV6_NETWORK: u128 = !0 << 64;

/// Counts refused logins by address.
#[derive(Debug)]
pub(crate) struct Throttle {
    per_minute: AtomicU32,
    addresses: Mutex<Addresses>,
}

#[derive(Debug, Default)]
struct Addresses {
    refusals: HashMap<IpAddr, Refusals>,
    /// How many logins are just being checked that take no turn.
    checked: HashMap<IpAddr, u32>,
}

/// A login that may be tried now, until this is dropped; what becomes of it is told before.
#[derive(Debug)]
#[must_use]
pub(crate) struct Attempt<'a> {
    throttle: &'a Throttle,
    address: IpAddr,
    in_turn: bool,
}

/// Why a login may not be tried yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoginWait {
    /// Others at its address have turns until then at most.
    Turn(Instant),
    /// So many are just being checked that the limit is reached if all are wrong: until one is
    /// known to be right, which takes no longer than the check.
    Checks,
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
            per_minute: AtomicU32::new(per_minute),
            addresses: Mutex::default(),
        }
    }

    fn per_minute(&self) -> u32 {
        self.per_minute.load(Ordering::Relaxed)
    }

    /// Allows another number from now on; what was counted counts.
    pub(crate) fn set_per_minute(&self, per_minute: u32) {
        self.per_minute.store(per_minute, Ordering::Relaxed);
    }

    /// A login from there was refused.
    pub(crate) fn refused(&self, address: IpAddr, now: Instant) {
        if self.per_minute() == 0 {
            return;
        }
        let Ok(mut addresses) = self.addresses.lock() else {
            return;
        };
        let addresses = &mut addresses.refusals;
        let address = network(address);
        if addresses.len() >= ADDRESSES_MAX && !addresses.contains_key(&address) {
            forget(addresses, now);
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

    /// Lets a login from there be tried, right before its check: what waits in between could be
    /// any number of them.
    ///
    /// Nothing is said of the credentials before the turn, right or wrong: else a guess could be
    /// told to be wrong by having to wait.
    pub(crate) fn admit(&self, address: IpAddr, now: Instant) -> Result<Attempt<'_>, LoginWait> {
        let attempt = |in_turn| Attempt {
            throttle: self,
            address: network(address),
            in_turn,
        };
        let per_minute = self.per_minute();
        let Ok(mut addresses) = self.addresses.lock() else {
            return Ok(attempt(false));
        };
        let address = network(address);
        let checked = addresses.checked.get(&address).copied().unwrap_or(0);
        let refusals = addresses.refusals.get_mut(&address);
        let refusals = refusals.filter(|refusals| refusals.ends() > now);
        let refused = refusals.as_ref().map_or(0, |refusals| refusals.count);
        match refusals {
            Some(refusals) if per_minute > 0 && refused >= per_minute => {
                if refusals.next > now {
                    return Err(LoginWait::Turn(refusals.next));
                }
                refusals.next = now + self.turn();
                return Ok(attempt(true));
            }
            _ if per_minute > 0 && refused.saturating_add(checked) >= per_minute => {
                return Err(LoginWait::Checks);
            }
            _ => addresses.checked.insert(address, checked + 1),
        };
        Ok(attempt(false))
    }

    /// A login that took a turn was accepted: the turn is free again, and no more than that, as
    /// who knows one password may be guessing another.
    pub(crate) fn accepted(&self, address: IpAddr) {
        let Ok(mut addresses) = self.addresses.lock() else {
            return;
        };
        if let Some(refusals) = addresses.refusals.get_mut(&network(address)) {
            let before = refusals.next.checked_sub(self.turn());
            refusals.next = before.unwrap_or(refusals.next);
        }
    }

    /// As many turns make a minute as refusals are allowed in one.
    fn turn(&self) -> Duration {
        WINDOW / self.per_minute().max(1)
    }
}

impl Attempt<'_> {
    /// Whether it takes a turn, to be given back by [`Throttle::accepted`].
    pub(crate) const fn is_in_turn(&self) -> bool {
        self.in_turn
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.in_turn {
            return;
        }
        let Ok(mut addresses) = self.throttle.addresses.lock() else {
            return;
        };
        let Entry::Occupied(mut checked) = addresses.checked.entry(self.address) else {
            return;
        };
        *checked.get_mut() -= 1;
        if *checked.get() == 0 {
            checked.remove();
        }
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

/// Who counts as one: an IPv4 address, or an IPv6 network.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & IPV6_NETWORK).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Whether a login takes a turn, or why it waits; over at once.
    fn admit(throttle: &Throttle, address: IpAddr, now: Instant) -> Result<bool, LoginWait> {
        throttle.admit(address, now).map(|tried| tried.is_in_turn())
    }

    #[test]
    fn an_address_goes_on_in_turns_until_its_minute_is_over_and_others_do_not_notice() {
        let throttle = Throttle::new(60);
        let start = Instant::now();
        let [guesser, neighbour, other] = ["2001:db8::1", "2001:db8::2", "192.0.2.1"]
            .map(|address| address.parse::<IpAddr>().unwrap());
        for _ in 0..60 {
            assert_eq!(admit(&throttle, guesser, start), Ok(false));
            throttle.refused(guesser, start);
        }
        assert_eq!(admit(&throttle, other, start), Ok(false));
        for turn in 1..50 {
            let next = start + SECOND * turn;
            assert_eq!(
                admit(&throttle, guesser, next - SECOND / 10),
                Err(LoginWait::Turn(next))
            );
            assert_eq!(admit(&throttle, neighbour, next), Ok(true), "same network");
            throttle.refused(neighbour, next);
        }
        let later = start + WINDOW;
        assert_eq!(admit(&throttle, guesser, later), Ok(false));
        throttle.refused(guesser, later);
        assert_eq!(
            admit(&throttle, guesser, later),
            Ok(false),
            "it counts anew"
        );
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
            assert_eq!(admit(&throttle, address, now), Ok(true));
            assert!(admit(&throttle, address, now).is_err(), "one at a time");
            throttle.accepted(address);
        }
        assert_eq!(admit(&throttle, address, now), Ok(true));
        throttle.refused(address, now);
        assert_eq!(
            admit(&throttle, address, now),
            Err(LoginWait::Turn(now + SECOND))
        );
    }

    #[test]
    fn no_more_are_checked_at_once_than_may_be_wrong() {
        let throttle = Throttle::new(3);
        let now = Instant::now();
        let address = IpAddr::from([192, 0, 2, 1]);
        throttle.refused(address, now);
        let first = throttle.admit(address, now).unwrap();
        let second = throttle.admit(address, now).unwrap();
        assert_eq!(admit(&throttle, address, now), Err(LoginWait::Checks));
        assert_eq!(admit(&throttle, [192, 0, 2, 2].into(), now), Ok(false));
        drop(first);
        assert_eq!(admit(&throttle, address, now), Ok(false), "it was right");
        throttle.refused(address, now);
        drop(second);
        let last = throttle.admit(address, now).unwrap();
        assert_eq!(admit(&throttle, address, now), Err(LoginWait::Checks));
        throttle.refused(address, now);
        drop(last);
        let turn = LoginWait::Turn(now + WINDOW / 3);
        assert_eq!(admit(&throttle, address, now), Err(turn));
        assert!(throttle.addresses.lock().unwrap().checked.is_empty());
    }

    #[test]
    fn no_limit_and_a_bounded_table() {
        let off = Throttle::new(0);
        let now = Instant::now();
        off.refused(Ipv6Addr::LOCALHOST.into(), now);
        assert_eq!(admit(&off, Ipv6Addr::LOCALHOST.into(), now), Ok(false));
        let throttle = Throttle::new(2);
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        throttle.refused(address(0), now);
        throttle.refused(address(0), now);
        for number in 1..10_000 {
            throttle.refused(address(number), now);
        }
        assert_eq!(
            throttle.addresses.lock().unwrap().refusals.len(),
            ADDRESSES_MAX
        );
        assert!(admit(&throttle, address(0), now).is_err());
    }
}
