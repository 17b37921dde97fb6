"""Declares, once, what the clients of the crash test use and never declare again: URL."""

import sys

import pika

with pika.BlockingConnection(pika.URLParameters(sys.argv[1])) as connection:
    channel = connection.channel()
    for exchange, kind in [("crash.fan", "fanout"), ("crash.direct", "direct"),
                           ("crash.entry", "direct"), ("crash.topic", "topic")]:
        channel.exchange_declare(exchange, kind, durable=True)
    for queue in ["crash-fan-0", "crash-fan-1", "crash-fan-2", "crash-a", "crash-b", "crash-t"]:
        channel.queue_declare(queue, durable=True)
    for number in range(3):
        channel.queue_bind(f"crash-fan-{number}", "crash.fan")
    channel.queue_bind("crash-a", "crash.direct", "a")
    channel.exchange_bind("crash.topic", "crash.entry", "x.t")
    channel.queue_bind("crash-t", "crash.topic", "*.t")
    channel.exchange_declare("crash.dead", "fanout", durable=True)
    for queue in ["dead-keep", "dead-out"]:
        channel.queue_declare(queue, durable=True)
        channel.queue_bind(queue, "crash.dead")
    for queue, arguments in [("dead-rejected", {}), ("dead-expired", {"x-message-ttl": 300}),
                             ("dead-full", {"x-max-length": 5, "x-max-priority": 3}),
                             ("dead-tired", {"x-delivery-limit": 2})]:
        arguments["x-dead-letter-exchange"] = "crash.dead"
        channel.queue_declare(queue, durable=True, arguments=arguments)
