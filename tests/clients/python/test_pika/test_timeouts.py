"""Deliveries that are not acknowledged in time."""

import time

from machine import on_time


@on_time
def test_a_late_acknowledgement_does_no_harm(connection, channel, name, consume, ready):
    queue = name()
    channel.queue_declare(queue, arguments={"x-consumer-timeout": 400})
    try:
        channel.basic_qos(prefetch_count=1)
        inbox = consume(queue)
        channel.basic_publish("", queue, b"job")
        inbox.wait(2)
        (first, _, _), (second, _, body) = inbox
        assert body == b"job"
        assert not first.redelivered and second.redelivered
        channel.basic_ack(first.delivery_tag)
        time.sleep(0.05)
        channel.basic_ack(second.delivery_tag)
        # The channel lives, and the job is done once.
        inbox.stays(2, seconds=0.8)
        assert ready(queue) == 0
    finally:
        channel.queue_delete(queue)
