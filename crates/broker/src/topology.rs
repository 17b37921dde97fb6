//! Durable topology: the journal's map of keys to values, and what is made of it at start.
//!
//! A key is a kind and its parts, a value a list of fields. Kinds are numbered so that a thing
//! comes after everything it refers to: the map is restored in its own order.

pub(crate) mod operations;
pub(crate) mod space;

use std::collections::{BTreeMap, HashSet};

use leveret_codec::{RawTable, Table};
use leveret_record::{Sabotage, breaks};
use leveret_router::{BindingSpec, Destination, ExchangeSpec, Removal};
use leveret_store::LaneId;

use crate::queue::cell::QueueCell;
use crate::queue::effects::Effects;
use crate::vhost::{Directory, Vhost};

/// What a durable thing is. Numbers are on disk: they never change and are never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DurableKind {
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
pub fn key(kind: DurableKind, parts: &[&[u8]]) -> Vec<u8> {
    let mut out = FieldWriter::default();
    out.0.push(kind as u8);
    for part in parts {
        out.bytes(part);
    }
    out.0
}

/// Writes a value field by field.
#[derive(Clone, Debug, Default)]
pub struct FieldWriter(Vec<u8>);

impl FieldWriter {
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
pub struct FieldReader<'a>(&'a [u8]);

impl<'a> FieldReader<'a> {
    /// Reads a value.
    #[must_use]
    pub const fn new(value: &'a [u8]) -> Self {
        Self(value)
    }

    /// What is not read yet.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.0
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

/// Says what is not declared in a store's topology although something needs it: the queue of a lane
/// that has had messages, or an end of a binding. For a store of which records are lost.
#[must_use]
pub fn missing(topology: &BTreeMap<Vec<u8>, Vec<u8>>, lanes: &[LaneId]) -> Option<String> {
    let owned: HashSet<u32> = topology
        .iter()
        .filter(|(key, _)| key.first() == Some(&(DurableKind::Queue as u8)))
        .flat_map(|(_, value)| lanes_in(FieldReader::new(value)))
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
        .filter(|(kind, _)| **kind == DurableKind::Binding as u8)
        .find_map(|(_, parts)| missing_end(topology, FieldReader::new(parts)))
}

/// Key and value of a queue without arguments for messages whose own queue is lost.
#[must_use]
pub fn queue_for_lost(vhost: &str, name: &str, lane: LaneId) -> (Vec<u8>, Vec<u8>) {
    let mut value = FieldWriter::default();
    let arguments = Table::new().encoded();
    value.number(lane.0).flags([false]).bytes(&arguments);
    let parts = [vhost.as_bytes(), name.as_bytes()];
    (key(DurableKind::Queue, &parts), value.0)
}

/// The lanes in a queue's value.
fn lanes_in(mut value: FieldReader<'_>) -> Vec<u32> {
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
fn missing_end(
    topology: &BTreeMap<Vec<u8>, Vec<u8>>,
    mut binding: FieldReader<'_>,
) -> Option<String> {
    let vhost = binding.text()?;
    let (source, to, name) = (binding.text()?, binding.bytes()?, binding.text()?);
    let is_missing =
        |kind, name: &str| !topology.contains_key(&key(kind, &[vhost.as_bytes(), name.as_bytes()]));
    let is_predeclared = |name: &str| name.is_empty() || name.starts_with("amq.");
    let is_exchange_missing =
        |name: &str| !is_predeclared(name) && is_missing(DurableKind::Exchange, name);
    if is_exchange_missing(source) {
        Some(format!("exchange '{source}' in vhost '{vhost}'"))
    } else if to == b"x" && is_exchange_missing(name) {
        Some(format!("exchange '{name}' in vhost '{vhost}'"))
    } else if to == b"q" && is_missing(DurableKind::Queue, name) {
        Some(format!("queue '{name}' in vhost '{vhost}'"))
    } else {
        None
    }
}

/// Writes an exchange.
pub(crate) fn exchange(effects: &mut Effects, vhost: &Vhost, name: &str, spec: &ExchangeSpec) {
    let mut value = FieldWriter::default();
    value
        .bytes(spec.kind.name().as_bytes())
        .flags([spec.auto_delete, spec.internal])
        .bytes(&spec.arguments.encoded());
    let key = key(
        DurableKind::Exchange,
        &[vhost.name.as_bytes(), name.as_bytes()],
    );
    effects.journal.topology(&key, Some(value.as_bytes()));
}

/// Writes a queue, if it has a lane.
pub(crate) fn queue(effects: &mut Effects, vhost: &Vhost, cell: &QueueCell) {
    let Some(lane) = cell.lane else { return };
    let mut value = FieldWriter::default();
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
    let key = key(
        DurableKind::Queue,
        &[vhost.name.as_bytes(), cell.name.as_bytes()],
    );
    effects.journal.topology(&key, Some(value.as_bytes()));
}

/// Writes that a queue and all its messages are gone, if it had a lane.
pub(crate) fn queue_gone(effects: &mut Effects, vhost: &Vhost, cell: &QueueCell) {
    if cell.lane.is_none() {
        return;
    }
    let key = key(
        DurableKind::Queue,
        &[vhost.name.as_bytes(), cell.name.as_bytes()],
    );
    effects.journal.topology(&key, None);
    for (_, lane) in cell.lanes() {
        effects.journal.reset(lane, u64::MAX);
    }
}

/// Whether a binding outlives a restart: if both its ends do.
pub(crate) fn keeps(vhost: &Vhost, directory: &Directory, spec: &BindingSpec) -> bool {
    binding_key(vhost, directory, spec, (None, &Removal::default())).is_some()
}

/// Writes a binding, if both its ends are durable. `false` if they are not.
pub(crate) fn binding(
    effects: &mut Effects,
    (vhost, directory): (&Vhost, &Directory),
    spec: &BindingSpec,
) -> bool {
    let no_removal = Removal::default();
    let Some(key) = binding_key(vhost, directory, spec, (None, &no_removal)) else {
        return false;
    };
    effects.journal.topology(&key, Some(&[]));
    true
}

/// Writes everything that went with an exchange, a binding or the queue `gone`. `false` if none of
/// it was durable.
pub(crate) fn removal(
    effects: &mut Effects,
    (vhost, directory): (&Vhost, &Directory),
    gone: Option<&QueueCell>,
    removal: &Removal,
) -> bool {
    let mut any = false;
    for spec in &removal.bindings {
        if let Some(key) = binding_key(vhost, directory, spec, (gone, removal)) {
            effects.journal.topology(&key, None);
            any = true;
        }
    }
    for (name, spec) in &removal.exchanges {
        if spec.durable {
            let key = key(
                DurableKind::Exchange,
                &[vhost.name.as_bytes(), name.as_bytes()],
            );
            effects.journal.topology(&key, None);
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
    Some(key(DurableKind::Binding, &parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(missing: Option<DurableKind>) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut queue = FieldWriter::default();
        queue.number(7);
        let binding: [&[u8]; 6] = [b"/", b"events", b"q", b"jobs", b"key", &[0; 4]];
        let things = [
            (
                DurableKind::Exchange,
                key(DurableKind::Exchange, &[b"/", b"events"]),
                vec![],
            ),
            (
                DurableKind::Queue,
                key(DurableKind::Queue, &[b"/", b"jobs"]),
                queue.0,
            ),
            (
                DurableKind::Binding,
                key(DurableKind::Binding, &binding),
                vec![],
            ),
        ];
        let there = things.into_iter().filter(|thing| Some(thing.0) != missing);
        there.map(|(_, key, value)| (key, value)).collect()
    }

    #[test]
    fn a_queue_for_lost_messages_has_their_lane() {
        let mut stored = store(None);
        let (key, value) = queue_for_lost("shop", "lost", LaneId(9));
        stored.insert(key, value);
        assert_eq!(missing(&stored, &[LaneId(7), LaneId(9)]), None);
    }

    #[test]
    fn what_lanes_and_bindings_need_is_missed() {
        let told = |gone, lanes: &[u32]| {
            let lanes: Vec<_> = lanes.iter().map(|lane| LaneId(*lane)).collect();
            missing(&store(gone), &lanes)
        };
        assert_eq!(told(None, &[7]), None);
        assert_eq!(told(Some(DurableKind::Binding), &[7]), None);
        let one = told(None, &[3, 7]).unwrap();
        assert_eq!(
            one,
            "queues that have had messages (1; the first is lane 3)"
        );
        let queue = told(Some(DurableKind::Queue), &[]).unwrap();
        assert_eq!(queue, "queue 'jobs' in vhost '/'");
        let exchange = told(Some(DurableKind::Exchange), &[7]).unwrap();
        assert_eq!(exchange, "exchange 'events' in vhost '/'");
    }
}
