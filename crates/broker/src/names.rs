//! Names the server makes up: `amq.gen-…` for queues, `amq.ctag-…` for consumers.

use std::sync::atomic::{AtomicU64, Ordering};

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// 22 characters of 6 bits carry the 128 bits RabbitMQ's names have.
const LENGTH: usize = 22;

/// A generator of names, from one seed.
#[derive(Debug)]
pub(crate) struct Names {
    state: AtomicU64,
    seed: u64,
}

impl Names {
    pub(crate) const fn new(seed: u64) -> Self {
        Self {
            state: AtomicU64::new(seed),
            seed,
        }
    }

    /// Bits that do not come again: a password's salt.
    pub(crate) fn chance(&self) -> [u8; 16] {
        let [low, high] = self.words().map(u128::from);
        (low | high << 64).to_le_bytes()
    }

    fn words(&self) -> [u64; 2] {
        let count = self
            .state
            .fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        [mix(count), mix(count ^ mix(self.seed))]
    }

    /// A name nobody can expect to exist.
    pub(crate) fn next(&self, prefix: &str) -> String {
        let mut words = self.words();
        let mut name = String::with_capacity(prefix.len() + LENGTH);
        name.push_str(prefix);
        for word in &mut words {
            for _ in 0..LENGTH / 2 {
                let letter = ALPHABET.get((*word % 64) as usize);
                name.extend(letter.copied().map(char::from));
                *word /= 64;
            }
        }
        name
    }
}

/// The finaliser of splitmix64.
const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_and_have_rabbitmqs_form() {
        let names = Names::new(7);
        let made: std::collections::HashSet<_> =
            (0..1000).map(|_| names.next("amq.gen-")).collect();
        assert_eq!(made.len(), 1000);
        assert!(
            made.iter()
                .all(|name| name.len() == 30 && name.starts_with("amq.gen-"))
        );
    }
}
