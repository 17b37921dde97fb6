//! Messages that pass while their virtual host is traced, noted where they pass.

use std::sync::Arc;

use leveret_codec::split_route;
use leveret_queue::Delivery;
use leveret_record::{Blob, Record};
use leveret_session::{BatchMessage, Publishes};

use crate::context::client::Client;
use crate::queue::cell::QueueCell;
use crate::queue::consumer::Handle;
use crate::queue::copied::CopiedBody;
use crate::queue::effects::Effects;

/// Where copies are published.
pub(crate) const TRACE_EXCHANGE: &[u8] = b"amq.rabbitmq.trace";
/// What RabbitMQ's tools have as their channel.
const TOOLS_CHANNEL: u16 = 1;
/// Stands for a connection where there is none.
const TOOLS_CONNECTION: &str = "HTTP API";

/// Who published a message, or got it.
#[derive(Clone)]
pub(crate) struct Party {
    pub(crate) vhost: Arc<str>,
    pub(crate) connection: Arc<str>,
    pub(crate) user: Arc<str>,
    pub(crate) channel: u16,
}

impl Party {
    /// A channel of a client.
    pub(crate) fn client(client: &Client, channel: u16) -> Self {
        Self {
            vhost: client.vhost.lock().as_str().into(),
            connection: client.name.as_str().into(),
            user: client.user.lock().as_str().into(),
            channel,
        }
    }

    /// A user of the HTTP API.
    pub(crate) fn tool(vhost: &str, user: &str) -> Self {
        Self {
            vhost: vhost.into(),
            connection: TOOLS_CONNECTION.into(),
            user: user.into(),
            channel: TOOLS_CHANNEL,
        }
    }
}

/// What became of a message.
pub(crate) enum Passage {
    /// It was published, and led to these queues.
    Published(Vec<Arc<str>>),
    /// It was delivered from this queue.
    Delivered { queue: Arc<str>, redelivered: bool },
}

/// A message that passed.
pub(crate) struct Traced {
    pub(crate) party: Party,
    pub(crate) passage: Passage,
    /// Exchange and routing key as two raw short strings.
    pub(crate) route: Vec<u8>,
    pub(crate) header: Vec<u8>,
    /// The same as it was published, if it differs: `BCC` is a way, too.
    pub(crate) original: Option<Vec<u8>>,
    pub(crate) body: CopiedBody,
}

/// What is only known of a message that was looked at closely: its header as it was published, and
/// its body if that is shared.
pub(crate) type Close<'a> = (&'a [u8], Option<&'a Arc<Blob>>);

impl Traced {
    fn published(
        party: &Party,
        cells: &[Arc<QueueCell>],
        (raw, publish): (&[u8], BatchMessage<'_>),
        close: Option<Close<'_>>,
    ) -> Self {
        let original = close.map(|(original, _)| original);
        let original = original.filter(|original| *original != publish.header);
        let blob = close.and_then(|(_, blob)| blob);
        let queues = cells.iter().map(|cell| Arc::clone(&cell.name));
        Self {
            party: party.clone(),
            passage: Passage::Published(queues.collect()),
            route: raw.to_vec(),
            header: publish.header.to_vec(),
            original: original.map(<[u8]>::to_vec),
            body: match blob {
                Some(blob) => CopiedBody::Shared(Arc::clone(blob)),
                None => CopiedBody::Own(publish.body.to_vec()),
            },
        }
    }

    /// A delivery; none of a copy, which would be copied without end.
    pub(crate) fn delivered(
        party: impl FnOnce() -> Party,
        cell: &QueueCell,
        delivery: &Delivery<'_>,
    ) -> Option<Self> {
        let record: &Record<'_> = delivery.record;
        if is_copy(record.route) {
            return None;
        }
        Some(Self {
            party: party(),
            passage: Passage::Delivered {
                queue: Arc::clone(&cell.name),
                redelivered: delivery.unacked.attempts.acquired > 0,
            },
            route: record.route.to_vec(),
            header: record.header.to_vec(),
            original: None,
            body: CopiedBody::of(record.body, delivery.blob),
        })
    }
}

/// Whether a message with this route is a copy itself.
pub(crate) fn is_copy(route: &[u8]) -> bool {
    split_route(route).is_some_and(|(exchange, _)| exchange == TRACE_EXCHANGE)
}

impl Effects {
    #[cold]
    pub(crate) fn trace(
        &mut self,
        party: &Party,
        cells: &[Arc<QueueCell>],
        batch: &Publishes<'_>,
        close: Option<Close<'_>>,
    ) {
        for publish in batch.iter() {
            let message = (batch.route, publish);
            let traced = Traced::published(party, cells, message, close);
            self.traced.push(traced);
        }
    }

    /// Notes what a consumer got.
    #[cold]
    pub(crate) fn trace_delivery(&mut self, handle: &Handle, delivery: &Delivery<'_>) {
        let party = || Party::client(&handle.client, handle.channel);
        self.traced
            .extend(Traced::delivered(party, &handle.cell, delivery));
    }
}
