//! The words of a topic exchange's wildcard keys, each stored once and counted.

use crate::hash::Seed;
use crate::slab::{IdSet, Slab};

/// Words by number.
#[derive(Debug, Default)]
pub(crate) struct Words {
    words: Slab<Word>,
    by_text: IdSet,
}

#[derive(Debug)]
struct Word {
    text: Box<[u8]>,
    /// Trie edges that carry this word.
    uses: u32,
}

impl Words {
    #[inline]
    pub(crate) fn find(&self, seed: Seed, text: &[u8]) -> Option<u32> {
        self.by_text
            .find(seed.bytes(text), |id| self.text(*id) == text)
    }

    /// The word's number, counting one more use.
    pub(crate) fn acquire(&mut self, seed: Seed, text: &[u8]) -> u32 {
        if let Some(id) = self.find(seed, text) {
            if let Some(word) = self.words.get_mut(id) {
                word.uses += 1;
            }
            return id;
        }
        let id = self.words.insert(Word {
            text: text.into(),
            uses: 1,
        });
        let words = &self.words;
        self.by_text
            .insert(seed.bytes(text), id, |id| hash_of(words, seed, id));
        id
    }

    /// Counts one use less; the last one frees the word.
    pub(crate) fn release(&mut self, seed: Seed, id: u32) {
        let Some(word) = self.words.get_mut(id) else {
            return;
        };
        word.uses -= 1;
        if word.uses == 0 {
            let hash = seed.bytes(&word.text);
            let words = &self.words;
            self.by_text.remove(hash, id, |id| hash_of(words, seed, id));
            self.words.remove(id);
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.words.len()
    }

    fn text(&self, id: u32) -> &[u8] {
        self.words.get(id).map_or(&[], |word| &word.text)
    }
}

fn hash_of(words: &Slab<Word>, seed: Seed, id: u32) -> u64 {
    words.get(id).map_or(0, |word| seed.bytes(&word.text))
}
