"""kombu's own words for what its queues know of time and priority."""

import time

import kombu
import pytest
from amqp.exceptions import NotFound, PreconditionFailed

from machine import on_time


@pytest.fixture
def connection(url):
    with kombu.Connection(url) as connection:
        yield connection


@pytest.fixture
def channel(connection):
    return connection.channel()


def publish(channel, queue, body, **properties):
    producer = kombu.Producer(channel)
    producer.publish(body, routing_key=queue.name, declare=[queue], **properties)


def get(queue, seconds=30):
    """The next message; asked for until it is there."""
    deadline = time.monotonic() + seconds
    while not (message := queue.get(no_ack=True)):
        assert time.monotonic() < deadline, "no message"
        time.sleep(0.02)
    return message


def declared(channel, name, **options):
    return kombu.Queue(name, channel=channel, durable=False, exclusive=True, **options)


@on_time
def test_seconds_of_a_queue(channel, name):
    dead = declared(channel, name())
    dead.declare()
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead.name}
    brief = declared(channel, name(), message_ttl=0.5, queue_arguments=arguments)
    start = time.monotonic()
    publish(channel, brief, {"number": 1})
    message = get(dead)
    assert time.monotonic() - start == pytest.approx(0.5, abs=0.3)
    assert message.payload == {"number": 1}
    (death,) = message.headers["x-death"]
    assert (death["queue"], death["reason"], death["count"]) == (brief.name, "expired", 1)


@on_time
def test_seconds_of_a_message(channel, name):
    queue = declared(channel, name())
    publish(channel, queue, "brief", expiration=0.2)
    publish(channel, queue, "lasts", expiration=60)
    time.sleep(0.4)
    assert get(queue).payload == "lasts"
    assert queue.get() is None


@on_time
def test_a_queue_expires(channel, name):
    queue = kombu.Queue(name(), channel=channel, durable=True, expires=0.5)
    queue.declare()
    time.sleep(1.2)
    with pytest.raises(NotFound):
        kombu.Queue(queue.name, channel=channel).queue_declare(passive=True)


def test_max_priority(channel, name):
    queue = declared(channel, name(), max_priority=10)
    for priority in (0, 3, 10, 3, 7):
        publish(channel, queue, priority, priority=priority)
    assert [get(queue).payload for _ in range(5)] == [10, 7, 3, 3, 0]


def test_max_length(channel, name):
    queue = declared(channel, name(), max_length=2)
    for number in range(4):
        publish(channel, queue, number)
    assert [get(queue).payload for _ in range(2)] == [2, 3]
    assert queue.get() is None


def test_another_time_at_redeclaration(channel, name):
    queue = declared(channel, name(), message_ttl=1)
    queue.declare()
    with pytest.raises(PreconditionFailed, match="inequivalent arg 'x-message-ttl'"):
        declared(channel, queue.name, message_ttl=2).declare()
