//! Who declared a queue, as `users/U/queues` tells.

use serde_json::{Value, json};

use crate::support::http::Http;
use crate::support::{Folder, Server};

/// Names of the queues that a user declared, as somebody sees them.
fn queues_of(user: &str, seen_by: &Http) -> Value {
    seen_by.get(&format!("/api/users/{user}/queues?columns=vhost,name"))
}

#[test]
fn the_queues_that_a_user_declared_are_listed() {
    let folder = Folder::new();
    let server = Server::start_http_in(&folder, &[]);
    let guest = server.http_as("guest", "guest");
    guest.done("PUT", "/api/vhosts/other", &json!({}));
    let all = json!({"configure": ".*", "write": ".*", "read": ".*"});
    let user = json!({"password": "x", "tags": "management"});
    for name in ["maker", "looker"] {
        guest.done("PUT", &format!("/api/users/{name}"), &user);
        guest.done("PUT", &format!("/api/permissions/other/{name}"), &all);
    }
    guest.done("PUT", "/api/permissions/%2F/maker", &all);
    let maker = server.http_as("maker", "x");
    let durable = json!({"durable": true});
    for queue in ["%2F/over-http", "other/over-http"] {
        maker.done("PUT", &format!("/api/queues/{queue}"), &durable);
    }
    // Whoever declares it again does not take it over.
    guest.done("PUT", "/api/queues/%2F/over-http", &durable);
    let mut client = server.login();
    client.declare(1, "over-amqp");
    let given = json!({"queues": [{"vhost": "/", "name": "of-a-file"}]});
    guest.call("POST", "/api/definitions", &given.to_string());
    let named = |vhost: &str, name: &str| json!({"vhost": vhost, "name": name});
    let both = json!([named("/", "over-http"), named("other", "over-http")]);
    assert_eq!(queues_of("maker", &guest), both);
    let guests = json!([named("/", "of-a-file"), named("/", "over-amqp")]);
    assert_eq!(queues_of("guest", &guest), guests);
    assert_eq!(queues_of("nobody", &guest), json!([]));
    // Only what is in virtual hosts that one may enter.
    let looker = server.http_as("looker", "x");
    assert_eq!(
        queues_of("maker", &looker),
        json!([named("other", "over-http")])
    );
    let page = guest.get("/api/users/maker/queues?page=1&page_size=1");
    assert_eq!(
        (&page["total_count"], &page["item_count"]),
        (&json!(2), &json!(1))
    );
    drop(client);
    server.kill();
    let server = Server::start_http_in(&folder, &[]);
    let guest = server.http_as("guest", "guest");
    assert_eq!(queues_of("maker", &guest), both);
    assert_eq!(queues_of("guest", &guest), json!([named("/", "of-a-file")]));
}
