//! Binding and unbinding, deletion, and what else goes with them.

use leveret_codec::RawTable;

use crate::bindings::{BindingId, BindingIdentity, BindingSide, List};
use crate::choice::{check_binding, hash_of_name};
use crate::exchange::ExchangeSpec;
use crate::index::Index;
use crate::listing::{BindingSpec, Destination};
use crate::pattern::HeadersPattern;
use crate::refused::Refused;
use crate::router::Router;
use crate::targets::{ExchangeId, QueueId, Target};

/// Everything that one operation removed, for the durable topology and for events.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Removal {
    /// Explicit bindings, in the order they went.
    pub bindings: Vec<BindingSpec>,
    /// Exchanges, in the order they went: the one deleted, then those its end auto-deleted.
    pub exchanges: Vec<(String, ExchangeSpec)>,
}

/// One removal under way.
#[derive(Default)]
struct Sweep {
    removal: Removal,
    /// Exchanges whose routes changed.
    changed: Vec<ExchangeId>,
    /// Exchanges to delete.
    doomed: Vec<ExchangeId>,
}

impl Removal {
    /// Whether nothing was removed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bindings.is_empty() && self.exchanges.is_empty()
    }
}

impl Router {
    /// Adds a binding (`queue.bind`, `exchange.bind`); false if it was there already.
    pub fn bind(&mut self, spec: &BindingSpec) -> Result<bool, Refused> {
        refuse_default(spec)?;
        let source = self.exchange_id(spec.source.as_bytes());
        let source = source.ok_or_else(|| Refused::NoExchange(spec.source.clone()))?;
        let target = self
            .target(&spec.destination)
            .ok_or_else(|| match &spec.destination {
                Destination::Queue(id) => Refused::NoQueue(*id),
                Destination::Exchange(name) => Refused::NoExchange(name.clone()),
            })?;
        let pattern = match self.exchanges.get(source.0) {
            Some(exchange) if exchange.index.reads_headers() => {
                HeadersPattern::parse(&spec.arguments)?
            }
            Some(exchange) => {
                check_binding(exchange.spec.kind, &spec.key, target)?;
                HeadersPattern::default()
            }
            None => HeadersPattern::default(),
        };
        let arguments = spec.canonical_arguments();
        RawTable::parse(&arguments).map_err(|_| Refused::ArgumentsTooDeep)?;
        let identity = BindingIdentity {
            source,
            target,
            key: &spec.key,
            arguments: &arguments,
        };
        if self.bindings.find(self.seed, identity).is_some() {
            return Ok(false);
        }
        let id = self.bindings.insert(self.seed, identity);
        self.link(id, source, target);
        let name = self.hash_of_target(target);
        if let (Some(exchange), Some(binding)) =
            (self.exchanges.get_mut(source.0), self.bindings.get(id))
        {
            exchange.index.add(self.seed, (id, binding), pattern, name);
        }
        self.invalidate(&[source]);
        Ok(true)
    }

    /// Whether there is such a binding.
    #[must_use]
    pub fn is_bound(&self, spec: &BindingSpec) -> bool {
        let ends = self
            .exchange_id(spec.source.as_bytes())
            .zip(self.target(&spec.destination));
        ends.is_some_and(|(source, target)| {
            let arguments = spec.canonical_arguments();
            let identity = BindingIdentity {
                source,
                target,
                key: &spec.key,
                arguments: &arguments,
            };
            self.bindings.find(self.seed, identity).is_some()
        })
    }

    /// Removes a binding (`queue.unbind`, `exchange.unbind`). What is missing is no error, as in
    /// RabbitMQ 4.
    pub fn unbind(&mut self, spec: &BindingSpec) -> Result<Removal, Refused> {
        refuse_default(spec)?;
        let mut sweep = Sweep::default();
        let ends = self
            .exchange_id(spec.source.as_bytes())
            .zip(self.target(&spec.destination));
        if let Some((source, target)) = ends {
            let arguments = spec.canonical_arguments();
            let identity = BindingIdentity {
                source,
                target,
                key: &spec.key,
                arguments: &arguments,
            };
            if let Some(id) = self.bindings.find(self.seed, identity) {
                self.unbind_one(id, &mut sweep);
            }
        }
        Ok(self.finish(sweep))
    }

    /// Deletes an exchange (`exchange.delete`) and its bindings. A missing one is no error.
    pub fn delete(&mut self, name: &str, if_unused: bool) -> Result<Removal, Refused> {
        if name.is_empty() {
            return Err(Refused::DefaultExchange);
        }
        if name.starts_with("amq.") {
            return Err(Refused::SystemExchange(name.into()));
        }
        let mut sweep = Sweep::default();
        if let Some(id) = self.exchange_id(name.as_bytes()) {
            if if_unused && self.exchange(name).is_some_and(|x| x.binding_count() > 0) {
                return Err(Refused::InUse(name.into()));
            }
            sweep.doomed.push(id);
        }
        Ok(self.finish(sweep))
    }

    /// Removes a queue and its bindings, the one to the default exchange included, and the
    /// exchanges that auto-delete with them. An unknown id is no error.
    pub fn remove_queue(&mut self, id: QueueId) -> Removal {
        let mut sweep = Sweep::default();
        let Some(list) = self.queue(id).map(|queue| queue.bindings) else {
            return sweep.removal;
        };
        for binding in self.members(BindingSide::Target, list) {
            self.unbind_one(binding, &mut sweep);
        }
        self.erase_queue(id);
        self.finish(sweep)
    }

    pub(crate) fn target(&self, destination: &Destination) -> Option<Target> {
        match destination {
            Destination::Queue(id) => self.queue(*id).map(|_| Target::Queue(*id)),
            Destination::Exchange(name) => self.exchange_id(name.as_bytes()).map(Target::Exchange),
        }
    }

    fn hash_of_target(&self, target: Target) -> u64 {
        let name = match target {
            Target::Queue(id) => self.queue_name(id),
            Target::Exchange(id) => self.exchanges.get(id.0).map(|exchange| &*exchange.name),
        };
        hash_of_name(name.unwrap_or_default())
    }

    /// Deletes what is doomed, and what that dooms, then bumps every route that changed.
    fn finish(&mut self, mut sweep: Sweep) -> Removal {
        while let Some(id) = sweep.doomed.pop() {
            self.delete_one(id, &mut sweep);
        }
        sweep.changed.sort_unstable();
        sweep.changed.dedup();
        self.invalidate(&sweep.changed);
        sweep.removal
    }

    fn delete_one(&mut self, id: ExchangeId, sweep: &mut Sweep) {
        let Some(exchange) = self.exchanges.get_mut(id.0) else {
            return;
        };
        let as_source = exchange.as_source;
        // The whole index goes at once: taking bindings out one by one may cost a move of the rest.
        exchange.index = Index::new(&exchange.spec);
        // An exchange on its way out is not doomed again by its own last binding.
        let auto_delete = std::mem::replace(&mut exchange.spec.auto_delete, false);
        for binding in self.members(BindingSide::Source, as_source) {
            self.unbind_one(binding, sweep);
        }
        // Read only now: a binding of the exchange to itself was in both lists.
        let as_target = self.exchanges.get(id.0).map(|exchange| exchange.as_target);
        for binding in self.members(BindingSide::Target, as_target.unwrap_or_default()) {
            self.unbind_one(binding, sweep);
        }
        let Some(mut exchange) = self.erase_exchange(id) else {
            return;
        };
        exchange.bump();
        sweep.changed.extend(self.referrers(&exchange.name));
        exchange.spec.auto_delete = auto_delete;
        sweep
            .removal
            .exchanges
            .push((exchange.name.into(), exchange.spec));
    }

    fn unbind_one(&mut self, id: BindingId, sweep: &mut Sweep) {
        let Some(binding) = self.bindings.get(id) else {
            return;
        };
        let (source, target) = (binding.source, binding.target);
        sweep
            .removal
            .bindings
            .extend(self.view(id, binding).map(|view| view.to_spec()));
        let name = self.hash_of_target(target);
        if let Some(exchange) = self.exchanges.get_mut(source.0) {
            exchange.index.remove(self.seed, (id, binding), name);
        }
        self.unlink(id, source, target);
        self.bindings.remove(self.seed, id);
        sweep.changed.push(source);
        let exchange = self.exchanges.get(source.0);
        if exchange.is_some_and(|x| x.spec.auto_delete && x.as_source.len == 0) {
            sweep.doomed.push(source);
        }
    }

    fn link(&mut self, id: BindingId, source: ExchangeId, target: Target) {
        if let Some(exchange) = self.exchanges.get_mut(source.0) {
            self.bindings
                .link(BindingSide::Source, &mut exchange.as_source, id);
        }
        match target {
            Target::Queue(queue) => {
                if let Some(Some(queue)) = self.queues.get_mut(queue.0 as usize) {
                    self.bindings
                        .link(BindingSide::Target, &mut queue.bindings, id);
                }
            }
            Target::Exchange(exchange) => {
                if let Some(exchange) = self.exchanges.get_mut(exchange.0) {
                    self.bindings
                        .link(BindingSide::Target, &mut exchange.as_target, id);
                    *exchange.upstream.entry(source).or_insert(0) += 1;
                }
            }
        }
    }

    fn unlink(&mut self, id: BindingId, source: ExchangeId, target: Target) {
        if let Some(exchange) = self.exchanges.get_mut(source.0) {
            self.bindings
                .unlink(BindingSide::Source, &mut exchange.as_source, id);
        }
        match target {
            Target::Queue(queue) => {
                if let Some(Some(queue)) = self.queues.get_mut(queue.0 as usize) {
                    self.bindings
                        .unlink(BindingSide::Target, &mut queue.bindings, id);
                }
            }
            Target::Exchange(exchange) => {
                if let Some(exchange) = self.exchanges.get_mut(exchange.0) {
                    self.bindings
                        .unlink(BindingSide::Target, &mut exchange.as_target, id);
                    exchange.leave_upstream(source);
                }
            }
        }
    }

    fn members(&self, side: BindingSide, list: List) -> Vec<BindingId> {
        self.bindings.list(side, list).collect()
    }
}

fn refuse_default(spec: &BindingSpec) -> Result<(), Refused> {
    let to_default = matches!(&spec.destination, Destination::Exchange(name) if name.is_empty());
    if spec.source.is_empty() || to_default {
        return Err(Refused::DefaultExchange);
    }
    Ok(())
}
