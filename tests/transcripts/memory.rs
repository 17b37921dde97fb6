//! The broker crate in memory, with a clock that only transcripts move.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use leveret_broker::{ApplyTo, Broker, Effects, Policy, PolicyKind, Ticker};
use leveret_store::InstantStore;
use serde_json::Value as Json;

use crate::player::{Wire, World};
use crate::script::{PolicyChange, Target};
use crate::support_of_broker::{self as support, Client};

/// The clock moves on in steps of this, milliseconds.
const STEP_MS: u64 = 10;

type Clients = Rc<RefCell<Vec<Rc<RefCell<Client>>>>>;

#[derive(Clone)]
pub(crate) struct Memory {
    broker: Arc<Broker>,
    now_ms: Rc<Cell<u64>>,
    ticker: Rc<RefCell<Ticker>>,
    clients: Clients,
}

impl Memory {
    pub(crate) fn new() -> Self {
        Self {
            broker: support::broker(Arc::new(InstantStore)),
            now_ms: Rc::new(Cell::new(1)),
            ticker: Rc::default(),
            clients: Rc::default(),
        }
    }

    /// Everybody has a turn, then some time passes.
    fn go_on(&self) {
        let now_ms = self.now_ms.get() + STEP_MS;
        self.now_ms.set(now_ms);
        if now_ms % Ticker::INTERVAL_MS < STEP_MS {
            self.ticker.borrow_mut().tick(&self.broker, now_ms);
        }
        let mut effects = Effects::default();
        while let Some(due_ms) = self.broker.run_due(now_ms, &mut effects)
            && due_ms <= now_ms
        {}
        for client in self.clients.borrow().iter() {
            client.borrow_mut().send_at(&[], now_ms);
        }
    }
}

impl World for Memory {
    fn target(&self) -> Target {
        Target::Leveret
    }

    fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }

    fn wait(&self, ms: u64) {
        (0..ms.div_ceil(STEP_MS)).for_each(|_| self.go_on());
    }

    fn patience_ms(&self) -> u64 {
        2_000
    }

    fn connect(&self, user: &str, _password: &str) -> Box<dyn Wire> {
        let mut client = Client::open(&self.broker, user, "/");
        client.take();
        let client = Rc::new(RefCell::new(client));
        self.clients.borrow_mut().push(Rc::clone(&client));
        Box::new(Memorised {
            world: self.clone(),
            client,
        })
    }

    fn set_policy(&self, change: &PolicyChange) {
        let kind = if change.operator {
            PolicyKind::Operator
        } else {
            PolicyKind::User
        };
        let mut admin = self.broker.administer();
        let Some(definition) = &change.definition else {
            let deleted = admin.delete_policy(kind, "/", &change.name);
            return deleted.expect("the policy is there");
        };
        let policy = Policy {
            vhost: "/".into(),
            name: change.name.as_str().into(),
            pattern: change.pattern.as_str().into(),
            apply_to: ApplyTo::parse(&change.apply_to).expect("a kind"),
            priority: change.priority,
            definition: definition.as_object().expect("an object").clone(),
        };
        admin.put_policy(kind, policy).expect("a lawful policy");
    }

    fn http(&self, _method: &str, _path: &str, _body: &str) -> (u16, Json) {
        unreachable!("transcripts with HTTP are for sockets")
    }

    fn vhost(&self) -> String {
        "/".to_owned()
    }
}

struct Memorised {
    world: Memory,
    client: Rc<RefCell<Client>>,
}

impl Wire for Memorised {
    fn send(&mut self, bytes: &[u8]) {
        let now_ms = self.world.now_ms.get();
        self.client.borrow_mut().send_at(bytes, now_ms);
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        let bytes = self.client.borrow_mut().take();
        if bytes.is_empty() {
            self.world.go_on();
            return Some(self.client.borrow_mut().take());
        }
        Some(bytes)
    }

    fn cut(self: Box<Self>) {
        let clients = &self.world.clients;
        clients
            .borrow_mut()
            .retain(|client| !Rc::ptr_eq(client, &self.client));
        let client = Rc::into_inner(self.client).expect("nobody else has it");
        client.into_inner().disconnect();
    }
}
