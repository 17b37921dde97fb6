//! Topic keys with wildcards, as a flat trie of interned words.
//!
//! A node's literal children are found in one set for the whole trie by (parent, word); its `*` and
//! `#` children are fields. Matching (`walk.rs`) goes over all live nodes word by word.

use crate::hash::Seed;
use crate::slab::{IdSet, Slab};
use crate::targets::{Target, Targets};
use crate::words::Words;

/// Wildcard bindings of one topic exchange.
#[derive(Debug, Default)]
pub(crate) struct Trie {
    pub(crate) nodes: Slab<Node>,
    /// There from the first binding to the last.
    pub(crate) root: Option<u32>,
    edges: IdSet,
    pub(crate) words: Words,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) parent: u32,
    /// The step that leads here: a word, `STAR` or `HASH`.
    pub(crate) step: u32,
    pub(crate) star: u32,
    pub(crate) hash: u32,
    /// How many children by word there are.
    pub(crate) children: u32,
    pub(crate) targets: Targets,
}

/// One step of a pattern.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum PatternStep<'a> {
    Word(&'a [u8]),
    Star,
    Hash,
}

impl Trie {
    pub(crate) fn add(&mut self, seed: Seed, pattern: &[u8], target: Target) {
        let root = match self.root {
            Some(root) => root,
            None => self.nodes.insert(Node::new(NONE, NONE)),
        };
        self.root = Some(root);
        let node = steps(pattern).fold(root, |node, step| self.child_or_new(seed, node, step));
        if let Some(node) = self.nodes.get_mut(node) {
            node.targets.add(target);
        }
    }

    pub(crate) fn remove(&mut self, seed: Seed, pattern: &[u8], target: Target) {
        let Some(root) = self.root else { return };
        let found = steps(pattern).try_fold(root, |node, step| self.child(seed, node, step));
        let Some(id) = found else { return };
        if let Some(node) = self.nodes.get_mut(id) {
            node.targets.remove(target);
        }
        self.prune(seed, id);
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    #[inline]
    pub(crate) fn edge(&self, seed: Seed, parent: u32, word: u32) -> Option<u32> {
        self.edges.find(seed.pair(parent, word), |id| {
            self.nodes
                .get(*id)
                .is_some_and(|node| node.parent == parent && node.step == word)
        })
    }

    fn child(&self, seed: Seed, parent: u32, step: PatternStep<'_>) -> Option<u32> {
        let node = self.nodes.get(parent)?;
        match step {
            PatternStep::Star => Some(node.star).filter(|id| *id != NONE),
            PatternStep::Hash => Some(node.hash).filter(|id| *id != NONE),
            PatternStep::Word(text) => self.edge(seed, parent, self.words.find(seed, text)?),
        }
    }

    fn child_or_new(&mut self, seed: Seed, parent: u32, step: PatternStep<'_>) -> u32 {
        if let Some(child) = self.child(seed, parent, step) {
            return child;
        }
        let word = match step {
            PatternStep::Star => STAR,
            PatternStep::Hash => HASH,
            PatternStep::Word(text) => self.words.acquire(seed, text),
        };
        let child = self.nodes.insert(Node::new(parent, word));
        if let Some(node) = self.nodes.get_mut(parent) {
            match step {
                PatternStep::Star => node.star = child,
                PatternStep::Hash => node.hash = child,
                PatternStep::Word(_) => node.children += 1,
            }
        }
        if let PatternStep::Word(_) = step {
            let nodes = &self.nodes;
            self.edges.insert(seed.pair(parent, word), child, |id| {
                edge_hash(nodes, seed, id)
            });
        }
        child
    }

    /// Frees a node that leads nowhere, and every node above it that then leads nowhere.
    fn prune(&mut self, seed: Seed, mut id: u32) {
        while let Some(node) = self.nodes.get(id) {
            if !node.targets.is_empty() || node.has_children() {
                return;
            }
            let (parent, step) = (node.parent, node.step);
            if step < HASH {
                let nodes = &self.nodes;
                let hash = seed.pair(parent, step);
                self.edges.remove(hash, id, |id| edge_hash(nodes, seed, id));
                self.words.release(seed, step);
            }
            self.nodes.remove(id);
            if parent == NONE {
                self.root = None;
                return;
            }
            if let Some(node) = self.nodes.get_mut(parent) {
                match step {
                    STAR => node.star = NONE,
                    HASH => node.hash = NONE,
                    _ => node.children -= 1,
                }
            }
            id = parent;
        }
    }
}

impl Node {
    fn new(parent: u32, step: u32) -> Self {
        Self {
            parent,
            step,
            star: NONE,
            hash: NONE,
            children: 0,
            targets: Targets::default(),
        }
    }

    fn has_children(&self) -> bool {
        self.children > 0 || self.star != NONE || self.hash != NONE
    }
}

/// Whether a binding key needs the trie.
pub(crate) fn has_wildcard(key: &[u8]) -> bool {
    words(key).any(|word| matches!(word, b"*" | b"#"))
}

/// The words of a key. The empty key has none; every dot separates two, possibly empty, words.
fn words(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(key).filter(|key| !key.is_empty());
    std::iter::from_fn(move || {
        let key = rest?;
        let Some(dot) = key.iter().position(|byte| *byte == b'.') else {
            return rest.take();
        };
        let (word, tail) = key.split_at_checked(dot)?;
        rest = tail.get(1..);
        Some(word)
    })
}

/// The steps of a pattern, each run of wildcards in one form: its stars, then at most one `#`.
///
/// `#.#` matches what `#` does and `#.*` what `*.#` does. So no `#` node has a wildcard child,
/// and a pattern of a hundred `#` costs what one costs.
fn steps(pattern: &[u8]) -> impl Iterator<Item = PatternStep<'_>> {
    let mut words = words(pattern).peekable();
    let mut hash = false;
    std::iter::from_fn(move || {
        loop {
            let wild = words.next_if(|word| matches!(*word, b"*" | b"#"));
            match wild {
                Some(b"*") => return Some(PatternStep::Star),
                Some(_) => hash = true,
                None if hash => {
                    hash = false;
                    return Some(PatternStep::Hash);
                }
                None => return words.next().map(PatternStep::Word),
            }
        }
    })
}

fn edge_hash(nodes: &Slab<Node>, seed: Seed, id: u32) -> u64 {
    nodes
        .get(id)
        .map_or(0, |node| seed.pair(node.parent, node.step))
}

pub(crate) const NONE: u32 = u32::MAX;
const STAR: u32 = u32::MAX - 1;
pub(crate) const HASH: u32 = u32::MAX - 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Matches;
    use crate::steps::Steps;
    use crate::targets::QueueId;
    use crate::walk::TrieWalk;

    const SEED: fn() -> Seed = || Seed::new(11);

    fn target(id: u32) -> Target {
        Target::Queue(QueueId(id))
    }

    fn matches(trie: &Trie, key: &[u8]) -> Vec<u32> {
        let (mut walk, mut found) = (TrieWalk::default(), Matches::default());
        walk.begin(trie, key);
        assert!(trie.go_on(
            SEED(),
            key,
            (&mut walk, &mut found),
            &mut Steps::unlimited()
        ));
        let mut ids: Vec<u32> = found.queues.iter().map(|q| q.0).collect();
        ids.sort_unstable();
        ids
    }

    fn one(pattern: &str) -> Trie {
        let mut trie = Trie::default();
        trie.add(SEED(), pattern.as_bytes(), target(1));
        trie
    }

    #[test]
    fn wildcards_match_as_the_topic_exchange_says() {
        for (pattern, yes, no) in [
            ("#", &["", "a", "a.b", ".", "..", "a..b"][..], &[][..]),
            ("*", &["a", "abc"], &["", "a.b", ".", "a."]),
            ("a.#", &["a", "a.", "a.b", "a.b.c"], &["", "b", "b.a", ".a"]),
            ("#.a", &["a", ".a", "b.a", "a.a"], &["", "a.b", "a."]),
            ("a.*", &["a.b", "a."], &["a", "a.b.c", "b.a"]),
            ("*.*", &[".", "a.", ".b", "a.b"], &["", "a", ".."]),
            (
                "#.a.#",
                &["a", "b.a", "a.b", "x.a.y", "a.a"],
                &["", "b", "x.b"],
            ),
            (
                "#.a.#.b.#",
                &["a.b", "x.a.y.b.z", "a.a.b.b"],
                &["b.a", "a", "b"],
            ),
            ("#.*", &["a", ".", "a.b.c"], &[""]),
            ("*.#", &["a", ".", "a.b.c"], &[""]),
            ("#.*.#.*", &["a.b", "a.b.c", "."], &["", "a"]),
            ("#.#", &["", "a", "a.b"], &[]),
            ("*..b", &["a..b", "..b"], &["a.b", "a.x.b"]),
            (
                "a.*.#.c",
                &["a.b.c", "a.b.x.c", "a.c.c"],
                &["a.c", "a.b.c.d"],
            ),
        ] {
            let trie = one(pattern);
            for key in yes {
                assert_eq!(
                    matches(&trie, key.as_bytes()),
                    [1],
                    "{pattern} should match {key:?}"
                );
            }
            for key in no {
                assert!(
                    matches(&trie, key.as_bytes()).is_empty(),
                    "{pattern} against {key:?}"
                );
            }
        }
    }

    #[test]
    fn stars_and_hashes_are_wild_only_as_whole_words() {
        assert!(!has_wildcard(b"a*.b#.**"));
        assert!(has_wildcard(b"a.*"));
        assert!(has_wildcard(b"#"));
        assert!(!has_wildcard(b""));
        assert!(matches(&one("a*.#"), b"ab.c").is_empty());
        assert_eq!(matches(&one("a*.#"), b"a*.c"), [1]);
    }

    #[test]
    fn keys_need_not_be_text() {
        let mut trie = Trie::default();
        trie.add(SEED(), b"\xff\x00.*", target(1));
        assert_eq!(matches(&trie, b"\xff\x00.\xfe"), [1]);
        assert!(matches(&trie, b"\xff.\xfe").is_empty());
    }

    #[test]
    fn removal_frees_every_node_and_word() {
        let mut trie = Trie::default();
        let patterns: Vec<Vec<u8>> = (0..500)
            .map(|i| format!("w{}.*.x{}.#.y{i}", i % 7, i % 31).into_bytes())
            .collect();
        for (id, pattern) in (0..).zip(&patterns) {
            trie.add(SEED(), pattern, target(id));
            trie.add(SEED(), pattern, target(id));
        }
        for (id, pattern) in (0..).zip(&patterns) {
            trie.remove(SEED(), pattern, target(id));
            assert!(
                matches(
                    &trie,
                    format!("w{}.q.x{}.y{id}", id % 7, id % 31).as_bytes()
                ) == [id]
            );
            trie.remove(SEED(), pattern, target(id));
        }
        assert!(trie.is_empty());
        assert_eq!((trie.nodes.len(), trie.words.len()), (0, 0));
    }

    #[test]
    fn removing_an_unknown_pattern_changes_nothing() {
        let mut trie = one("a.*");
        trie.remove(SEED(), b"a.#", target(1));
        trie.remove(SEED(), b"b.*", target(1));
        trie.remove(SEED(), b"a.*", target(2));
        assert_eq!(matches(&trie, b"a.b"), [1]);
    }

    /// The steps that matching takes.
    fn steps_of(trie: &Trie, key: &str) -> usize {
        let (mut walk, mut found) = (TrieWalk::default(), Matches::default());
        let mut steps = Steps::unlimited();
        walk.begin(trie, key.as_bytes());
        assert!(trie.go_on(SEED(), key.as_bytes(), (&mut walk, &mut found), &mut steps));
        steps.taken()
    }

    /// Random words of three.
    fn letters(words: usize, seed: usize) -> Vec<&'static str> {
        let mut state = seed as u64 + 1;
        let mut letter = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            ["a", "b", "c"][(state >> 40) as usize % 3]
        };
        (0..words).map(|_| letter()).collect()
    }

    /// `x.#.y.#.…`
    fn hashes(words: usize, seed: usize) -> String {
        letters(words, seed).join(".#.") + ".#"
    }

    #[test]
    fn a_hostile_pattern_costs_little() {
        let mut trie = one(&vec!["#"; 128].join("."));
        for depth in 1..=64 {
            let pattern = format!("{}b", "#.a.".repeat(depth));
            trie.add(SEED(), pattern.as_bytes(), target(depth as u32 + 1));
        }
        let key = vec!["a"; 128].join(".");
        assert_eq!(matches(&trie, key.as_bytes()), [1]);
        // Words times the nodes behind a `#` whose last word is still to come.
        let taken = steps_of(&trie, &key);
        assert!(taken <= 128 * 3 * 64, "{taken}");
    }

    #[test]
    fn what_is_behind_a_hash_that_was_met_is_not_tried_again() {
        const PATTERNS: usize = 150;
        const WORDS: usize = 120;
        let mut trie = Trie::default();
        for n in 0..PATTERNS {
            trie.add(SEED(), hashes(60, n).as_bytes(), target(n as u32));
        }
        let key = letters(WORDS, 12_345).join(".");
        // One node of each pattern at a time, not the sixty.
        let taken = steps_of(&trie, &key);
        assert!(taken <= PATTERNS * WORDS * 2, "{taken}");
        assert!(trie.nodes.len() > PATTERNS * WORDS / 2);
    }

    #[test]
    fn a_walk_that_is_interrupted_at_every_step_finds_the_same() {
        let mut trie = Trie::default();
        for n in 0..40 {
            trie.add(SEED(), hashes(n % 9 + 1, n).as_bytes(), target(n as u32));
            let stars = "*.".repeat(n % 5) + "a.#.b";
            trie.add(SEED(), stars.as_bytes(), target(100 + n as u32));
        }
        for key in [
            "",
            "a",
            "a.b.c.a.b.a.c.c.b.a.b",
            "b.b.a.b",
            "c.a.b.c.a.b.c.b",
        ] {
            let (mut walk, mut found) = (TrieWalk::default(), Matches::default());
            walk.begin(&trie, key.as_bytes());
            let mut turns = 1;
            while !trie.go_on(
                SEED(),
                key.as_bytes(),
                (&mut walk, &mut found),
                &mut Steps::new(1),
            ) {
                turns += 1;
            }
            let mut ids: Vec<u32> = found.queues.iter().map(|q| q.0).collect();
            ids.sort_unstable();
            assert_eq!(ids, matches(&trie, key.as_bytes()), "{key}");
            assert!(turns * 2 > steps_of(&trie, key), "{turns}");
        }
    }

    #[test]
    fn a_node_takes_forty_eight_bytes_at_most() {
        assert!(
            size_of::<Option<Node>>() <= 48,
            "{}",
            size_of::<Option<Node>>()
        );
    }
}
