//! What all connections came to, together and by virtual host.

use std::collections::HashMap;

use crate::broker::Broker;
use crate::context::stats::Totals;

impl Broker {
    /// Messages, sizes and bytes of all connections since the broker was started.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let (peers, mut totals) = {
            let peers = self.peers.lock();
            let open: Vec<_> = peers.values().cloned().collect();
            (open, self.ended.get())
        };
        for peer in peers {
            totals += peer.totals();
        }
        totals
    }

    /// The same by virtual host, since it was made; nothing of one that was never used.
    #[must_use]
    pub fn totals_by_vhost(&self) -> HashMap<String, Totals> {
        let mut totals = HashMap::new();
        let vhosts = self.vhosts();
        // Under one lock whoever ends meanwhile is counted as open, or as ended.
        let peers = self.peers.lock();
        for vhost in vhosts {
            let ended = vhost.ended.get();
            if ended != Totals::default() {
                totals.insert(vhost.name.to_string(), ended);
            }
        }
        let open: Vec<_> = peers.values().cloned().collect();
        drop(peers);
        for peer in open {
            let counted = peer.totals();
            let vhost = peer.client.vhost.lock();
            if let Some(totals) = totals.get_mut(&*vhost) {
                *totals += counted;
            } else {
                totals.insert(vhost.clone(), counted);
            }
        }
        totals
    }

    /// Counts what happened on behalf of no connection, such as a publish over HTTP.
    pub fn count(&self, totals: Totals) {
        self.ended.add(totals);
    }
}
