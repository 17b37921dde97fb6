//! Names the server makes up: `amq.gen-…` for queues, `amq.ctag-…` for consumers.

use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// A generator of names, from one secret. What it gave tells neither what it gives next nor the
/// secret.
#[derive(Debug)]
pub(crate) struct NameGenerator {
    count: AtomicU64,
    secret: [u8; 32],
}

impl NameGenerator {
    pub(crate) const fn new(secret: [u8; 32]) -> Self {
        Self {
            count: AtomicU64::new(0),
            secret,
        }
    }

    /// Bits that do not come again: a password's salt.
    pub(crate) fn chance(&self) -> [u8; 16] {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let digest: [u8; 32] = Sha256::new()
            .chain_update(self.secret)
            .chain_update(count.to_le_bytes())
            .finalize()
            .into();
        digest.first_chunk().copied().unwrap_or_default()
    }

    /// A name nobody can expect to exist, of the 128 bits that RabbitMQ's names have.
    pub(crate) fn next(&self, prefix: &str) -> String {
        let mut name = prefix.to_owned();
        URL_SAFE_NO_PAD.encode_string(self.chance(), &mut name);
        name
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_differ_and_have_rabbitmqs_form() {
        let names = NameGenerator::new([7; 32]);
        let made: HashSet<_> = (0..1000).map(|_| names.next("amq.gen-")).collect();
        assert_eq!(made.len(), 1000);
        let is_of_form = |name: &String| {
            name.strip_prefix("amq.gen-").is_some_and(|rest| {
                rest.len() == 22
                    && rest
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            })
        };
        assert!(made.iter().all(is_of_form));
        let other = NameGenerator::new([8; 32]);
        assert!((0..1000).all(|_| !made.contains(&other.next("amq.gen-"))));
    }
}
