//! Matching one key against the wildcard patterns of a topic exchange, in any number of parts.
//!
//! A state is a word of the key and a node of the trie, and no state is met twice: the cost is
//! bounded by words x nodes, whatever a client's patterns look like; a recursive match is
//! exponential. A node behind a `#` takes any number of words and so stays *open* to the end; but a
//! branch of it that only leads to another `#` is done with once it has led there, as whatever it
//! might match later is matched from there. So of `a.#.b.#.c.#` one node is tried at a time.

use crate::hash::Seed;
use crate::route::Matches;
use crate::seen::{KEPT_MAX, SeenIds};
use crate::steps::Steps;
use crate::trie::{HASH, NONE, Trie};

/// How far a walk has come, and the memory for it: reused, so that routing allocates nothing.
#[derive(Debug, Default)]
pub(crate) struct TrieWalk {
    stage: WalkStage,
    /// The node of this stage that comes next.
    at: usize,
    /// Where the next word of the key begins; none behind the last one.
    rest: Option<usize>,
    /// The nodes that the words so far lead to.
    live: Vec<u32>,
    next: Vec<u32>,
    /// Nodes behind a `#` that were met.
    open: SeenIds,
    /// How many branches of each are still of use.
    branches: Vec<u32>,
    /// Places in `open` of those that have any.
    active: Vec<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum WalkStage {
    /// The `#` children of live nodes are opened: they match whatever follows.
    #[default]
    Open,
    /// A word leads from live and open nodes to others.
    Word,
    /// The key is over: what ends at live nodes matches.
    End,
}

impl TrieWalk {
    /// Begins with a key.
    pub(crate) fn begin(&mut self, trie: &Trie, key: &[u8]) {
        self.stage = WalkStage::Open;
        self.at = 0;
        // The empty key has no words.
        self.rest = (!key.is_empty()).then_some(0);
        self.live.clear();
        self.live.extend(trie.root);
        self.open.clear();
        self.branches.clear();
        self.active.clear();
    }

    /// Gives back the memory of a long walk.
    pub(crate) fn trim(&mut self) {
        self.open.trim();
        for list in [
            &mut self.live,
            &mut self.next,
            &mut self.branches,
            &mut self.active,
        ] {
            if list.capacity() > KEPT_MAX {
                *list = Vec::new();
            }
        }
    }

    /// The node that a word is tried on next; those that are done with are forgotten.
    fn next_node(&mut self) -> Option<u32> {
        loop {
            let Some(at) = self.at.checked_sub(self.live.len()) else {
                return self.live.get(self.at).copied();
            };
            let place = *self.active.get(at)? as usize;
            if self.branches.get(place).is_some_and(|left| *left > 0) {
                return self.open.get(place);
            }
            self.active.swap_remove(at);
        }
    }

    fn is_over(&self) -> bool {
        self.live.is_empty() && self.active.is_empty()
    }
}

impl Trie {
    /// Goes on to write the targets of every pattern that matches the key that the walk began with;
    /// false if there is more to do than there are steps.
    pub(crate) fn go_on(
        &self,
        seed: Seed,
        key: &[u8],
        (walk, found): (&mut TrieWalk, &mut Matches),
        steps: &mut Steps,
    ) -> bool {
        while !walk.is_over() {
            match walk.stage {
                WalkStage::Open => {
                    if !self.open_all(seed, (walk, found), steps) {
                        return false;
                    }
                    let more = walk.rest.is_some();
                    walk.stage = if more {
                        WalkStage::Word
                    } else {
                        WalkStage::End
                    };
                }
                WalkStage::Word => {
                    let (word, rest) = word_at(key, walk.rest);
                    if !self.step_all(seed, word, walk, steps) {
                        return false;
                    }
                    walk.rest = rest;
                    std::mem::swap(&mut walk.live, &mut walk.next);
                    walk.next.clear();
                    walk.stage = WalkStage::Open;
                }
                WalkStage::End => return self.end(walk, found, steps),
            }
            walk.at = 0;
        }
        true
    }

    #[inline]
    fn open_all(
        &self,
        seed: Seed,
        (walk, found): (&mut TrieWalk, &mut Matches),
        steps: &mut Steps,
    ) -> bool {
        while let Some(id) = walk.live.get(walk.at).copied() {
            if !steps.take() {
                return false;
            }
            walk.at += 1;
            let Some(hash) = self.nodes.get(id).map(|node| node.hash) else {
                continue;
            };
            if hash == NONE {
                continue;
            }
            let Some(node) = self.nodes.get(hash) else {
                continue;
            };
            if !walk.open.insert(seed, hash) {
                continue;
            }
            node.targets.emit(found, steps);
            // A `#` has no wildcard children.
            if node.children > 0 {
                walk.active.push(walk.branches.len() as u32);
            }
            walk.branches.push(node.children);
            self.close_branch(seed, id, walk, steps);
        }
        true
    }

    /// Behind this node a `#` was opened. If nothing else is behind it, it need not be met again;
    /// nor what only leads here, up to the `#` before.
    fn close_branch(&self, seed: Seed, mut id: u32, walk: &mut TrieWalk, steps: &mut Steps) {
        let mut others = 0;
        while let Some(node) = self.nodes.get(id) {
            steps.took(1);
            let children = node.children + u32::from(node.star != NONE);
            if !node.targets.is_empty() || children > others {
                return;
            }
            others = 1;
            id = node.parent;
            if self.nodes.get(id).is_some_and(|node| node.step == HASH) {
                let place = walk.open.place(seed, id);
                if let Some(left) = place.and_then(|at| walk.branches.get_mut(at)) {
                    *left = left.saturating_sub(1);
                }
                return;
            }
        }
    }

    #[inline]
    fn step_all(&self, seed: Seed, word: &[u8], walk: &mut TrieWalk, steps: &mut Steps) -> bool {
        let word = self.words.find(seed, word);
        while let Some(id) = walk.next_node() {
            if !steps.take() {
                return false;
            }
            walk.at += 1;
            let Some(node) = self.nodes.get(id) else {
                continue;
            };
            if node.star != NONE {
                walk.next.push(node.star);
            }
            if node.children > 0
                && let Some(word) = word
                && let Some(child) = self.edge(seed, id, word)
            {
                walk.next.push(child);
            }
        }
        true
    }

    fn end(&self, walk: &mut TrieWalk, found: &mut Matches, steps: &mut Steps) -> bool {
        while let Some(id) = walk.live.get(walk.at) {
            if !steps.take() {
                return false;
            }
            walk.at += 1;
            if let Some(node) = self.nodes.get(*id) {
                node.targets.emit(found, steps);
            }
        }
        true
    }
}

/// The word of a key that begins there, and where the one behind it does.
#[inline]
fn word_at(key: &[u8], from: Option<usize>) -> (&[u8], Option<usize>) {
    let rest = from.and_then(|from| key.get(from..));
    let (Some(from), Some(rest)) = (from, rest) else {
        return (&[], None);
    };
    match rest.iter().position(|byte| *byte == b'.') {
        Some(dot) => (rest.get(..dot).unwrap_or_default(), Some(from + dot + 1)),
        None => (rest, None),
    }
}
