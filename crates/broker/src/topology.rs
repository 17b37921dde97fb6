//! Durable topology: the journal's map of keys to values, and what is made of it at start.
//!
//! A key is a kind and its parts, a value a list of fields. Kinds are numbered so that a thing
//! comes after everything it refers to: the map is restored in its own order.

pub(crate) mod operations;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use leveret_codec::{RawTable, Table};
use leveret_record::{Sabotage, breaks};
use leveret_router::{BindingSpec, Destination, ExchangeKind, ExchangeSpec, Removal};
use leveret_store::LaneId;

use crate::admin::apply_to_exchange;
use crate::broker::Broker;
use crate::queue::cell::{Identity, QueueCell, QueueSpec, StoreLanes};
use crate::queue::pump::Work;
use crate::settings::arguments::Meaning;
use crate::vhost::{Directory, Vhost};

/// What a durable thing is. Numbers are on disk: they never change and are never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A user: name.
    User = 0x10,
    /// A virtual host: name.
    Vhost = 0x20,
    /// A user's permission: vhost, user.
    Permission = 0x30,
    /// A restriction of routing keys: vhost, user, exchange.
    TopicPermission = 0x31,
    /// A policy: vhost, name.
    Policy = 0x40,
    /// An operator policy: vhost, name.
    OperatorPolicy = 0x41,
    /// A runtime parameter: vhost, component, name.
    Parameter = 0x48,
    /// A global parameter: name.
    GlobalParameter = 0x50,
    /// An exchange that is not predeclared: vhost, name.
    Exchange = 0x60,
    /// A queue: vhost, name.
    Queue = 0x70,
    /// A binding between durable ends: vhost, source, `q` or `x`, destination, key, arguments.
    Binding = 0x80,
}

/// The key of a thing.
#[must_use]
pub fn key(kind: Kind, parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Fields::default();
    out.0.push(kind as u8);
    for part in parts {
        out.bytes(part);
    }
    out.0
}

/// Writes a value field by field.
#[derive(Clone, Debug, Default)]
pub struct Fields(Vec<u8>);

impl Fields {
    /// Appends bytes with their length.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.number(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(bytes);
        self
    }

    /// Appends a number.
    pub fn number(&mut self, number: u32) -> &mut Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    /// Appends flags, the first one lowest.
    pub fn flags<const N: usize>(&mut self, flags: [bool; N]) -> &mut Self {
        let bits = flags
            .iter()
            .rev()
            .fold(0, |bits, flag| bits << 1 | u32::from(*flag));
        self.number(bits)
    }

    /// The value.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Reads the fields of a key or a value; `None` where there is no such field. Fields that a later
/// version appends are left unread.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads a value.
    #[must_use]
    pub const fn new(value: &'a [u8]) -> Self {
        Self(value)
    }

    /// The next bytes.
    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    /// The next bytes as text.
    pub fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    /// The next number.
    pub fn number(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*number))
    }

    /// The next flags.
    pub fn flags<const N: usize>(&mut self) -> Option<[bool; N]> {
        let bits = self.number()?;
        Some(std::array::from_fn(|at| bits >> at & 1 == 1))
    }

    /// The next bytes as a table.
    pub fn table(&mut self) -> Option<Table> {
        Some(RawTable::parse(self.bytes()?).ok()?.to_table())
    }
}

/// A record of the topology that cannot be understood: a newer version wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotUnderstood {
    /// Its key.
    pub key: Vec<u8>,
}

impl fmt::Display for NotUnderstood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key.escape_ascii();
        write!(
            f,
            "the topology holds a record this version does not understand: '{key}'"
        )
    }
}

impl std::error::Error for NotUnderstood {}

/// Says what is not declared in a store's topology although something needs it: the queue of a lane
/// that has had messages, or an end of a binding. For a store of which records are lost.
#[must_use]
pub fn missing(topology: &BTreeMap<Vec<u8>, Vec<u8>>, lanes: &[LaneId]) -> Option<String> {
    let owned: HashSet<u32> = topology
        .iter()
        .filter(|(key, _)| key.first() == Some(&(Kind::Queue as u8)))
        .flat_map(|(_, value)| lanes_in(Reader::new(value)))
        .collect();
    let lost = lanes.iter().filter(|lane| !owned.contains(&lane.0));
    if let Some(first) = lost.clone().next() {
        let (first, count) = (first.0, lost.count());
        return Some(format!(
            "queues that have had messages ({count}; the first is lane {first})"
        ));
    }
    let bindings = topology.keys().filter_map(|key| key.split_first());
    bindings
        .filter(|(kind, _)| **kind == Kind::Binding as u8)
        .find_map(|(_, parts)| missing_end(topology, Reader::new(parts)))
}

/// The lanes in a queue's value.
fn lanes_in(mut value: Reader<'_>) -> Vec<u32> {
    let Some(first) = value.number() else {
        return Vec::new();
    };
    let mut lanes = vec![first];
    // Its flags, its arguments, and who declared it.
    let _ = (value.number(), value.bytes(), value.bytes());
    if let (Some(lowest), Some(count)) = (value.number(), value.number()) {
        lanes.extend((0..count).map(|level| lowest.saturating_add(level)));
    }
    lanes
}

/// The end of a binding that is not declared.
fn missing_end(topology: &BTreeMap<Vec<u8>, Vec<u8>>, mut binding: Reader<'_>) -> Option<String> {
    let vhost = binding.text()?;
    let (source, to, name) = (binding.text()?, binding.bytes()?, binding.text()?);
    let is_missing =
        |kind, name: &str| !topology.contains_key(&key(kind, &[vhost.as_bytes(), name.as_bytes()]));
    let is_predeclared = |name: &str| name.is_empty() || name.starts_with("amq.");
    let is_exchange_missing =
        |name: &str| !is_predeclared(name) && is_missing(Kind::Exchange, name);
    if is_exchange_missing(source) {
        Some(format!("exchange '{source}' in vhost '{vhost}'"))
    } else if to == b"x" && is_exchange_missing(name) {
        Some(format!("exchange '{name}' in vhost '{vhost}'"))
    } else if to == b"q" && is_missing(Kind::Queue, name) {
        Some(format!("queue '{name}' in vhost '{vhost}'"))
    } else {
        None
    }
}

impl Broker {
    /// Makes what a store remembers: everything durable but the messages. Before any connection.
    /// Lanes from `next_lane` on are new to the store.
    ///
    /// # Errors
    /// [`NotUnderstood`].
    pub fn restore(
        &self,
        topology: &BTreeMap<Vec<u8>, Vec<u8>>,
        next_lane: u32,
    ) -> Result<(), NotUnderstood> {
        self.begin_lanes_at(next_lane);
        for (key, value) in topology {
            self.restore_one(key, value)
                .ok_or_else(|| NotUnderstood { key: key.clone() })?;
        }
        for vhost in self.vhosts() {
            vhost.directory.write().recount();
            self.give_lanes(&vhost);
        }
        Ok(())
    }

    /// Gives queues with priorities the lanes for them that the first version did not.
    fn give_lanes(&self, vhost: &Vhost) {
        let mut work = Work::default();
        for cell in vhost.directory.read().queues() {
            let others = cell.levels() - 1;
            if others > 0
                && cell.other_lanes().is_none()
                && let Some(lowest) = self.next_lanes(others)
            {
                cell.set_other_lanes(lowest);
                queue(&mut work, vhost, cell);
            }
        }
        self.submit(&mut work);
    }

    fn restore_one(&self, key: &[u8], value: &[u8]) -> Option<()> {
        let (kind, parts) = key.split_first()?;
        let (mut parts, mut value) = (Reader(parts), Reader(value));
        if *kind == Kind::Exchange as u8 {
            self.restore_exchange(&mut parts, &mut value)
        } else if *kind == Kind::Queue as u8 {
            self.restore_queue(&mut parts, &mut value)
        } else if *kind == Kind::Binding as u8 {
            self.restore_binding(&mut parts)
        } else {
            self.restore_administration(*kind, &mut parts, value.0)
        }
    }

    fn restore_exchange(&self, parts: &mut Reader<'_>, value: &mut Reader<'_>) -> Option<()> {
        let vhost = self.add_vhost(parts.text()?);
        let name = parts.text()?;
        let kind = ExchangeKind::from_name(value.text()?)?;
        let [auto_delete, internal] = value.flags()?;
        let spec = ExchangeSpec {
            kind,
            durable: true,
            auto_delete,
            internal,
            arguments: value.table()?,
        };
        let mut directory = vhost.directory.write();
        directory.router.declare(name, spec).ok()?;
        apply_to_exchange(&vhost, &mut directory, name);
        Some(())
    }

    fn restore_queue(&self, parts: &mut Reader<'_>, value: &mut Reader<'_>) -> Option<()> {
        let vhost = self.add_vhost(parts.text()?);
        let name = parts.text()?;
        let lane = LaneId(value.number()?);
        // The store has not heard of it if nothing was ever published to the queue.
        self.begin_lanes_at(lane.0.saturating_add(1));
        let [auto_delete] = value.flags()?;
        let spec = QueueSpec {
            durable: true,
            auto_delete,
            owner: None,
            arguments: value.table()?,
            // Queues of older journals do not tell.
            declared_by: value
                .text()
                .filter(|name| !name.is_empty())
                .map(|name| self.declarer(name)),
        };
        let mut directory = vhost.directory.write();
        let id = directory.next_id();
        let policy = vhost.rules.read().effective(spec.object(name));
        let meaning = Meaning::of(&spec, policy, self.limits().queue);
        let count = u32::from(meaning.shape.levels - 1);
        let others = value.number().filter(|_| count > 0);
        if let Some(lowest) = others {
            self.begin_lanes_at(lowest.saturating_add(count));
        }
        let lanes = StoreLanes {
            first: Some(lane),
            others: others.map(LaneId),
        };
        let identity = Identity {
            name: name.into(),
            id,
            home: vhost.home(),
        };
        let cell = Arc::new(QueueCell::new(identity, spec, lanes, meaning));
        directory.insert(&cell);
        Some(())
    }

    fn restore_binding(&self, parts: &mut Reader<'_>) -> Option<()> {
        let vhost = self.add_vhost(parts.text()?);
        let source = parts.text()?.into();
        let kind = parts.bytes()?;
        let name = parts.text()?;
        let mut directory = vhost.directory.write();
        let destination = match kind {
            b"q" => Destination::Queue(directory.queue(name)?.id),
            b"x" => Destination::Exchange(name.into()),
            _ => return None,
        };
        let spec = BindingSpec {
            source,
            destination,
            key: parts.bytes()?.into(),
            arguments: parts.table()?,
        };
        directory.router.bind(&spec).ok().map(|_| ())
    }
}

/// Writes an exchange.
pub(crate) fn exchange(work: &mut Work, vhost: &Vhost, name: &str, spec: &ExchangeSpec) {
    let mut value = Fields::default();
    value
        .bytes(spec.kind.name().as_bytes())
        .flags([spec.auto_delete, spec.internal])
        .bytes(&spec.arguments.encoded());
    let key = key(Kind::Exchange, &[vhost.name.as_bytes(), name.as_bytes()]);
    work.journal.topology(&key, Some(value.as_bytes()));
}

/// Writes a queue, if it has a lane.
pub(crate) fn queue(work: &mut Work, vhost: &Vhost, cell: &QueueCell) {
    let Some(lane) = cell.lane else { return };
    let mut value = Fields::default();
    value
        .number(lane.0)
        .flags([cell.spec.auto_delete])
        .bytes(&cell.spec.arguments.encoded());
    let others = cell.other_lanes().filter(|_| !breaks(Sabotage::LateLanes));
    if cell.spec.declared_by.is_some() || others.is_some() {
        let user = cell.spec.declared_by.as_deref().unwrap_or_default();
        value.bytes(user.as_bytes());
    }
    if let Some(LaneId(lowest)) = others {
        value.number(lowest).number(u32::from(cell.levels() - 1));
    }
    let key = key(Kind::Queue, &[vhost.name.as_bytes(), cell.name.as_bytes()]);
    work.journal.topology(&key, Some(value.as_bytes()));
}

/// Writes that a queue and all its messages are gone, if it had a lane.
pub(crate) fn queue_gone(work: &mut Work, vhost: &Vhost, cell: &QueueCell) {
    if cell.lane.is_none() {
        return;
    }
    let key = key(Kind::Queue, &[vhost.name.as_bytes(), cell.name.as_bytes()]);
    work.journal.topology(&key, None);
    for (_, lane) in cell.lanes() {
        work.journal.reset(lane, u64::MAX);
    }
}

/// Whether a binding outlives a restart: if both its ends do.
pub(crate) fn keeps(vhost: &Vhost, directory: &Directory, spec: &BindingSpec) -> bool {
    binding_key(vhost, directory, spec, (None, &Removal::default())).is_some()
}

/// Writes a binding, if both its ends are durable. `false` if they are not.
pub(crate) fn binding(
    work: &mut Work,
    (vhost, directory): (&Vhost, &Directory),
    spec: &BindingSpec,
) -> bool {
    let no_removal = Removal::default();
    let Some(key) = binding_key(vhost, directory, spec, (None, &no_removal)) else {
        return false;
    };
    work.journal.topology(&key, Some(&[]));
    true
}

/// Writes everything that went with an exchange, a binding or the queue `gone`. `false` if none of
/// it was durable.
pub(crate) fn removal(
    work: &mut Work,
    (vhost, directory): (&Vhost, &Directory),
    gone: Option<&QueueCell>,
    removal: &Removal,
) -> bool {
    let mut any = false;
    for spec in &removal.bindings {
        if let Some(key) = binding_key(vhost, directory, spec, (gone, removal)) {
            work.journal.topology(&key, None);
            any = true;
        }
    }
    for (name, spec) in &removal.exchanges {
        if spec.durable {
            let key = key(Kind::Exchange, &[vhost.name.as_bytes(), name.as_bytes()]);
            work.journal.topology(&key, None);
            any = true;
        }
    }
    any
}

/// The key of a binding whose ends are durable, as they are or as they were before a removal.
fn binding_key(
    vhost: &Vhost,
    directory: &Directory,
    spec: &BindingSpec,
    (gone, removal): (Option<&QueueCell>, &Removal),
) -> Option<Vec<u8>> {
    let durable = |name: &str| match directory.router.exchange(name) {
        Some(exchange) => exchange.spec().durable,
        None => removal
            .exchanges
            .iter()
            .any(|(removed, spec)| removed == name && spec.durable),
    };
    if !durable(&spec.source) {
        return None;
    }
    let (kind, name) = match &spec.destination {
        Destination::Queue(id) => {
            let cell = gone
                .filter(|cell| cell.id == *id)
                .or_else(|| directory.cell(*id).map(|cell| &**cell))?;
            cell.lane?;
            (b"q", &*cell.name)
        }
        Destination::Exchange(name) => {
            if !durable(name) {
                return None;
            }
            (b"x", name.as_str())
        }
    };
    let parts: [&[u8]; 6] = [
        vhost.name.as_bytes(),
        spec.source.as_bytes(),
        kind,
        name.as_bytes(),
        &spec.key,
        &spec.canonical_arguments(),
    ];
    Some(key(Kind::Binding, &parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(missing: Option<Kind>) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut queue = Fields::default();
        queue.number(7);
        let binding: [&[u8]; 6] = [b"/", b"events", b"q", b"jobs", b"key", &[0; 4]];
        let things = [
            (
                Kind::Exchange,
                key(Kind::Exchange, &[b"/", b"events"]),
                vec![],
            ),
            (Kind::Queue, key(Kind::Queue, &[b"/", b"jobs"]), queue.0),
            (Kind::Binding, key(Kind::Binding, &binding), vec![]),
        ];
        let there = things.into_iter().filter(|thing| Some(thing.0) != missing);
        there.map(|(_, key, value)| (key, value)).collect()
    }

    #[test]
    fn what_lanes_and_bindings_need_is_missed() {
        let told = |gone, lanes: &[u32]| {
            let lanes: Vec<_> = lanes.iter().map(|lane| LaneId(*lane)).collect();
            missing(&store(gone), &lanes)
        };
        assert_eq!(told(None, &[7]), None);
        assert_eq!(told(Some(Kind::Binding), &[7]), None);
        let one = told(None, &[3, 7]).unwrap();
        assert_eq!(
            one,
            "queues that have had messages (1; the first is lane 3)"
        );
        let queue = told(Some(Kind::Queue), &[]).unwrap();
        assert_eq!(queue, "queue 'jobs' in vhost '/'");
        let exchange = told(Some(Kind::Exchange), &[7]).unwrap();
        assert_eq!(exchange, "exchange 'events' in vhost '/'");
    }
}
