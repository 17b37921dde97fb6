//! The topic trie against a matcher that is too simple to be wrong.

use std::collections::BTreeSet;

use leveret_codec::Table;
use leveret_router::{BindingSpec, Destination, QueueId, Router, Routes};

const EXCHANGE: &str = "amq.topic";
const QUEUES: u8 = 12;
const WORDS: [&[u8]; 8] = [b"a", b"b", b"", b"*", b"#", b"**", b"a#", b"long.word"];
/// Words of one pattern or key; the naive matcher is exponential in the wildcards.
const WORDS_MAX: usize = 8;

/// Reads input as binding, unbinding, deleting queues and routing on one topic exchange.
pub fn topic_match(input: &[u8]) {
    let mut world = World::default();
    for queue in 0..QUEUES {
        world.add_queue(queue);
    }
    let mut rest = Some(input);
    while let Some(input) = rest.filter(|input| !input.is_empty()) {
        rest = world.apply(input);
    }
    for key in std::mem::take(&mut world.keys) {
        world.route(&key);
    }
}

#[derive(Default)]
struct World {
    router: Router,
    bound: BTreeSet<(u8, Vec<u8>)>,
    keys: BTreeSet<Vec<u8>>,
    routes: Routes,
}

impl World {
    fn add_queue(&mut self, queue: u8) {
        let name = format!("q{queue}");
        assert!(self.router.add_queue(&name, QueueId(queue.into())));
    }

    /// Takes one operation off the input.
    fn apply<'a>(&mut self, input: &'a [u8]) -> Option<&'a [u8]> {
        let (&[operation, queue], rest) = input.split_first_chunk()?;
        let queue = queue % QUEUES;
        if operation % 16 == 15 {
            self.router.remove_queue(QueueId(queue.into()));
            self.bound.retain(|(of, _)| *of != queue);
            self.add_queue(queue);
            return Some(rest);
        }
        let count = usize::from(operation >> 4).min(WORDS_MAX).min(rest.len());
        let (picks, rest) = rest.split_at(count);
        let words: Vec<&[u8]> = picks
            .iter()
            .map(|pick| WORDS[usize::from(pick % 8)])
            .collect();
        let words = words.join(&b'.');
        match operation % 16 {
            0..7 => self.bind(queue, words),
            7..10 => self.unbind(queue, words),
            _ => {
                self.route(&words);
                self.keys.insert(words);
            }
        }
        Some(rest)
    }

    fn bind(&mut self, queue: u8, pattern: Vec<u8>) {
        let new = self.router.bind(&spec(queue, &pattern));
        assert_eq!(new, Ok(self.bound.insert((queue, pattern))));
    }

    fn unbind(&mut self, queue: u8, pattern: Vec<u8>) {
        let removed = self.router.unbind(&spec(queue, &pattern));
        assert!(removed.is_ok());
        self.bound.remove(&(queue, pattern));
        assert_eq!(self.router.binding_count(), self.bound.len());
    }

    fn route(&mut self, key: &[u8]) {
        let found = self
            .router
            .route(EXCHANGE.as_bytes(), &[key], None, &mut self.routes);
        assert!(found.is_ok());
        let matching = self
            .bound
            .iter()
            .filter(|(_, pattern)| matches(pattern, key));
        let expected: BTreeSet<_> = matching
            .map(|(queue, _)| QueueId((*queue).into()))
            .collect();
        let expected: Vec<_> = expected.into_iter().collect();
        assert_eq!(self.routes.queues(), expected, "{}", key.escape_ascii());
    }
}

fn spec(queue: u8, pattern: &[u8]) -> BindingSpec {
    BindingSpec {
        source: EXCHANGE.into(),
        destination: Destination::Queue(QueueId(queue.into())),
        key: pattern.into(),
        arguments: Table::new(),
    }
}

/// What the specification says, word by word.
fn matches(pattern: &[u8], key: &[u8]) -> bool {
    fn words(key: &[u8]) -> Vec<&[u8]> {
        if key.is_empty() {
            Vec::new()
        } else {
            key.split(|byte| *byte == b'.').collect()
        }
    }
    fn rest_matches(pattern: &[&[u8]], key: &[&[u8]]) -> bool {
        match (pattern, key) {
            ([], []) => true,
            ([b"#", rest @ ..], _) => {
                rest_matches(rest, key) || !key.is_empty() && rest_matches(pattern, &key[1..])
            }
            ([word, rest @ ..], [first, others @ ..]) => {
                (*word == b"*" || word == first) && rest_matches(rest, others)
            }
            _ => false,
        }
    }
    rest_matches(&words(pattern), &words(key))
}
