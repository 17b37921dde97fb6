//! Users and what they may do.

use rabbitmq_http_client::commons::PaginationParams;
use rabbitmq_http_client::password_hashing::{base64_encoded_salted_password_hash_sha256, salt};
use rabbitmq_http_client::requests::{Permissions, TopicPermissions, UserParams};

use crate::peer::{Client, VHOST, client, client_of, name};

fn create(client: &Client, user: &str, password: &str, tags: &str) {
    let hash = base64_encoded_salted_password_hash_sha256(&salt(), password);
    let params = UserParams::new(user, &hash, tags);
    client.create_user(&params).expect("create");
    assert_eq!(client.get_user(user).expect("show").password_hash, hash);
}

#[test]
fn users_and_passwords() {
    let (client, user) = (client(), name("user"));
    create(&client, &user, "secret", "management,policymaker");
    let shown = client.get_user(&user).expect("show");
    assert_eq!(shown.tags.0, ["management", "policymaker"]);
    let listed = client.list_users().expect("list");
    assert!(listed.iter().any(|one| one.name == user));
    let page = client.list_users_paged(&PaginationParams::first_page_default());
    assert!(page.expect("a page").len() >= 2);
    let without = client.list_users_without_permissions().expect("list");
    assert!(without.iter().any(|one| one.name == user));
    let same: &'static str = user.clone().leak();
    let own = client_of(same, "secret").current_user().expect("whoami");
    assert_eq!(own.name, user);
    client_of(same, "wrong").current_user().unwrap_err();
    client.delete_user(&user, false).expect("delete");
    client.get_user(&user).unwrap_err();
    client.delete_user(&user, true).expect("delete again");
    client.delete_user(&user, false).unwrap_err();
}

#[test]
fn many_users_at_once() {
    let client = client();
    let users = [name("user"), name("user")];
    for user in &users {
        create(&client, user, "secret", "");
    }
    let names = users.iter().map(String::as_str).collect();
    client.delete_users(names).expect("delete");
    let left = client.list_users().expect("list");
    assert!(!left.iter().any(|one| users.contains(&one.name)));
}

#[test]
fn permissions() {
    let (client, user) = (client(), name("user"));
    create(&client, &user, "secret", "management");
    let params = Permissions {
        user: &user,
        vhost: VHOST,
        configure: "^mine",
        read: ".*",
        write: "",
    };
    client.declare_permissions(&params).expect("declare");
    let shown = client.get_permissions(VHOST, &user).expect("show");
    assert_eq!(
        (&*shown.configure, &*shown.read, &*shown.write),
        ("^mine", ".*", "")
    );
    let own = |list: Vec<rabbitmq_http_client::responses::Permissions>| {
        list.iter()
            .any(|one| one.user == user && one.vhost == VHOST)
    };
    assert!(own(client.list_permissions().expect("list")));
    assert!(own(client.list_permissions_in(VHOST).expect("of a vhost")));
    assert!(own(client.list_permissions_of(&user).expect("of a user")));
    client.grant_full_permissions(&user, VHOST).expect("grant");
    let shown = client.get_permissions(VHOST, &user).expect("show");
    assert_eq!(shown.write, ".*");
    let clear = client.clear_permissions(VHOST, &user, false);
    clear.expect("clear");
    client.get_permissions(VHOST, &user).unwrap_err();
    client.delete_user(&user, false).expect("delete");
}

#[test]
fn topic_permissions() {
    let (client, user) = (client(), name("user"));
    create(&client, &user, "secret", "management");
    let params = TopicPermissions {
        user: &user,
        vhost: VHOST,
        write: "^a",
        read: "^b",
        exchange: "amq.topic",
    };
    let declare = client.declare_topic_permissions(&params);
    declare.expect("declare");
    let shown = client.get_topic_permissions_of(VHOST, &user);
    let shown = shown.expect("show");
    assert_eq!((&*shown.write, &*shown.exchange), ("^a", "amq.topic"));
    let own = |list: Vec<rabbitmq_http_client::responses::TopicPermission>| {
        list.iter().any(|one| one.user == user && one.read == "^b")
    };
    assert!(own(client.list_topic_permissions().expect("list")));
    assert!(own(client.list_topic_permissions_in(VHOST).expect("vhost")));
    assert!(own(client.list_topic_permissions_of(&user).expect("user")));
    let clear = client.clear_topic_permissions(VHOST, &user, false);
    clear.expect("clear");
    client.get_topic_permissions_of(VHOST, &user).unwrap_err();
    client.delete_user(&user, false).expect("delete");
}
