//! Connections, channels and consumers, which an AMQP client opens.

use rabbitmq_http_client::commons::PaginationParams;
use rabbitmq_http_client::responses::ChannelState;

use crate::peer::{Client, Peer, Queue, VHOST, client, eventually, name};

/// The broker's name of the connection that calls itself `given`.
fn connection(client: &Client, given: &str) -> String {
    eventually("the connection is listed", || {
        let mut all = client.list_connections().expect("list").into_iter();
        let own = all.find(|one| one.client_properties.connection_name == given)?;
        Some(own.name)
    })
}

#[test]
fn connections() {
    let (client, given) = (client(), name("connection"));
    let _peer = Peer::connect(&given);
    let own = connection(&client, &given);
    let shown = client.get_connection_info(&own).expect("show");
    assert_eq!(shown.protocol, "AMQP 0-9-1");
    assert_eq!(shown.username, "guest");
    assert_eq!(shown.channel_count, 1);
    assert_eq!(shown.state.as_deref(), Some("running"));
    assert_eq!(shown.client_hostname.as_deref(), Some("127.0.0.1"));
    assert!(shown.connected_at > 1_600_000_000_000);
    assert!(
        shown
            .client_properties
            .capabilities
            .expect("some")
            .basic_nack
    );
    let inside = client.list_connections_in(VHOST).expect("list");
    assert!(inside.iter().any(|one| one.name == own));
    let page = client.list_connections_paged(&PaginationParams::first_page_default());
    assert!(page.expect("page").iter().any(|one| one.name == own));
    let of_user = client.list_user_connections("guest").expect("list");
    assert!(of_user.iter().any(|one| one.name == own));
}

#[test]
fn connections_closed() {
    let (client, given) = (client(), name("connection"));
    let peer = Peer::connect(&given);
    let own = connection(&client, &given);
    let close = client.close_connection(&own, Some("enough"), false);
    close.expect("close");
    eventually("the client notices", || {
        (!peer.connection.status().connected()).then_some(())
    });
    eventually("it is gone", || {
        client.get_connection_info(&own).is_err().then_some(())
    });
    client.close_connection(&own, None, true).expect("again");
    client.close_connection(&own, None, false).unwrap_err();
    let nobody = client.close_user_connections(&name("nobody"), None, true);
    nobody.expect("nobody's connections");
}

#[test]
fn channels() {
    let (client, given) = (client(), name("connection"));
    let peer = Peer::connect(&given);
    let own = connection(&client, &given);
    let queue = Queue::declare("queue", None);
    let _consumer = peer.consume(&queue.name, "a tag");
    let on = client.list_channels_on(&own).expect("list");
    let [channel] = on.as_slice() else {
        panic!("one channel, not {}", on.len());
    };
    assert_eq!(channel.id, u32::from(peer.channel.id()));
    let shown = client.get_channel_info(&channel.name).expect("show");
    assert!(shown.has_publisher_confirms_enabled);
    assert_eq!(shown.consumer_count, 1);
    assert_eq!(shown.connection_details.name, own);
    assert_eq!(shown.state, ChannelState::Running);
    let own = |list: Vec<rabbitmq_http_client::responses::Channel>| {
        list.iter().any(|one| one.name == channel.name)
    };
    let page = PaginationParams::first_page_default();
    assert!(own(client.list_channels().expect("list")));
    assert!(own(client.list_channels_paged(&page).expect("page")));
    assert!(own(client.list_channels_in(VHOST).expect("list")));
    // RabbitMQ gives no pages of a virtual host's channels, whatever this client believes.
    client.list_channels_in_paged(VHOST, &page).unwrap_err();
}

#[test]
fn consumers() {
    let (client, tag) = (client(), name("tag"));
    let peer = Peer::connect(&name("connection"));
    let queue = Queue::declare("queue", None);
    let _consumer = peer.consume(&queue.name, &tag);
    let all = client.list_consumers().expect("list");
    let own = all.iter().find(|one| one.consumer_tag == tag);
    let own = own.expect("the consumer is listed");
    assert!(own.active && own.manual_ack && !own.exclusive);
    assert_eq!(own.prefetch_count, 7);
    assert_eq!((&*own.queue.name, &*own.queue.vhost), (&*queue.name, VHOST));
    let details = own.channel_details.as_ref().expect("its channel");
    assert_eq!(details.id, u32::from(peer.channel.id()));
    let inside = client.list_consumers_in(VHOST).expect("list");
    assert!(inside.iter().any(|one| one.consumer_tag == tag));
    let shown = client.get_queue_info(VHOST, &queue.name).expect("show");
    assert_eq!(shown.consumer_count, 1);
}
