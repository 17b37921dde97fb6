#!/bin/sh
# rabbitmqadmin v2, unmodified, through everyday work. It writes TAP. RABBITMQADMIN names the program, API_PORT the port of
# the HTTP API.
. ../rabbitmqadmin/steps.sh

# A home without a configuration file.
export HOME="$folder"
all="$folder/all.json"
one="$folder/one.json"

admin() {
    "$RABBITMQADMIN" --host 127.0.0.1 --port "$API_PORT" --non-interactive "$@" 2>&1
}

step show_overview '4.2.0' show overview
step show_churn 'Queue' show churn
step show_endpoint "$API_PORT" show endpoint
step nodes 'rabbit@' nodes list
node=$(admin nodes list | grep -o 'rabbit@[^ ]*' | head -n 1)
step memory_in_bytes 'Code' nodes memory_breakdown_in_bytes --node "$node"
step memory_in_percent 'Code' nodes memory_breakdown_in_percent --node "$node"
step plugins 'rabbitmq_management' plugins list_all
step plugins_of_a_node 'rabbitmq_management' plugins list_on_node --node "$node"
step auth_attempts 'http' auth_attempts stats --node "$node"
step feature_flags 'rabbitmq_4.2.0' feature_flags list
step enable_feature_flags '' feature_flags enable_all
step deprecated_features 'global_qos' deprecated_features list
step deprecated_features_in_use '' deprecated_features list_used

step declare_vhost '' vhosts declare --name v2 --default-queue-type classic --description 'a place' --tracing
step list_vhosts 'a place' vhosts list
step protect_vhost '' vhosts enable_deletion_protection --name v2
refused delete_protected_vhost 'protected from deletion' vhosts delete --name v2
step release_vhost '' vhosts disable_deletion_protection --name v2

step declare_user '' users declare --name u --password p --tags administrator
step declare_user_sha512 '' users declare --name u512 --password p --hashing-algorithm sha512 --tags management
step list_users 'u512' users list
step page_of_users 'guest' users list --page 1 --page-size 50
step hash_password '' passwords salt_and_hash p
step declare_permissions '' --vhost v2 permissions declare --username u --configure '.*' --read '.*' --write '.*'
step list_permissions 'v2' permissions list
step permissions_of_users 'v2' users permissions
step as_another_user '4.2.0' --username u --password p show overview
refused with_a_wrong_password 'Not_Authorized' --username u --password wrong show overview

step declare_queue '' queues declare --name q1 --type classic --durable true --arguments '{"x-max-length": 10}'
step declare_queue_in_vhost '' --vhost v2 --username u --password p declare queue --name q2 --type classic
step declare_exchange '' exchanges declare --name x1 --type topic
step declare_exchange_as_verb '' declare exchange --name x2 --type fanout --durable true
step bind_queue '' exchanges bind --source x1 --destination-type queue --destination q1 --routing-key 'a.#'
step bind_exchange '' bindings declare --source x1 --destination-type exchange --destination x2 --routing-key b
step list_queues 'q1' queues list
step page_of_queues 'q1' queues list --page 1 --page-size 50
step show_queue 'classic' queues show --name q1 --columns name,queue_type
step list_exchanges 'x2' exchanges list
step list_bindings 'a.#' bindings list
refused inequivalent "inequivalent arg 'durable'" queues declare --name q1 --type classic --durable false

step publish 'published and routed' publish message --exchange x1 --routing-key a.b --payload hello --properties '{"message_id": "m1"}'
step get 'hello' get messages --queue q1 --ack-mode ack_requeue_true
step get_properties 'm1' get messages --queue q1 --ack-mode ack_requeue_true
step publish_nowhere 'NOT routed' publish message --exchange x1 --routing-key nowhere --payload lost
step purge '' queues purge --name q1

step declare_policy '' policies declare --name p1 --pattern '^q' --apply-to queues --priority 1 --definition '{"max-length": 5}'
step list_policies 'max-length' policies list
step list_policies_in 'p1' --vhost / policies list_in --apply-to queues
step matching_policies 'p1' --vhost / policies list_matching_object --name q1 --type queues
step patch_policy '' --vhost / policies patch --name p1 --definition '{"max-length": 29}'
step update_policy '' policies update_definition --name p1 --definition-key max-length --new-value 131
step updated_policy '131' policies list
step override_policy '' policies declare_override --name p1 --override-name p2 --definition '{"max-length": 7}'
step blanket_policy '' policies declare_blanket --name p3 --apply-to queues --definition '{"max-length": 787876}'
step conflicting_policies '' policies list_conflicting
step delete_policy_keys '' policies delete_definition_keys_from_all --definition-keys max-length-bytes
step delete_policy '' policies delete --name p2
step declare_operator_policy '' operator_policies declare --name op --pattern '.*' --apply-to queues --definition '{"max-length": 50}'
step list_operator_policies 'op' operator_policies list
step update_operator_policy '' operator_policies update_definition --name op --definition-key max-length --new-value 51

step set_parameter '' parameters set --component federation-upstream --name up --value '{"uri": "amqp://elsewhere"}'
step list_parameters 'up' parameters list --component federation-upstream
step list_all_parameters 'amqp://elsewhere' parameters list_all
step clear_parameter '' parameters clear --component federation-upstream --name up
step set_global_parameter '' global_parameters set --name cluster_tags --value '{"region": "here"}'
step list_global_parameters 'region' global_parameters list
step declare_vhost_limit '' --vhost v2 vhost_limits declare --name max-queues --value 1234
step list_vhost_limits '1234' --vhost v2 vhost_limits list
step delete_vhost_limit '' --vhost v2 vhost_limits delete --name max-queues
step declare_user_limit '' user_limits declare --username u --name max-channels --value 321
step list_user_limits '321' user_limits list --username u
step delete_user_limit '' user_limits delete --username u --name max-channels

step alarms '' health_check cluster_wide_alarms
step local_alarms '' health_check local_alarms
step quorum '' health_check node_is_quorum_critical
step port_listener '' health_check port_listener --port "$API_PORT"
step protocol_listener '' health_check protocol_listener --protocol amqp
refused no_port_listener '' health_check port_listener --port 1
step connections '' connections list
step channels '' channels list
step close_nobodys_connections '' connections close_of_user --username nobody --idempotently
step rebalance '' rebalance queues

step export '' definitions export --file "$all"
step export_vhost '' --vhost v2 definitions export_from_vhost --file "$one"
step delete_queue '' queues delete --name q1
step delete_exchange '' exchanges delete --name x1
refused delete_queue_again '' queues delete --name q1
step delete_queue_idempotently '' queues delete --name q1 --idempotently
step import '' definitions import --file "$all"
step imported_queue 'q1' queues list
step imported_binding 'a.#' bindings list
step delete_queue_of_vhost '' --vhost v2 --username u --password p queues delete --name q2
step import_into_vhost '' --vhost v2 definitions import_into_vhost --file "$one"
step imported_into_vhost 'q2' --vhost v2 queues list

step unbind '' exchanges unbind --source x1 --destination-type queue --destination q1 --routing-key 'a.#'
step declare_leftovers '' queues declare --name leftover-1 --type classic
step delete_many '' queues delete_multiple --name-pattern '^leftover-' --approve
step delete_permissions '' --vhost v2 permissions delete --username u
step delete_operator_policy '' operator_policies delete --name op
step delete_global_parameter '' global_parameters delete --name cluster_tags
step delete_users '' users delete --name u512
step delete_vhost '' vhosts delete --name v2
echo "1..$count"
