//! The shared bodies of a chunk's records.

use std::sync::Arc;

use leveret_record::Blob;

/// Most chunks hold no blob and most others one; only the rest pay for a list.
#[derive(Debug, Default)]
pub(crate) enum Blobs {
    #[default]
    None,
    One(Option<Arc<Blob>>),
    Many(Vec<Option<Arc<Blob>>>),
}

impl Blobs {
    pub(crate) fn push(&mut self, blob: Arc<Blob>) -> u32 {
        match self {
            Self::None => {
                *self = Self::One(Some(blob));
                0
            }
            Self::One(first) => {
                *self = Self::Many(vec![first.take(), Some(blob)]);
                1
            }
            Self::Many(list) => {
                list.push(Some(blob));
                u32::try_from(list.len() - 1).unwrap_or(u32::MAX)
            }
        }
    }

    pub(crate) fn slot(&mut self, index: u32) -> Option<&mut Option<Arc<Blob>>> {
        match self {
            Self::None => None,
            Self::One(blob) => (index == 0).then_some(blob),
            Self::Many(list) => list.get_mut(index as usize),
        }
    }

    pub(crate) fn get(&self, index: u32) -> Option<&Arc<Blob>> {
        match self {
            Self::None => None,
            Self::One(blob) => blob.as_ref(),
            Self::Many(list) => list.get(index as usize)?.as_ref(),
        }
    }

    /// All that are there, each with its index.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Arc<Blob>)> {
        let all = match self {
            Self::None => &[],
            Self::One(blob) => std::slice::from_ref(blob),
            Self::Many(list) => list.as_slice(),
        };
        let slots = (0u32..).zip(all);
        slots.filter_map(|(index, blob)| Some((index, blob.as_ref()?)))
    }

    /// Puts one back at its index, which is higher than those of all before it.
    pub(crate) fn put(&mut self, index: u32, blob: Arc<Blob>) {
        match self {
            Self::None if index == 0 => *self = Self::One(Some(blob)),
            Self::Many(list) => {
                list.resize(index as usize, None);
                list.push(Some(blob));
            }
            before => {
                let mut list = Vec::new();
                if let Self::One(first) = before {
                    list.push(first.take());
                }
                list.resize(index as usize, None);
                list.push(Some(blob));
                *before = Self::Many(list);
            }
        }
    }
}
