//! Definitions of the whole broker and of one virtual host.

use rabbitmq_http_client::requests::{
    PolicyDefinitionBuilder, PolicyParams, QueueParams, VirtualHostParams,
};
use serde_json::{Value, json};

use crate::peer::{Queue, VHOST, client, name, object};

#[test]
fn of_the_broker() {
    let (client, queue) = (client(), Queue::declare("queue", None));
    let arguments = object(json!({"n": 1}));
    let bind = client.bind_queue(
        VHOST,
        &queue.name,
        "amq.topic",
        Some("a.*"),
        Some(arguments),
    );
    bind.expect("bind");
    let definitions = client.export_cluster_wide_definitions_as_data();
    let definitions = definitions.expect("export");
    assert!(definitions.queues.iter().any(|one| one.name == queue.name));
    assert!(definitions.users.iter().any(|one| one.name == "guest"));
    let text = client.export_cluster_wide_definitions_as_string();
    let mut value: Value = serde_json::from_str(&text.expect("export")).expect("JSON");
    keep_vhost(&mut value);
    client
        .delete_queue(VHOST, &queue.name, false)
        .expect("delete");
    let import = client.import_cluster_wide_definitions(value.clone());
    import.expect("import");
    let bindings = client.list_queue_bindings(VHOST, &queue.name);
    assert_eq!(bindings.expect("the queue is back").len(), 2);
    client.import_definitions(value).expect("import again");
    let wrong = json!({"queues": [{"name": 7, "vhost": VHOST}]});
    client.import_cluster_wide_definitions(wrong).unwrap_err();
}

/// Takes out what is of other virtual hosts: other tests make and delete these meanwhile.
fn keep_vhost(definitions: &mut Value) {
    let sections = definitions.as_object_mut().into_iter().flatten();
    for (section, objects) in sections {
        let key = if section == "vhosts" { "name" } else { "vhost" };
        let is_here = |one: &Value| one.get(key).is_none_or(|name| name == VHOST);
        objects
            .as_array_mut()
            .into_iter()
            .for_each(|all| all.retain(is_here));
    }
}

#[test]
fn of_a_vhost() {
    let (client, vhost) = (client(), name("vhost"));
    let params = VirtualHostParams::named(&vhost);
    client.create_vhost(&params).expect("create");
    client
        .grant_full_permissions("guest", &vhost)
        .expect("grant");
    let params = QueueParams::new_durable_classic_queue("q", None);
    client.declare_queue(&vhost, &params).expect("declare");
    let definition = PolicyDefinitionBuilder::new().max_length(5).build();
    let params = PolicyParams::new(&vhost, "p", ".*", definition);
    client.declare_policy(&params).expect("policy");
    let set = client.export_vhost_definitions_as_data(&vhost);
    let set = set.expect("export");
    assert_eq!((set.queues.len(), set.policies.len()), (1, 1));
    let text = client.export_vhost_definitions_as_string(&vhost);
    let value: Value = serde_json::from_str(&text.expect("export")).expect("JSON");
    client.delete_queue(&vhost, "q", false).expect("delete");
    let import = client.import_vhost_definitions(&vhost, value);
    import.expect("import");
    client.get_queue_info(&vhost, "q").expect("it is back");
    client.delete_vhost(&vhost, false).expect("delete");
}
