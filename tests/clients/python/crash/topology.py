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
