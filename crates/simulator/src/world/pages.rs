//! Chunks that leave memory and come back, in whatever order.

use leveret_broker::PageOut;

use super::World;
use crate::model::StepKind;

impl World {
    /// A chunk leaves memory or comes back, or is begun with; `false` when there is none.
    pub(super) fn page_something(&mut self) -> Result<bool, String> {
        let Some(rng) = &mut self.page_rng else {
            return Ok(false);
        };
        let (begins, chance) = (rng.one_in(2), rng.below(1 << 20));
        match self.page_out.take() {
            Some(mut out) => {
                let written = self.broker.finish_page_out(&mut out);
                written.map_err(|error| error.to_string())?;
                self.note(|| "chunks have left memory".into());
            }
            None => {
                let mut out = PageOut::default();
                self.page_out = self.broker.begin_page_out(&mut out).then_some(out);
            }
        }
        self.broker.give_runs_back();
        if begins && let Some(page) = self.broker.begin_page_in() {
            self.pages.push(page);
        } else if !self.pages.is_empty() {
            let pick = chance as usize % self.pages.len();
            let page = self.pages.remove(pick);
            self.broker.finish_page_in(page, &mut self.due);
            self.note(|| "a chunk is back in memory".into());
        } else if self.page_out.is_none() {
            let page = self.broker.begin_page_in();
            let begun = page.is_some();
            self.pages.extend(page);
            return Ok(begun);
        }
        self.record(None, None, StepKind::Tick)?;
        Ok(true)
    }
}
