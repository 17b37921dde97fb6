//! What copies of dead messages are made of.

use std::sync::Arc;

use leveret_codec::Properties;
use leveret_queue::{Attempts, Message, MessageBody};
use leveret_record::{Blob, Memory};

use super::corpses::{Corpse, CorpseRun};
use super::kind::DeathKind;

/// The copies of a run, each made of the dead message at the same place; kept between runs for its
/// memory.
#[derive(Default)]
pub(super) struct Copies {
    headers: Vec<u8>,
    each: Vec<(Written, Option<Arc<Blob>>)>,
}

/// What is the same of all copies with the same header.
#[derive(Clone, Copy)]
struct Written {
    /// The header is from here
    start: usize,
    /// to here.
    end: usize,
    priority: u8,
    persistent: bool,
}

impl Copies {
    /// Makes copies of those at the beginning of a run that are of this kind; gives how many these
    /// are.
    pub(super) fn make(&mut self, run: CorpseRun<'_>, kind: &DeathKind, memory: &Memory) -> usize {
        self.headers.clear();
        self.each.clear();
        self.each.reserve(run.len());
        let by_many = kind.onward.targets.len() > 1;
        let mut before: Option<(Corpse<'_>, Written)> = None;
        for corpse in run.iter() {
            let written = match before {
                Some((other, written)) if other.is_like(&corpse) => Some(written),
                _ => self.write(&corpse, kind),
            };
            let Some(written) = written else { break };
            self.each.push((written, corpse.shared(by_many, memory)));
            before = Some((corpse, written));
        }
        self.each.len()
    }

    /// Writes a header; none for another kind.
    fn write(&mut self, corpse: &Corpse<'_>, kind: &DeathKind) -> Option<Written> {
        let properties = Properties::decode(corpse.header).ok()?;
        if !kind.covers(corpse, &properties) {
            return None;
        }
        let (start, out) = (self.headers.len(), &mut self.headers);
        let letter = &kind.onward.letter;
        letter.write_header(&properties, corpse.body_bytes(), out);
        Some(Written {
            start,
            end: out.len(),
            priority: properties.priority.unwrap_or(0),
            persistent: corpse.is_persistent(),
        })
    }

    /// The copies as messages that go this way, and are taken now.
    pub(super) fn messages<'a>(
        &'a self,
        run: CorpseRun<'a>,
        (route, entered_ms): (&'a [u8], u64),
    ) -> impl Iterator<Item = Message<'a>> {
        let copies = self.each.iter().zip(run.iter());
        copies.map(move |((written, blob), corpse)| Message {
            route,
            header: self
                .headers
                .get(written.start..written.end)
                .unwrap_or_default(),
            body: match blob {
                Some(blob) => MessageBody::Shared(blob),
                None => MessageBody::Inline(corpse.body),
            },
            entered_ms,
            expiration_ms: None,
            priority: written.priority,
            persistent: written.persistent,
            deaths: true,
            attempts: Attempts::NONE,
        })
    }
}
