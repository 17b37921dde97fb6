//! Policies applied to what exists in a virtual host.

use std::sync::Arc;

use leveret_settings::ExchangeSettings;

use crate::context::config::QueueDefaults;
use crate::queue::cell::QueueCell;
use crate::queue::effects::Effects;
use crate::queue::pump::Pump;
use crate::settings::arguments::InForce;
use crate::settings::policy::Object;
use crate::vhost::{Directory, Vhost};

impl Vhost {
    /// Looks anew at what applies to a queue; tells whether deliveries of it may have to be settled
    /// sooner than before.
    pub(crate) fn apply_to_queue(
        &self,
        cell: &Arc<QueueCell>,
        defaults: QueueDefaults,
        effects: &mut Effects,
    ) -> bool {
        let policy = self.rules.read().effective(cell.object());
        let mut state = cell.lock();
        if cell.is_deleted() || state.policy == policy {
            return false;
        }
        let in_force = InForce::of(&cell.spec, policy, defaults);
        state.queue.set_settings(in_force.settings);
        state.policy = in_force.policy;
        state.dead_letters = in_force.dead_letters;
        state.tells_reason = in_force.tells_reason;
        if state.expires_ms != in_force.expires_ms {
            // Its life begins anew, as with RabbitMQ.
            state.used_ms = cell.timer.now_ms();
        }
        state.expires_ms = in_force.expires_ms;
        let sooner = cell.set_lease(in_force.timeout);
        cell.run(&mut state, &mut Pump::new(cell, effects));
        sooner && state.queue.unacked() > 0
    }

    /// Looks anew at what applies to an exchange. Names are matched with nothing locked.
    pub(crate) fn apply_to_exchange(&self, name: &str) {
        let alternate = self.alternate(name);
        set_alternate(&mut self.directory.write(), name, alternate.as_deref());
    }

    /// Gives a new exchange the alternate that a policy sets.
    pub(crate) fn apply_to_new_exchange(&self, directory: &mut Directory, name: &str) {
        set_alternate(directory, name, self.alternate(name).as_deref());
    }

    /// The alternate exchange that a policy sets.
    fn alternate(&self, name: &str) -> Option<String> {
        let policy = self.rules.read().effective(Object::Exchange(name))?;
        ExchangeSettings::of(&policy.definition).alternate
    }
}

fn set_alternate(directory: &mut Directory, name: &str, alternate: Option<&str>) {
    let current = directory.router.exchange(name);
    let changed = current.is_some_and(|exchange| exchange.policy_alternate() != alternate);
    if changed {
        directory.router.set_policy_alternate(name, alternate);
    }
}
