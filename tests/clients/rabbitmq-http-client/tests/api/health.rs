//! Health checks, held and not held.

use rabbitmq_http_client::commons::SupportedProtocol;
use rabbitmq_http_client::error::Error;
use rabbitmq_http_client::responses::HealthCheckFailureDetails;

use crate::peer::client;

#[test]
fn checks_that_hold() {
    let client = client();
    client.health_check_cluster_wide_alarms().expect("alarms");
    client.health_check_local_alarms().expect("local alarms");
    let quorum = client.health_check_if_node_is_quorum_critical();
    quorum.expect("quorum");
    let listeners = client.overview().unwrap().listeners;
    let amqp = listeners.iter().find(|one| one.protocol == "amqp").unwrap();
    let port = u16::try_from(amqp.port).unwrap();
    client.health_check_port_listener(port).expect("port");
    let protocol = client.health_check_protocol_listener(SupportedProtocol::AMQP);
    protocol.expect("protocol");
}

#[test]
fn a_port_and_a_protocol_that_nobody_serves() {
    let client = client();
    let refused = client.health_check_port_listener(1).unwrap_err();
    let Error::HealthCheckFailed { details, .. } = refused else {
        panic!("not a failed check");
    };
    assert!(matches!(
        details,
        HealthCheckFailureDetails::NoActivePortListener(details) if details.inactive_port == 1
    ));
    let refused = client.health_check_protocol_listener(SupportedProtocol::MQTT);
    let Error::HealthCheckFailed { details, .. } = refused.unwrap_err() else {
        panic!("not a failed check");
    };
    let HealthCheckFailureDetails::NoActiveProtocolListeners(details) = details else {
        panic!("{details:?}");
    };
    assert_eq!(details.inactive_protocols.len(), 1);
    assert!(!details.active_protocols.is_empty());
}
