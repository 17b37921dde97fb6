"""Bodies and properties arrive as they were sent, whatever the frames between."""

import datetime
import hashlib
import random
from decimal import Decimal

import pika
import pytest

FRAME = 131072 - 8
SIZES = [0, 1, 255, 4088, 4089, FRAME - 1, FRAME, FRAME + 1, 2 * FRAME, 1_000_003, 20_000_000]


def body_of(size):
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize("size", SIZES)
def test_body_of_size(channel, queue, consume, size):
    body = body_of(size)
    channel.basic_publish("", queue, body)
    received = consume(queue, auto_ack=True).wait(1, 20).bodies[0]
    assert len(received) == size
    assert hashlib.sha256(received).digest() == hashlib.sha256(body).digest()


def test_smallest_frames(connect, name):
    connection = connect(frame_max=4096)
    channel = connection.channel()
    queue = name()
    channel.queue_declare(queue, exclusive=True)
    for size in (0, 1, 4088, 4089, 100_000):
        body = body_of(size)
        channel.basic_publish("", queue, body)
        assert channel.basic_get(queue, auto_ack=True)[2] == body


def test_bodies_of_two_channels_do_not_mix(connection, name):
    channels = [connection.channel() for _ in range(2)]
    queues = []
    for index, channel in enumerate(channels):
        queues.append(name())
        channel.queue_declare(queues[-1], exclusive=True)
        for size in (500_000, 3, 200_000):
            channel.basic_publish("", queues[-1], bytes([index + 65]) * size)
    for index, channel in enumerate(channels):
        for size in (500_000, 3, 200_000):
            assert channel.basic_get(queues[index], auto_ack=True)[2] == bytes([index + 65]) * size


def test_every_property_and_header_type(channel, queue):
    stamp = int(datetime.datetime(2024, 5, 6, 7, 8, 9, tzinfo=datetime.timezone.utc).timestamp())
    headers = {
        "text": "grüße",
        "int": -5,
        "long": 2**40,
        "true": True,
        "false": False,
        "none": None,
        "decimal": Decimal("3.14"),
        "list": [1, "two", [3], {"four": 4}],
        "table": {"a": {"b": {"c": 1}}},
        "time": datetime.datetime(2024, 5, 6, 7, 8, 9),
        "bytes": b"\x00\xff",
    }
    sent = pika.BasicProperties(
        content_type="text/plain",
        content_encoding="utf-8",
        headers=headers,
        delivery_mode=2,
        priority=7,
        correlation_id="c",
        reply_to="r",
        expiration="60000",
        message_id="m",
        timestamp=stamp,
        type="t",
        user_id="guest",
        app_id="a",
        cluster_id="k",
    )
    channel.basic_publish("", queue, b"x", sent)
    _, received, _ = channel.basic_get(queue, auto_ack=True)
    assert received == sent


def test_absent_properties_stay_absent(channel, queue):
    channel.basic_publish("", queue, b"x")
    _, received, _ = channel.basic_get(queue, auto_ack=True)
    assert received == pika.BasicProperties()


def test_many_small_messages_keep_their_order(channel, queue, consume):
    for number in range(5000):
        channel.basic_publish("", queue, b"%d" % number)
    inbox = consume(queue, auto_ack=True).wait(5000, 30)
    assert inbox.bodies == [b"%d" % number for number in range(5000)]
    assert inbox.tags == list(range(1, 5001))
