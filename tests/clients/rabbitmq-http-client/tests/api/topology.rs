//! Exchanges, queues and bindings.

use rabbitmq_http_client::commons::{BindingDestinationType, ExchangeType, PaginationParams};
use rabbitmq_http_client::error::Error;
use rabbitmq_http_client::requests::{
    BindingDeletionParams, ExchangeParams, QueueParams, XArgumentsBuilder,
};
use serde_json::json;

use crate::peer::{Client, Queue, VHOST, client, name, object};

fn exchange(client: &Client, kind: ExchangeType) -> String {
    let name = name("exchange");
    let params = ExchangeParams::durable(&name, kind, None);
    client.declare_exchange(VHOST, &params).expect("declare");
    name
}

#[test]
fn exchanges() {
    let client = client();
    for kind in [
        ExchangeType::Direct,
        ExchangeType::Fanout,
        ExchangeType::Topic,
        ExchangeType::Headers,
    ] {
        let wanted = String::from(kind.clone());
        let name = exchange(&client, kind);
        let shown = client.get_exchange_info(VHOST, &name).expect("show");
        assert_eq!(shown.exchange_type, wanted);
        assert!(shown.durable && !shown.auto_delete);
        let delete = client.delete_exchange(VHOST, &name, false);
        delete.expect("delete");
        client.get_exchange_info(VHOST, &name).unwrap_err();
        let again = client.delete_exchange(VHOST, &name, true);
        again.expect("delete again");
    }
    let all = client.list_exchanges().expect("list");
    assert!(all.iter().any(|one| one.name == "amq.topic"));
    let inside = client.list_exchanges_in(VHOST).expect("list");
    assert!(inside.iter().any(|one| one.name.is_empty()));
    let page = PaginationParams::new(1, 3);
    assert_eq!(client.list_exchanges_paged(&page).expect("page").len(), 3);
    let inside = client.list_exchanges_in_paged(VHOST, &page);
    assert_eq!(inside.expect("page").len(), 3);
}

#[test]
fn an_exchange_with_arguments() {
    let (client, alternate) = (client(), exchange(&client(), ExchangeType::Fanout));
    let name = name("exchange");
    let arguments = object(json!({"alternate-exchange": alternate}));
    let params = ExchangeParams::topic(&name, false, true, Some(arguments.clone()));
    client.declare_exchange(VHOST, &params).expect("declare");
    let shown = client.get_exchange_info(VHOST, &name).expect("show");
    assert_eq!(shown.arguments.0, arguments);
    let both = [name.as_str(), &alternate];
    client
        .delete_exchanges(VHOST, &both, false)
        .expect("delete");
}

#[test]
fn queues() {
    let client = client();
    let arguments = XArgumentsBuilder::new()
        .max_length(10)
        .message_ttl(60_000)
        .overflow_reject_publish()
        .build();
    let queue = Queue::declare("queue", arguments);
    let shown = client.get_queue_info(VHOST, &queue.name).expect("show");
    assert_eq!(shown.queue_type, "classic");
    assert_eq!(shown.arguments.0["x-max-length"], 10);
    assert_eq!(shown.arguments.0["x-message-ttl"], 60_000);
    assert!(shown.durable && !shown.exclusive);
    let all = client.list_queues().expect("list");
    assert!(all.iter().any(|one| one.name == queue.name));
    let inside = client.list_queues_in(VHOST).expect("list");
    assert!(inside.iter().any(|one| one.name == queue.name));
    let classic = client.list_classic_queues_in(VHOST).expect("list");
    assert!(classic.iter().any(|one| one.name == queue.name));
    let detailed = client.list_queues_with_details().expect("details");
    assert!(detailed.iter().any(|one| one.name == queue.name));
    let page = PaginationParams::new(1, 1);
    assert_eq!(client.list_queues_paged(&page).expect("page").len(), 1);
    let inside = client.list_queues_in_paged(VHOST, &page);
    assert_eq!(inside.expect("page").len(), 1);
}

#[test]
fn queues_of_other_kinds() {
    let client = client();
    let (quorum, transient) = (name("quorum"), name("transient"));
    let declare = client.declare_quorum_queue(VHOST, &quorum);
    declare.expect("quorum");
    let listed = client.list_quorum_queues().expect("list");
    assert!(listed.iter().any(|one| one.name == quorum));
    let params = QueueParams::new_transient_autodelete(&transient, None);
    client.declare_queue(VHOST, &params).expect("transient");
    let shown = client.get_queue_info(VHOST, &transient).expect("show");
    assert!(shown.auto_delete && !shown.durable);
    let both = [quorum.as_str(), &transient];
    client.delete_queues(VHOST, &both, false).expect("delete");
    client.delete_queue(VHOST, &quorum, true).expect("again");
    client.delete_queue(VHOST, &quorum, false).unwrap_err();
}

#[test]
fn a_queue_declared_otherwise() {
    let (client, queue) = (client(), Queue::declare("queue", None));
    let params = QueueParams::new_transient_autodelete(&queue.name, None);
    let refused = client.declare_queue(VHOST, &params).unwrap_err();
    let Error::ClientErrorResponse {
        status_code,
        error_details,
        ..
    } = refused
    else {
        panic!("{refused}");
    };
    assert_eq!(status_code.as_u16(), 400);
    let reason = error_details.and_then(|details| details.reason);
    let reason = reason.expect("a reason");
    assert!(reason.contains("inequivalent arg 'durable'"), "{reason}");
}

#[test]
fn bindings_of_a_queue() {
    let (client, queue) = (client(), Queue::declare("queue", None));
    let source = exchange(&client, ExchangeType::Topic);
    let bind = client.bind_queue(VHOST, &queue.name, &source, Some("a.#"), None);
    bind.expect("bind");
    let arguments = object(json!({"x-match": "any", "n": 1}));
    let bind = client.bind_queue(VHOST, &queue.name, &source, Some("b/c"), Some(arguments));
    bind.expect("bind with arguments");
    let bindings = client.list_queue_bindings(VHOST, &queue.name);
    let bindings = bindings.expect("list");
    // The default exchange leads there too.
    assert_eq!(bindings.len(), 3);
    let from = client.list_exchange_bindings_with_source(VHOST, &source);
    let from = from.expect("list");
    assert_eq!(from.len(), 2);
    let seen = |list: Vec<rabbitmq_http_client::responses::BindingInfo>| {
        list.iter().filter(|one| one.source == source).count()
    };
    assert_eq!(seen(client.list_bindings().expect("list")), 2);
    assert_eq!(seen(client.list_bindings_in(VHOST).expect("list")), 2);
    for binding in &from {
        let params = BindingDeletionParams::from_binding_info(binding);
        client.delete_binding(&params, false).expect("unbind");
        client.recreate_binding(binding).expect("bind again");
        client.delete_binding(&params, false).expect("unbind");
        client.delete_binding(&params, true).expect("unbind again");
    }
    assert_eq!(seen(client.list_bindings_in(VHOST).expect("list")), 0);
    let delete = client.delete_exchange(VHOST, &source, false);
    delete.expect("delete");
}

#[test]
fn bindings_of_an_exchange() {
    let client = client();
    let source = exchange(&client, ExchangeType::Direct);
    let destination = exchange(&client, ExchangeType::Fanout);
    let bind = client.bind_exchange(VHOST, &destination, &source, Some("k"), None);
    bind.expect("bind");
    let into = client.list_exchange_bindings_with_destination(VHOST, &destination);
    let into = into.expect("list");
    assert_eq!(into.len(), 1);
    assert_eq!(into[0].destination_type, BindingDestinationType::Exchange);
    assert_eq!(into[0].routing_key, "k");
    let params = BindingDeletionParams::from_binding_info(&into[0]);
    client.delete_binding(&params, false).expect("unbind");
    let both = [source.as_str(), &destination];
    client
        .delete_exchanges(VHOST, &both, false)
        .expect("delete");
}
