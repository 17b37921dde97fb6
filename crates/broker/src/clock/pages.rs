//! Chunks that come back from the disk.

use crate::broker::Broker;
use crate::broker::paging::PageIn;
use crate::queue::effects::Effects;
use crate::queue::pump::Pump;

impl Broker {
    /// Reads a chunk, with nothing locked meanwhile, and runs its queue.
    pub fn finish_page_in(&self, PageIn { cell, read }: PageIn, effects: &mut Effects) {
        let page = self.read_page_surely(read.place);
        let mut state = cell.lock();
        if !cell.is_deleted() {
            self.put_page((&cell, &mut state), &read, page, effects);
            cell.run(&mut state, &mut Pump::new(&cell, effects));
        }
        drop(state);
        // The timer goes on with what died.
        effects.briefly = true;
        self.submit(effects);
        effects.wake();
    }
}
