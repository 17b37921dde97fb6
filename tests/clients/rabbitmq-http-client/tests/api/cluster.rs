//! What the broker says of itself.

use rabbitmq_http_client::responses::{FeatureFlagState, ReachabilityProbeOutcome};
use serde_json::json;

use crate::peer::{client, client_of, object};

#[test]
fn overview_and_version() {
    let client = client();
    let overview = client.overview().expect("overview");
    assert!(overview.node.starts_with("rabbit@"), "{}", overview.node);
    assert_eq!(overview.rabbitmq_version, client.server_version().unwrap());
    assert!(overview.object_totals.exchanges >= 7);
    let amqp = overview.listeners.iter().find(|one| one.protocol == "amqp");
    assert!(amqp.is_some_and(|one| one.port > 0));
    assert!(overview.message_stats.publishing_details.is_some());
}

#[test]
fn nodes_memory_and_plugins() {
    let client = client();
    let nodes = client.list_nodes().expect("nodes");
    let [node] = nodes.as_slice() else {
        panic!("one node, not {}", nodes.len());
    };
    let shown = client.get_node_info(&node.name).expect("node");
    assert_eq!(shown.name, node.name);
    assert_eq!(shown.os_pid, node.os_pid);
    assert!(shown.processors > 0 && shown.fd_total > 0);
    assert!(!shown.being_drained && !shown.has_memory_alarm_in_effect);
    let applications: Vec<_> = node.applications.iter().map(|one| &*one.name).collect();
    assert!(applications.contains(&"rabbit"), "{applications:?}");
    let memory = client.get_node_memory_footprint(&node.name);
    let breakdown = memory.expect("memory").breakdown.expect("a breakdown");
    assert!(breakdown.total.rss > 0);
    let plugins = client.list_node_plugins(&node.name).expect("plugins");
    assert!(plugins.0.iter().any(|one| one == "rabbitmq_management"));
    let everywhere = client.list_all_cluster_plugins().expect("plugins");
    assert_eq!(everywhere.0.len(), plugins.0.len());
}

#[test]
fn cluster_name_and_tags() {
    let client = client();
    let before = client.get_cluster_name().expect("name").name;
    client.set_cluster_name("warren").expect("rename");
    assert_eq!(client.get_cluster_name().unwrap().name, "warren");
    client.set_cluster_name(&before).expect("rename");
    let tags = object(json!({"region": "here"}));
    client.set_cluster_tags(tags.clone()).expect("tags");
    assert_eq!(client.get_cluster_tags().expect("tags").0, tags);
    assert_eq!(client.overview().unwrap().cluster_tags.unwrap().0, tags);
    client.clear_cluster_tags().expect("no tags");
}

#[test]
fn who_asks() {
    let user = client().current_user().expect("whoami");
    assert_eq!(user.name, "guest");
    assert_eq!(user.tags.0, ["administrator"]);
    let ReachabilityProbeOutcome::Reached(details) = client().probe_reachability() else {
        panic!("not reached");
    };
    assert_eq!(details.current_user.name, "guest");
    let stranger = client_of("nobody-of-this-name", "wrong").probe_reachability();
    assert!(matches!(stranger, ReachabilityProbeOutcome::Unreachable(_)));
    assert!(!client().oauth_configuration().expect("auth").oauth_enabled);
}

#[test]
fn login_attempts() {
    let node = client().overview().unwrap().node;
    let attempts = client().auth_attempts_statistics(&node).expect("attempts");
    let sums = |one: &&_| {
        let one: &rabbitmq_http_client::responses::AuthenticationAttemptStatistics = one;
        one.success_count + one.failure_count == one.all_attempt_count
    };
    assert!(!attempts.is_empty() && attempts.iter().all(|one| sums(&one)));
}

#[test]
fn feature_flags() {
    let client = client();
    let flags = client.list_feature_flags().expect("flags").0;
    let own = flags.iter().find(|flag| flag.name == "rabbitmq_4.2.0");
    assert_eq!(own.expect("the flag").state, FeatureFlagState::Enabled);
    client
        .enable_feature_flag("rabbitmq_4.2.0")
        .expect("enable");
    client
        .enable_all_stable_feature_flags()
        .expect("enable all");
    client.enable_feature_flag("none_of_this_name").unwrap_err();
}

#[test]
fn deprecated_features() {
    let all = client().list_all_deprecated_features().expect("all").0;
    let used = client().list_deprecated_features_in_use().expect("used").0;
    let known = |name: &str| all.iter().any(|feature| feature.name == name);
    assert!(!all.is_empty());
    assert!(used.iter().all(|feature| known(&feature.name)));
}

#[test]
fn rebalancing() {
    client().rebalance_queue_leaders().expect("rebalance");
}
