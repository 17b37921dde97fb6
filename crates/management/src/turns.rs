//! Whose request is worked on: so many at a time, of which one user has half.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// One user has no more than one part in so many of all turns.
const USER_PART: usize = 2;
/// Users remembered before those without a request are forgotten.
const USERS: usize = 256;

/// The turns there are.
#[derive(Debug)]
pub(crate) struct Turns {
    all: Arc<Semaphore>,
    of_one: usize,
    of_user: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// A request that is worked on, until this is dropped.
#[derive(Debug)]
pub(crate) struct RequestTurn {
    _of_user: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Turns {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(max)),
            of_one: max.div_ceil(USER_PART),
            of_user: Mutex::default(),
        }
    }

    /// Waits for a turn: for one of the user's own first, so that nobody else waits for those of a
    /// user who has many requests.
    pub(crate) async fn take(&self, user: &str) -> Option<RequestTurn> {
        let own = self.of(user);
        Some(RequestTurn {
            _of_user: own.acquire_owned().await.ok()?,
            _of_all: Arc::clone(&self.all).acquire_owned().await.ok()?,
        })
    }

    fn of(&self, user: &str) -> Arc<Semaphore> {
        let mut of_user = self.of_user.lock();
        if let Some(own) = of_user.get(user).and_then(Weak::upgrade) {
            return own;
        }
        if of_user.len() >= USERS {
            of_user.retain(|_, own| own.strong_count() > 0);
        }
        let own = Arc::new(Semaphore::new(self.of_one));
        of_user.insert(user.to_owned(), Arc::downgrade(&own));
        own
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn one_user_has_half_of_all_turns_and_waits_for_its_own() {
        let turns = Turns::new(4);
        let now = Duration::from_millis(1);
        let first = turns.take("a").await;
        let _second = turns.take("a").await;
        assert!(timeout(now, turns.take("a")).await.is_err());
        let _other = turns.take("b").await;
        drop(first);
        assert!(timeout(now, turns.take("a")).await.is_ok());
    }
}
