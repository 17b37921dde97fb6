#!/bin/sh
# RabbitMQ's Python rabbitmqadmin, unmodified, through everyday work. It writes TAP. RABBITMQADMIN names the script, API_PORT the port of the HTTP API.
. ./steps.sh

admin() {
    python3 "$RABBITMQADMIN" -H 127.0.0.1 -P "$API_PORT" "$@" 2>&1
}

step declare_queue 'queue declared' declare queue name=q1 durable=true 'arguments={"x-max-length":10}'
step declare_exchange 'exchange declared' declare exchange name=x1 type=topic
step declare_binding 'binding declared' declare binding source=x1 destination=q1 'routing_key=a.#'
step publish 'Message published' publish exchange=x1 routing_key=a.b payload=hello
step get 'hello' get queue=q1 ackmode=ack_requeue_true
step list_queues '| q1   | 1        |' list queues name messages
step list_exchanges 'x1' list exchanges
step list_bindings 'a.#' list bindings
step show_overview '4.2.0' show overview
step declare_policy 'policy declared' declare policy name=p 'pattern=^q' 'definition={"max-length":5}' apply-to=queues
step list_policies '{"max-length": 5}' list policies
step declare_user 'user declared' declare user name=u password=p tags=administrator
step list_users 'rabbit_password_hashing_sha256' list users
step declare_vhost 'vhost declared' declare vhost name=v2
step declare_permission 'permission declared' declare permission vhost=v2 user=u 'configure=.*' 'write=.*' 'read=.*'
step list_permissions 'v2' list permissions
step list_vhosts 'v2' list vhosts
step declare_operator_policy 'operator_policy declared' declare operator_policy name=op 'pattern=.*' 'definition={"max-length":50}'
step list_operator_policies 'op' list operator_policies
step declare_vhost_limit 'vhost_limit declared' declare vhost_limit vhost=/ name=max-queues value=100
step list_vhost_limits 'max-queues' list vhost_limits
step declare_parameter 'parameter declared' declare parameter component=shovel name=s 'value={"src-uri":"amqp://","src-queue":"a","dest-uri":"amqp://","dest-queue":"b"}'
step list_parameters 'shovel' list parameters
step export 'Exported definitions' export "$folder/definitions.json"
step purge 'queue purged' purge queue name=q1
step delete_queue 'queue deleted' delete queue name=q1
step delete_exchange 'exchange deleted' delete exchange name=x1
step import 'Uploaded definitions' import "$folder/definitions.json"
step imported '| q1' list queues name
step list_nodes 'rabbit@' list nodes name
step delete_binding 'binding deleted' delete binding source=x1 destination_type=queue destination=q1 properties_key=a.%23
step delete_user 'user deleted' delete user name=u
step delete_vhost 'vhost deleted' delete vhost name=v2
refused inequivalent "inequivalent arg 'durable'" declare queue name=q1 durable=false
echo "1..$count"
