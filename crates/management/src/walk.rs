//! Walks over what others change meanwhile, slice by slice: nobody waits for longer than a slice
//! takes, and nothing is copied but the slice.
//!
//! What stays during a walk is met once; what comes or goes may be met or not.

use std::iter::from_fn;
use std::ops::Bound;
use std::sync::Arc;

use leveret_broker::{
    Broker, Handle, Parameter, Peer, Permission, QueueCell, TopicPermission, User, Vhost,
};
use leveret_queue::Consuming;
use leveret_router::Exchange;

/// So many are copied at a time,
const SLICE: usize = 256;
/// and of those that hold tables and values, which may be large, so many.
const SLICE_OF_LARGE: usize = 16;
/// Names that are compared at once.
const NAMES_OF_SLICE: usize = 256;

/// The queues of a virtual host, by name.
pub(crate) fn queues(vhost: &Arc<Vhost>) -> impl Iterator<Item = Arc<QueueCell>> + Send + use<> {
    let vhost = Arc::clone(vhost);
    let mut last: Option<Arc<QueueCell>> = None;
    let next = move || {
        let directory = vhost.directory.read();
        let from = after(last.as_ref()).unwrap_or(Bound::Unbounded);
        let later = directory.queues_from(from).map(|(_, cell)| cell);
        let slice: Vec<_> = later.take(SLICE).cloned().collect();
        drop(directory);
        last = Some(Arc::clone(slice.last()?));
        Some(slice)
    };
    one_by_one(next)
}

/// What slices hold, of which `next` gives one after the other. `flatten` does the same, but is
/// compiled with all else that it can do in each of the many iterators that walks are part of.
fn one_by_one<T>(mut next: impl FnMut() -> Option<Vec<T>>) -> impl Iterator<Item = T> {
    let mut slice = Vec::new().into_iter();
    from_fn(move || {
        loop {
            if let Some(item) = slice.next() {
                return Some(item);
            }
            slice = next()?.into_iter();
        }
    })
}

fn after(last: Option<&Arc<QueueCell>>) -> Option<Bound<&str>> {
    last.map(|cell| Bound::Excluded(&*cell.name))
}

/// The queues of a virtual host whose names fit, by name; all of them begin with `prefix`. Names
/// are compared where they are, and after so many of them there is a `None`: who walks may do
/// something else then.
pub(crate) fn fitting<F: Fn(&str) -> bool + Send>(
    vhost: &Arc<Vhost>,
    prefix: Arc<str>,
    fits: F,
) -> impl Iterator<Item = Option<Arc<QueueCell>>> + Send + use<F> {
    let vhost = Arc::clone(vhost);
    let mut last: Option<Arc<QueueCell>> = None;
    let next = move || {
        let directory = vhost.directory.read();
        let from = after(last.as_ref()).unwrap_or(Bound::Included(&*prefix));
        let later = directory.queues_from(from);
        let later = later.take_while(|(name, _)| name.starts_with(&*prefix));
        let (mut slice, mut seen) = (Vec::new(), None);
        for (name, cell) in later.take(NAMES_OF_SLICE) {
            seen = Some(cell);
            if fits(name) {
                slice.push(Some(Arc::clone(cell)));
            }
        }
        let seen = Arc::clone(seen?);
        drop(directory);
        last = Some(seen);
        slice.push(None);
        Some(slice)
    };
    one_by_one(next)
}

/// The exchanges of a virtual host, by name, each as `of` makes it.
pub(crate) fn exchanges<T: Send, F: Fn(&Exchange) -> T + Send>(
    vhost: &Arc<Vhost>,
    of: F,
) -> impl Iterator<Item = T> + Send + use<T, F> {
    let vhost = Arc::clone(vhost);
    let mut last: Option<String> = None;
    let next = move || {
        let directory = vhost.directory.read();
        let later = directory.router.exchanges_after(last.as_deref());
        let slice: Vec<&Exchange> = later.take(SLICE_OF_LARGE).collect();
        last = Some(slice.last()?.name().to_owned());
        Some(slice.into_iter().map(&of).collect::<Vec<T>>())
    };
    one_by_one(next)
}

/// All connections, the oldest first.
pub(crate) fn peers(broker: &Arc<Broker>) -> impl Iterator<Item = Arc<Peer>> + Send + use<> {
    let broker = Arc::clone(broker);
    let mut last = None;
    let next = move || {
        let slice = broker.peers_after(last, SLICE);
        last = Some(slice.last()?.client.id);
        Some(slice)
    };
    one_by_one(next)
}

/// A consumer as its queue knew it.
pub(crate) struct Consumes {
    pub(crate) handle: Arc<Handle>,
    pub(crate) asked: Consuming,
    pub(crate) is_active: bool,
}

/// The consumers of a queue; those of a short list by their tags, others as they came.
pub(crate) fn consumers(cell: &Arc<QueueCell>) -> impl Iterator<Item = Consumes> + Send + use<> {
    let cell = Arc::clone(cell);
    let mut last = None;
    let next = move || {
        let state = cell.lock();
        let later = state.queue.consumers_after(last).take(SLICE);
        let mut slice = Vec::new();
        for (key, consumer, is_active) in later {
            last = Some(key);
            slice.push(Consumes {
                handle: Arc::clone(&consumer.handle),
                asked: consumer.asked,
                is_active,
            });
        }
        drop(state);
        slice.sort_by(|a, b| a.handle.tag.cmp(&b.handle.tag));
        (!slice.is_empty()).then_some(slice)
    };
    one_by_one(next)
}

/// All users, by name.
pub(crate) fn users(broker: &Arc<Broker>) -> impl Iterator<Item = User> + Send + use<> {
    let broker = Arc::clone(broker);
    let mut last = String::new();
    let next = move || {
        let slice: Vec<User> =
            broker.with_access(|access| access.users_after(&last).take(SLICE).cloned().collect());
        last.clone_from(&slice.last()?.name);
        Some(slice)
    };
    one_by_one(next)
}

/// All permissions, by virtual host and user.
pub(crate) fn permissions(broker: &Arc<Broker>) -> impl Iterator<Item = Permission> + Send + use<> {
    let broker = Arc::clone(broker);
    let (mut vhost, mut user) = (String::new(), String::new());
    let next = move || {
        let slice: Vec<Permission> = broker.with_access(|access| {
            let later = access.permissions_after(&vhost, &user);
            later.take(SLICE).cloned().collect()
        });
        let last = slice.last()?;
        (vhost, user) = (last.vhost.clone(), last.user.clone());
        Some(slice)
    };
    one_by_one(next)
}

/// All topic permissions, by virtual host, user and exchange.
pub(crate) fn topic_permissions(
    broker: &Arc<Broker>,
) -> impl Iterator<Item = TopicPermission> + Send + use<> {
    let broker = Arc::clone(broker);
    let mut last: Option<TopicPermission> = None;
    let next = move || {
        let names = last.as_ref().map_or(["", "", ""], |last| {
            [&*last.vhost, &*last.user, &*last.exchange]
        });
        let slice: Vec<TopicPermission> = broker.with_access(|access| {
            let [vhost, user, exchange] = names;
            let later = access.topic_permissions_after(vhost, user, exchange);
            later.take(SLICE).cloned().collect()
        });
        last = Some(slice.last()?.clone());
        Some(slice)
    };
    one_by_one(next)
}

/// The parameters of a virtual host, by component and name.
pub(crate) fn parameters(vhost: &Arc<Vhost>) -> impl Iterator<Item = Parameter> + Send + use<> {
    let vhost = Arc::clone(vhost);
    let (mut component, mut name) = (String::new(), String::new());
    let next = move || {
        let rules = vhost.rules.read();
        let later = rules.parameters.list_after(&component, &name);
        let slice: Vec<Parameter> = later.take(SLICE_OF_LARGE).cloned().collect();
        drop(rules);
        let last = slice.last()?;
        (component, name) = (last.component.clone(), last.name.clone());
        Some(slice)
    };
    one_by_one(next)
}
