//! Changes of exchanges, queues and bindings, for whoever asks: a channel, the HTTP API, a policy.
//!
//! Each records what is durable and submits it with the directory locked: records about one thing
//! reach the store in the order they took effect. The caller answers when [`Broker::submit`]'s
//! ticket is durable. Who may do it is the caller's business.

use std::sync::Arc;

use leveret_access::reached;
use leveret_router::{Declared, ExchangeSpec, Removal};
use leveret_settings::{CLASSIC, QUEUE_TYPE};
use parking_lot::RwLockWriteGuard;

use crate::broker::Broker;
use crate::context::refusal::{Refusal, from_router};
use crate::context::stats::Existing;
use crate::queue::cell::{QueueCell, QueueIdentity, StoreLanes};
use crate::queue::effects::Effects;
use crate::settings::arguments::{
    InForce, asks_for_default_type, check_size, equivalent, validate,
};
use crate::settings::spec::QueueSpec;
use crate::topology;
use crate::vhost::binding::Binding;
use crate::vhost::{Directory, Vhost};

/// What names begin with that are made up for queues; nobody else may give such a name.
const MADE_UP: &str = "amq.gen-";

/// When a queue may be deleted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Condition {
    /// Only without consumers.
    pub unused: bool,
    /// Only without ready messages.
    pub empty: bool,
    /// Only if its last consumer has gone: `auto_delete`.
    pub abandoned: bool,
    /// Only if nobody has used it for as long as it lives then: `x-expires`.
    pub expired: bool,
}

impl Broker {
    /// Finds the queue and compares it, or makes it; tells whether it is new. An empty name stands
    /// for one that is made up.
    ///
    /// # Errors
    /// When it exists otherwise, or may not exist so.
    pub fn declare_queue(
        &self,
        vhost: &Vhost,
        name: &str,
        mut spec: QueueSpec,
        effects: &mut Effects,
    ) -> Result<(Arc<QueueCell>, bool), Refusal> {
        give_default_type(vhost, name, &mut spec);
        if let Some(cell) = redeclare(&vhost.directory.read(), name, &spec, effects)? {
            return Ok((cell, false));
        }
        if name.starts_with("amq.") {
            return Err(Refusal::ReservedName("queue", name.into()));
        }
        if name.is_empty() {
            return self.declare_new_queue(vhost, &self.queue_name(), spec, effects);
        }
        self.declare_new_queue(vhost, name, spec, effects)
    }

    /// A name for a queue that is declared without one.
    pub(crate) fn queue_name(&self) -> String {
        self.names.next(MADE_UP)
    }

    /// Makes a queue that did not exist a moment ago, whatever its name.
    ///
    /// # Errors
    /// When it may not exist so.
    pub fn declare_new_queue(
        &self,
        vhost: &Vhost,
        name: &str,
        mut spec: QueueSpec,
        effects: &mut Effects,
    ) -> Result<(Arc<QueueCell>, bool), Refusal> {
        give_default_type(vhost, name, &mut spec);
        check_size(spec.arguments.as_raw(), self.limits().arguments_bytes_max)?;
        validate(name, &spec)?;
        // Names are matched with nothing locked that others wait for.
        let (generation, policy) = vhost.rules.read().effective_now(spec.object(name));
        let mut directory = vhost.directory.write();
        if let Some(cell) = redeclare(&directory, name, &spec, effects)? {
            return Ok((cell, false));
        }
        directory.check_open(vhost)?;
        let count = directory.queues().len() as u64;
        if let Some(max) = reached(vhost.rules.read().limits.max_queues, count) {
            return Err(Refusal::Limit(format!(
                "cannot declare queue '{name}': queue limit in vhost '{}' ({max}) is reached",
                vhost.name
            )));
        }
        let max = self.limits().queues_max;
        if self.events.existing(Existing::Queues) >= max {
            return Err(Refusal::Limit(format!(
                "cannot declare queue '{name}': queue limit in cluster ({max}) is reached"
            )));
        }
        if spec.durable && spec.owner.is_none() {
            let bytes = name.len() + spec.arguments.as_raw().as_bytes().len();
            self.claim_change(effects, vhost.name.len() + bytes, || {
                format!("declare queue '{name}' in vhost '{}'", vhost.name)
            })?;
        }
        let policy = vhost
            .rules
            .read()
            .still(generation, policy, spec.object(name));
        let in_force = InForce::of(&spec, policy, self.limits().queue);
        let cell = self.create_queue((vhost, &mut directory), name, spec, in_force)?;
        cell.used(&mut cell.lock());
        self.notices.note(&vhost.name, name, &cell.spec.arguments);
        if cell.lane.is_some() {
            topology::queue(effects, vhost, &cell);
            self.changed(&mut directory, effects);
        }
        Ok((cell, true))
    }

    fn create_queue(
        &self,
        (vhost, directory): (&Vhost, &mut Directory),
        name: &str,
        spec: QueueSpec,
        in_force: InForce,
    ) -> Result<Arc<QueueCell>, Refusal> {
        let id = directory.next_id();
        // An exclusive queue ends with its connection, at the latest with the broker.
        let lasts = spec.durable && spec.owner.is_none();
        let lanes = if lasts {
            self.store_lanes(in_force.shape.levels).ok_or_else(|| {
                Refusal::Limit(format!(
                    "cannot declare queue '{name}': the data folder has had as many durable \
                     queues as it can number"
                ))
            })?
        } else {
            StoreLanes::default()
        };
        let identity = QueueIdentity {
            name: name.into(),
            id,
            home: vhost.home(),
        };
        let cell = Arc::new(QueueCell::new(identity, spec, lanes, in_force));
        directory.insert(&cell);
        Ok(cell)
    }

    /// Lanes for all levels of a queue. One given twice would bring messages of a queue that is
    /// gone into another one.
    fn store_lanes(&self, levels: u16) -> Option<StoreLanes> {
        let first = Some(self.next_lanes(1)?);
        let others = match levels - 1 {
            0 => None,
            others => Some(self.next_lanes(others)?),
        };
        Some(StoreLanes { first, others })
    }

    /// Submits a change of durable things while it cannot be overtaken by another one.
    fn changed(&self, directory: &mut Directory, effects: &mut Effects) {
        effects.submit(&*self.store);
        directory.changed = directory.changed.and(effects.ticket);
    }

    /// Takes a queue and its bindings out of the directory, and gives that one back.
    pub(crate) fn take_out(
        &self,
        vhost: &Vhost,
        mut directory: RwLockWriteGuard<'_, Directory>,
        cell: &QueueCell,
        effects: &mut Effects,
    ) {
        let Some(removal) = directory.remove(cell) else {
            return;
        };
        let more = topology::removal(effects, (vhost, &directory), Some(cell), &removal);
        topology::queue_gone(effects, vhost, cell);
        if more || cell.lane.is_some() {
            self.changed(&mut directory, effects);
        }
    }

    /// Drops all ready messages of a queue and tells how many there were.
    pub fn purge_queue(&self, cell: &QueueCell, effects: &mut Effects) -> u64 {
        let mut state = cell.lock();
        if cell.is_deleted() {
            return 0;
        }
        if cell.lane.is_some() {
            // Messages that are out stay: only those that are ready are settled.
            let journal = &mut effects.journal;
            state.queue.persistent_ready(|level, seqs| {
                if let Some(lane) = cell.lane_of(level) {
                    journal.settle_all(lane, seqs);
                }
            });
        }
        let purged = state.queue.purge();
        drop(state);
        effects.submit(&*self.store);
        purged
    }

    /// Declares an exchange.
    ///
    /// # Errors
    /// When it exists otherwise, or may not exist so.
    pub fn declare_exchange(
        &self,
        vhost: &Vhost,
        name: &str,
        spec: ExchangeSpec,
        effects: &mut Effects,
    ) -> Result<Declared, Refusal> {
        let mut directory = vhost.directory.write();
        directory.check_open(vhost)?;
        if directory.router.exchange(name).is_none() {
            let max = self.limits().exchanges_max;
            if self.events.existing(Existing::Exchanges) >= max {
                return Err(Refusal::Limit(format!(
                    "cannot declare exchange '{name}' in vhost '{}': exchange limit of {max} is \
                     reached",
                    vhost.name
                )));
            }
            check_size(spec.arguments.as_raw(), self.limits().arguments_bytes_max)?;
            if spec.durable {
                let bytes = name.len() + spec.arguments.as_raw().as_bytes().len();
                self.claim_change(effects, vhost.name.len() + bytes, || {
                    format!("declare exchange '{name}' in vhost '{}'", vhost.name)
                })?;
            }
        }
        let declared = directory.router.declare(name, spec.clone());
        let declared = declared.map_err(|refused| from_router(refused, name))?;
        if declared == Declared::Created {
            vhost.apply_to_new_exchange(&mut directory, name);
        }
        directory.recount();
        match declared {
            Declared::Created if spec.durable => {
                topology::exchange(effects, vhost, name, &spec);
                self.changed(&mut directory, effects);
            }
            Declared::Existing if spec.durable => effects.depends_on(directory.changed),
            Declared::Created | Declared::Existing => {}
        }
        Ok(declared)
    }

    /// Deletes an exchange, and what its end deletes; a missing one is no error.
    ///
    /// # Errors
    /// When it is in use and `if_unused`, or predeclared.
    pub fn delete_exchange(
        &self,
        vhost: &Vhost,
        name: &str,
        if_unused: bool,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let mut directory = vhost.directory.write();
        let removal = directory.router.delete(name, if_unused);
        let removal = removal.map_err(|refused| from_router(refused, name))?;
        self.removed(vhost, &mut directory, &removal, effects);
        Ok(())
    }

    /// Submits what the router has removed.
    fn removed(
        &self,
        vhost: &Vhost,
        directory: &mut Directory,
        removal: &Removal,
        effects: &mut Effects,
    ) {
        directory.recount();
        if removal.is_empty() {
            // It may be gone for a moment only: not yet for a restart.
            effects.depends_on(directory.changed);
        } else if topology::removal(effects, (vhost, directory), None, removal) {
            self.changed(directory, effects);
        }
    }

    /// Binds a queue or an exchange to an exchange; `false` if it was so already.
    ///
    /// # Errors
    /// When an end is missing, or the arguments cannot be accepted.
    pub fn bind(
        &self,
        vhost: &Vhost,
        binding: &Binding,
        effects: &mut Effects,
    ) -> Result<bool, Refusal> {
        let mut directory = vhost.directory.write();
        directory.check_open(vhost)?;
        if let Some(cell) = binding.cell()
            && !binding.has_queue(&directory)
        {
            return Err(Refusal::NoQueue(cell.name.to_string()));
        }
        binding.check_queue_type(&directory)?;
        let binding = binding.spec();
        let max = self.limits().bindings_max;
        let full = self.events.existing(Existing::Bindings) >= max;
        if full && !directory.router.is_bound(binding) {
            return Err(Refusal::Limit(format!(
                "cannot bind to exchange '{}': binding limit ({max}) is reached",
                binding.source
            )));
        }
        let kept = check_size(
            binding.arguments.as_raw(),
            self.limits().arguments_bytes_max,
        );
        if let Err(refusal) = kept
            && !directory.router.is_bound(binding)
        {
            return Err(refusal);
        }
        if !directory.router.is_bound(binding) && topology::keeps(vhost, &directory, binding) {
            // A name has 255 bytes at most.
            let names = vhost.name.len() + binding.source.len() + usize::from(u8::MAX);
            let bytes = binding.key.len() + binding.arguments.as_raw().as_bytes().len();
            self.claim_change(effects, names + bytes, || {
                format!(
                    "bind to exchange '{}' in vhost '{}'",
                    binding.source, vhost.name
                )
            })?;
        }
        let bound = directory.router.bind(binding);
        let bound = bound.map_err(|refused| from_router(refused, &binding.source))?;
        directory.recount();
        if !bound {
            effects.depends_on(directory.changed);
        } else if topology::binding(effects, (vhost, &directory), binding) {
            self.changed(&mut directory, effects);
        }
        Ok(bound)
    }

    /// Removes a binding, and exchanges whose last one it was if they are to go then; what is
    /// missing is no error. Tells whether there was one.
    ///
    /// # Errors
    /// When it concerns the default exchange.
    pub fn unbind(
        &self,
        vhost: &Vhost,
        binding: &Binding,
        effects: &mut Effects,
    ) -> Result<bool, Refusal> {
        let mut directory = vhost.directory.write();
        let has_queue = binding.has_queue(&directory);
        let binding = binding.spec();
        let removal = if has_queue {
            directory.router.unbind(binding)
        } else {
            Ok(Removal::default())
        };
        let removal = removal.map_err(|refused| from_router(refused, &binding.source))?;
        self.removed(vhost, &mut directory, &removal, effects);
        Ok(!removal.is_empty())
    }
}

/// Gives a queue that is declared without a type the one its virtual host sets, if it can have it:
/// none that ends by itself, or whose name the server makes up, is a quorum queue. One that asks
/// for the default by name has it in any case, and is refused if it cannot.
pub(crate) fn give_default_type(vhost: &Vhost, name: &str, spec: &mut QueueSpec) {
    let asks = asks_for_default_type(&spec.arguments);
    if !asks && spec.arguments.get(QUEUE_TYPE.as_bytes()).is_some() {
        return;
    }
    let rules = vhost.rules.read();
    let set = rules.metadata.default_queue_type.as_deref();
    let Some(kind) = set.or_else(|| asks.then_some(CLASSIC)) else {
        return;
    };
    let is_named = !name.is_empty() && !name.starts_with(MADE_UP);
    let lasts = spec.durable && !spec.auto_delete && spec.owner.is_none();
    if asks || (lasts && is_named) || kind == CLASSIC {
        spec.arguments.insert(QUEUE_TYPE, kind);
    }
}

/// Finds a queue and compares it with a declaration of it. An exclusive one serves its owner only.
fn redeclare(
    directory: &Directory,
    name: &str,
    spec: &QueueSpec,
    effects: &mut Effects,
) -> Result<Option<Arc<QueueCell>>, Refusal> {
    let Some(cell) = directory.queue(name) else {
        return Ok(None);
    };
    if spec.owner != cell.spec.owner {
        return Err(Refusal::Locked(cell.name.to_string()));
    }
    equivalent(&cell.name, &cell.spec, spec)?;
    if cell.lane.is_some() {
        effects.depends_on(directory.changed);
    }
    Ok(Some(Arc::clone(cell)))
}
