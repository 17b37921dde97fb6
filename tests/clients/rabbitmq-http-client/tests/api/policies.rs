//! Policies and operator policies.

use rabbitmq_http_client::commons::PolicyTarget;
use rabbitmq_http_client::requests::{PolicyDefinitionBuilder, PolicyParams};

use crate::peer::{Queue, VHOST, client, name};

#[test]
fn policies() {
    let (client, queue) = (client(), Queue::declare("governed", None));
    let (first, second) = (name("policy"), name("policy"));
    let pattern = format!("^{}$", queue.name);
    let definition = PolicyDefinitionBuilder::new().max_length(5).build();
    let params = |name| {
        let params = PolicyParams::new(VHOST, name, &pattern, definition.clone());
        params.apply_to(PolicyTarget::Queues).priority(7)
    };
    client.declare_policy(&params(&first)).expect("declare");
    let shown = client.get_policy(VHOST, &first).expect("show");
    assert_eq!((shown.priority, &*shown.pattern), (7, &*pattern));
    assert_eq!(shown.apply_to, PolicyTarget::Queues);
    assert_eq!(shown.definition.0.expect("keys")["max-length"], 5);
    let governed = client.get_queue_info(VHOST, &queue.name).expect("show");
    assert_eq!(governed.policy.as_deref(), Some(&*first));
    let all = client.list_policies().expect("list");
    assert!(all.iter().any(|one| one.name == first));
    let inside = client.list_policies_in(VHOST).expect("list");
    assert!(inside.iter().any(|one| one.name == first));
    let target = PolicyTarget::ClassicQueues;
    let matching = client.list_matching_policies(VHOST, &queue.name, target);
    assert!(matching.expect("list").iter().any(|one| one.name == first));
    let many = client.declare_policies(vec![&params(&first), &params(&second)]);
    many.expect("declare many");
    let both = vec![first.as_str(), &second];
    client.delete_policies_in(VHOST, both).expect("delete");
    client.get_policy(VHOST, &first).unwrap_err();
    client.delete_policy(VHOST, &first, true).expect("again");
    let governed = client.get_queue_info(VHOST, &queue.name).expect("show");
    assert!(governed.policy.is_none_or(|policy| policy.is_empty()));
}

#[test]
fn operator_policies() {
    let (client, queue) = (client(), Queue::declare("governed", None));
    let name = name("policy");
    let pattern = format!("^{}$", queue.name);
    let definition = PolicyDefinitionBuilder::new().max_length(9).build();
    let params = PolicyParams::new(VHOST, &name, &pattern, definition);
    let params = params.apply_to(PolicyTarget::Queues);
    client.declare_operator_policy(&params).expect("declare");
    let many = client.declare_operator_policies(vec![&params]);
    many.expect("declare many");
    let shown = client.get_operator_policy(VHOST, &name).expect("show");
    assert_eq!(shown.pattern, pattern);
    let all = client.list_operator_policies().expect("list");
    assert!(all.iter().any(|one| one.name == name));
    let inside = client.list_operator_policies_in(VHOST).expect("list");
    assert!(inside.iter().any(|one| one.name == name));
    let target = PolicyTarget::ClassicQueues;
    let matching = client.list_matching_operator_policies(VHOST, &queue.name, target);
    assert!(matching.expect("list").iter().any(|one| one.name == name));
    let delete = client.delete_operator_policy(VHOST, &name, false);
    delete.expect("delete");
    client.get_operator_policy(VHOST, &name).unwrap_err();
}
