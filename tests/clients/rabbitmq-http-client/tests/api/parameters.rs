//! Parameters of virtual hosts and of the whole broker.

use rabbitmq_http_client::requests::{
    GlobalRuntimeParameterDefinition, RuntimeParameterDefinition,
};
use serde_json::json;

use crate::peer::{VHOST, client, name, object};

#[test]
fn parameters() {
    let (client, name) = (client(), name("parameter"));
    // A federation upstream that nobody reads, and that is there for other clients.
    let component = "federation-upstream";
    let definition = RuntimeParameterDefinition {
        name: &name,
        vhost: VHOST,
        component,
        value: object(json!({"uri": "amqp://localhost", "max-hops": 3})),
    };
    let upsert = client.upsert_runtime_parameter(&definition);
    upsert.expect("set");
    let shown = client.get_runtime_parameter(component, VHOST, &name);
    assert_eq!(shown.expect("show").value.0, definition.value);
    let own = |list: Vec<rabbitmq_http_client::responses::RuntimeParameter>| {
        list.iter().any(|one| one.name == name)
    };
    assert!(own(client.list_runtime_parameters().expect("list")));
    let of_component = client.list_runtime_parameters_of_component(component);
    assert!(own(of_component.expect("list")));
    let inside = client.list_runtime_parameters_of_component_in(component, VHOST);
    assert!(own(inside.expect("list")));
    let clear = client.clear_runtime_parameter(component, VHOST, &name, false);
    clear.expect("clear");
    let gone = client.get_runtime_parameter(component, VHOST, &name);
    gone.unwrap_err();
    let again = client.clear_runtime_parameter(component, VHOST, &name, true);
    again.expect("clear again");
}

#[test]
fn global_parameters() {
    let (client, name) = (client(), name("parameter"));
    let definition = GlobalRuntimeParameterDefinition {
        name: &name,
        value: object(json!({"a": {"b": [1, 2]}})),
    };
    let upsert = client.upsert_global_runtime_parameter(&definition);
    upsert.expect("set");
    let shown = client.get_global_runtime_parameter(&name).expect("show");
    assert_eq!(shown.value.0, json!(definition.value));
    let all = client.list_global_runtime_parameters().expect("list");
    assert!(all.iter().any(|one| one.name == name));
    let clear = client.clear_global_runtime_parameter(&name);
    clear.expect("clear");
    client.get_global_runtime_parameter(&name).unwrap_err();
}
