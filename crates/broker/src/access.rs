//! Who may do what: passwords checked, and users at work in a virtual host.

pub(crate) mod acting;

use leveret_access::{Access, Denied, PasswordHash, Scratch, User, UserLimits};

use crate::broker::Broker;

impl Broker {
    /// Hashes a password as new ones are. Not while administrating: it may be slow.
    #[must_use]
    pub fn hash_password(&self, password: &str) -> PasswordHash {
        let hashing = self.limits().password_hashing;
        let chance = self.names.chance();
        let hash = |scratch: &mut Scratch| PasswordHash::new(hashing, password, chance, scratch);
        if !hashing.is_slow() {
            return hash(&mut Scratch::default());
        }
        let mut slow = None;
        self.aside(|scratch| slow = Some(hash(scratch)));
        slow.unwrap_or_else(|| hash(&mut Scratch::default()))
    }

    /// Makes every refused password cost the same, the slowest check there is: the time it takes
    /// would tell who is a user.
    fn pretend(&self, checked: Option<&PasswordHash>, password: &[u8]) {
        let slowest = self.access.read().slowest();
        if checked.is_none_or(|hash| slowest.is_slow() && !hash.hashing().is_slow()) {
            self.verify(&PasswordHash::decoy(slowest), password);
        }
    }

    /// Checks a password against a hash; a slow one only once for each right password.
    fn verify(&self, hash: &PasswordHash, password: &[u8]) -> bool {
        if !hash.is_slow_for(password, &self.secret) {
            return hash.verify(password, &self.secret, &mut Scratch::default());
        }
        let mut right = false;
        self.aside(|scratch| right = hash.verify(password, &self.secret, scratch));
        right
    }

    /// Does slow work where nobody else waits for it, one piece at a time.
    fn aside(&self, mut work: impl FnMut(&mut Scratch)) {
        (self.config.aside)(&mut || work(&mut self.slow.lock()));
    }

    /// A copy of what is known of a user.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<User> {
        self.access.read().user(name).cloned()
    }

    pub(crate) fn user_limits(&self, name: &str) -> UserLimits {
        let access = self.access.read();
        access
            .user(name)
            .map(|user| user.limits)
            .unwrap_or_default()
    }

    /// Looks at users and permissions.
    pub fn with_access<T>(&self, look: impl FnOnce(&Access) -> T) -> T {
        look(&self.access.read())
    }

    /// Checks a password and where the user comes from.
    ///
    /// # Errors
    /// Why the login is refused; clients are told only that it is.
    pub fn authenticate(
        &self,
        user: &str,
        password: &[u8],
        loopback: bool,
    ) -> Result<User, Denied> {
        let found = self.user(user);
        let hash = found.as_ref().and_then(|found| found.password.as_ref());
        if !hash.is_some_and(|hash| self.verify(hash, password)) {
            self.pretend(hash, password);
            return Err(Denied::Credentials);
        }
        let found = found.ok_or(Denied::Credentials)?;
        if !self.access.read().may_log_in_from(user, loopback) {
            return Err(Denied::NotLoopback);
        }
        Ok(found)
    }

    /// Replaces the list of users that may log in from the broker's machine only.
    pub fn set_loopback_only(&self, users: Vec<String>) {
        self.access.write().set_loopback_only(users);
    }
}
