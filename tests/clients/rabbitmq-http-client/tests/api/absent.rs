//! What Leveret does not have is listed as such.

use crate::peer::{VHOST, client, name};

#[test]
fn streams() {
    let client = client();
    assert!(client.list_stream_connections().expect("all").is_empty());
    let inside = client.list_stream_connections_in(VHOST);
    assert!(inside.expect("connections").is_empty());
    assert!(client.list_stream_publishers().expect("all").is_empty());
    let inside = client.list_stream_publishers_in(VHOST);
    assert!(inside.expect("publishers").is_empty());
    let of_one = client.list_stream_publishers_of(VHOST, &name("stream"));
    assert!(of_one.expect("publishers").is_empty());
    assert!(client.list_stream_consumers().expect("all").is_empty());
    let inside = client.list_stream_consumers_in(VHOST);
    assert!(inside.expect("consumers").is_empty());
    assert!(client.list_streams().expect("streams").is_empty());
    assert!(client.list_streams_in(VHOST).expect("streams").is_empty());
}

#[test]
fn shovels_and_federation() {
    let client = client();
    assert!(client.list_shovels().expect("shovels").is_empty());
    assert!(client.list_shovels_in(VHOST).expect("shovels").is_empty());
    assert!(client.list_federation_links().expect("links").is_empty());
    let upstreams = client.list_federation_upstreams();
    assert!(upstreams.expect("upstreams").is_empty());
}
