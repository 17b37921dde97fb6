"""kombu over py-amqp: the ways in which Celery and its kin use a broker."""

import os
import socket
import time

import kombu
import pytest
from amqp.exceptions import MessageNacked, NotFound, PreconditionFailed, ResourceLocked
from kombu.pools import producers

from machine import TRIES, Watch, on_time
from proxy import Proxy


@pytest.fixture
def connection(url):
    with kombu.Connection(url) as connection:
        yield connection


@pytest.fixture
def channel(connection):
    return connection.channel()


def run(connection, seconds=0.3):
    """Runs the connection until nothing arrives for so long."""
    try:
        while True:
            connection.drain_events(timeout=seconds)
    except socket.timeout:
        pass


def drain(connection):
    """Runs the connection until nothing arrives any more, though the machine has time for it."""
    for _ in range(TRIES):
        watch = Watch()
        run(connection)
        watch.stop()
        if watch.disturbance() is None:
            return


def wait(connection, condition, seconds=30):
    """Runs the connection until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        try:
            connection.drain_events(timeout=0.1)
        except socket.timeout:
            pass


@pytest.mark.parametrize(
    "kind, pattern, keys, expected",
    [
        ("direct", "k", ["k", "other"], ["k"]),
        ("fanout", "", ["a", "b"], ["a", "b"]),
        ("topic", "*.error.#", ["a.error", "a.info", "b.error.x"], ["a.error", "b.error.x"]),
    ],
)
def test_exchanges(connection, channel, name, kind, pattern, keys, expected):
    exchange = kombu.Exchange(name(kind), kind, durable=False, auto_delete=True)
    queue = kombu.Queue(name(), exchange, pattern, exclusive=True)
    received = []

    def on_message(body, message):
        received.append(body["key"])
        message.ack()

    with kombu.Consumer(channel, [queue], callbacks=[on_message], accept=["json"]):
        producer = kombu.Producer(channel, exchange)
        for key in keys:
            producer.publish({"key": key}, routing_key=key)
        drain(connection)
    assert received == expected


def test_simple_queue(connection, name):
    simple = connection.SimpleQueue(name())
    simple.put({"number": 1})
    message = simple.get(timeout=5)
    assert message.payload == {"number": 1}
    message.ack()
    assert simple.qsize() == 0
    simple.close()
    simple.queue(connection.channel()).delete()


def test_priorities_headers_and_compression(connection, name):
    queue = kombu.Queue(name(), exclusive=True)(connection.channel())
    queue.declare()
    with producers[connection].acquire(block=True) as producer:
        producer.publish(
            ["x" * 1000],
            routing_key=queue.name,
            serializer="json",
            compression="zlib",
            headers={"id": "one", "retries": 2},
            priority=5,
            correlation_id="c",
        )
    # Another connection of the pool published; the queue is ours by name all the same.
    message = None
    for _ in range(50):
        message = queue.get()
        if message:
            break
    assert message.payload == ["x" * 1000]
    assert message.headers["id"] == "one" and message.headers["retries"] == 2
    assert message.properties["correlation_id"] == "c"


def test_confirms(url, name):
    with kombu.Connection(url, transport_options={"confirm_publish": True}) as connection:
        queue = kombu.Queue(name(), exclusive=True)(connection.channel())
        queue.declare()
        producer = kombu.Producer(connection.channel())
        for number in range(50):
            producer.publish(number, routing_key=queue.name, mandatory=True)
        assert queue.queue_declare(passive=True).message_count == 50


def test_prefetch_can_grow_and_requeue_keeps_order(connection, channel, name):
    queue = kombu.Queue(name(), exclusive=True)(channel)
    queue.declare()
    producer = kombu.Producer(channel)
    for number in range(6):
        producer.publish(number, routing_key=queue.name)
    taken = []
    consumer = kombu.Consumer(channel, [queue], on_message=taken.append)
    consumer.qos(prefetch_count=2)
    consumer.consume()
    drain(connection)
    assert [message.payload for message in taken] == [0, 1]
    for message in taken[:2]:
        message.requeue()
    drain(connection)
    assert [message.payload for message in taken[2:]] == [0, 1]
    assert all(message.delivery_info["redelivered"] for message in taken[2:])
    consumer.cancel()


def test_prefetch_of_a_running_consumer(connection, channel, name):
    """Celery raises the prefetch of a running consumer when a task has a countdown, and lowers it
    again when that is over."""
    queue = kombu.Queue(name(), exclusive=True)(channel)
    queue.declare()
    producer = kombu.Producer(channel)
    taken = []
    consumer = kombu.Consumer(channel, [queue], on_message=taken.append)
    consumer.qos(prefetch_count=1)
    consumer.consume()
    for number in range(8):
        producer.publish(number, routing_key=queue.name)
    drain(connection)
    assert len(taken) == 1
    consumer.qos(prefetch_count=3, apply_global=False)
    wait(connection, lambda: len(taken) >= 3)
    drain(connection)
    assert len(taken) == 3
    consumer.qos(prefetch_count=1, apply_global=False)
    taken[0].ack()
    taken[1].ack()
    drain(connection)
    assert len(taken) == 3, "one is still out"
    taken[2].ack()
    wait(connection, lambda: len(taken) >= 4)
    drain(connection)
    assert [message.payload for message in taken] == [0, 1, 2, 3]
    consumer.cancel()


def test_channel_wide_prefetch_over_two_queues(connection, channel, name):
    queues = [kombu.Queue(name(), exclusive=True)(channel) for _ in range(2)]
    producer = kombu.Producer(channel)
    for queue in queues:
        queue.declare()
        for number in range(5):
            producer.publish(number, routing_key=queue.name)
    taken = []
    consumer = kombu.Consumer(channel, queues, on_message=taken.append)
    consumer.qos(prefetch_count=4, apply_global=True)
    consumer.consume()
    wait(connection, lambda: len(taken) >= 4)
    drain(connection)
    assert len(taken) == 4
    taken[-1].ack(multiple=True)
    wait(connection, lambda: len(taken) >= 8)
    drain(connection)
    assert len(taken) == 8
    consumer.cancel()


@pytest.mark.parametrize("size", [0, 1, 131064, 131065, 5_000_000])
def test_bodies(channel, name, size):
    """Of no frame, one, a full one, two, and many."""
    queue = kombu.Queue(name(), exclusive=True)(channel)
    queue.declare()
    body = os.urandom(size)
    kombu.Producer(channel).publish(
        body,
        routing_key=queue.name,
        content_type="application/octet-stream",
        content_encoding="binary",
    )
    assert queue.get(no_ack=True).body == (body or "")


def test_mandatory_return(connection, channel, name):
    returned = []
    producer = kombu.Producer(channel, on_return=lambda *what: returned.append(what))
    key = name("nobody")
    producer.publish("x", routing_key=key, mandatory=True)
    producer.publish("y", routing_key=key)
    wait(connection, lambda: returned)
    drain(connection)
    [(error, exchange, routing_key, message)] = returned
    assert (error.reply_code, str(exchange), routing_key) == (312, "", key)
    assert error.reply_text == "NO_ROUTE"
    assert message.body == "x"


def test_nack_on_overflow(url, name):
    limit = {"x-max-length": 1, "x-overflow": "reject-publish"}
    with kombu.Connection(url, transport_options={"confirm_publish": True}) as connection:
        channel = connection.channel()
        queue = kombu.Queue(name(), exclusive=True, queue_arguments=limit)(channel)
        queue.declare()
        producer = kombu.Producer(channel)
        producer.publish("1", routing_key=queue.name)
        with pytest.raises(MessageNacked):
            producer.publish("2", routing_key=queue.name)
        assert queue.get(no_ack=True).payload == "1"
        assert queue.get() is None
        producer.publish("3", routing_key=queue.name)
        assert queue.get(no_ack=True).payload == "3"


# On a busy machine RabbitMQ's tool takes ten seconds for each change of the alarm.
@pytest.mark.timeout(240)
def test_blocked_and_unblocked(url, connection, channel, name, alarm):
    queue = kombu.Queue(name(), exclusive=True)(channel)
    queue.declare()
    events = []
    told = {
        "on_blocked": lambda reason: events.append("blocked"),
        "on_unblocked": lambda: events.append("unblocked"),
    }
    # Exclusive to the other connection, the queue can be published to all the same.
    with kombu.Connection(url, transport_options=told) as publishing:
        producer = kombu.Producer(publishing.channel())
        taken = []
        alarm.up()
        producer.publish("first", routing_key=queue.name)
        wait(publishing, lambda: events)
        assert events == ["blocked"]
        producer.publish("second", routing_key=queue.name)
        # Consuming connections go on.
        with kombu.Consumer(channel, [queue], on_message=taken.append, no_ack=True):
            drain(connection)
            # RabbitMQ does not take the one either that it tells of the alarm.
            assert [message.payload for message in taken] in ([], ["first"])
            alarm.down()
            wait(publishing, lambda: len(events) > 1)
            assert events == ["blocked", "unblocked"]
            wait(connection, lambda: len(taken) == 2)
            assert [message.payload for message in taken] == ["first", "second"]


def test_refusals(url, connection, name):
    with pytest.raises(NotFound, match="no queue"):
        kombu.Queue(name())(connection.channel()).queue_declare(passive=True)
    queue = kombu.Queue(name(), exclusive=True)
    queue(connection.channel()).declare()
    different = kombu.Queue(queue.name, exclusive=True, queue_arguments={"x-message-ttl": 1})
    with pytest.raises(PreconditionFailed, match="inequivalent arg 'x-message-ttl'"):
        different(connection.channel()).declare()
    with kombu.Connection(url) as other, pytest.raises(ResourceLocked):
        kombu.Queue(queue.name)(other.channel()).queue_declare(passive=True)


@on_time
def test_heartbeats(url):
    with kombu.Connection(url, heartbeat=2) as connection:
        connection.ensure_connection()
        for _ in range(25):
            run(connection, 0.2)
            connection.heartbeat_check()
        assert connection.connected


def test_publishing_is_retried_after_a_cut(url, name):
    proxy = Proxy(url)
    with kombu.Connection(proxy.url) as connection:
        queue = kombu.Queue(name(), durable=False)
        producer = kombu.Producer(connection)
        send = {"routing_key": queue.name, "declare": [queue], "retry": True}
        producer.publish(1, **send)
        proxy.cut()
        policy = {"interval_start": 0.1, "max_retries": 20}
        producer.publish(2, retry_policy=policy, **send)
    with kombu.Connection(url) as connection:
        bound = queue(connection.channel())
        found = [message.payload for message in iter(bound.get, None)]
        bound.delete()
    assert 2 in found
    proxy.close()
