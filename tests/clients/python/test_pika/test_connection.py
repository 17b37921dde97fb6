"""Negotiation, heartbeats, blocking, and coming back after a loss."""

import time

import pika
import pytest

from machine import on_time
from proxy import Proxy


def test_server_properties(connection):
    properties = connection._impl.server_properties
    capabilities = properties["capabilities"]
    for capability in (
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
        "direct_reply_to",
    ):
        assert capabilities[capability] is True, capability
    for text in ("product", "version", "platform", "cluster_name"):
        assert properties[text], text


def test_defaults_of_tune(connection):
    parameters = connection._impl.params
    assert (parameters.channel_max, parameters.frame_max) == (2047, 131072)


@pytest.mark.parametrize("frame_max", [4096, 8192, 131072])
def test_frame_max(connect, name, frame_max):
    connection = connect(frame_max=frame_max)
    assert connection._impl.params.frame_max == frame_max
    channel = connection.channel()
    queue = channel.queue_declare(name(), exclusive=True).method.queue
    channel.basic_publish("", queue, b"x" * 10_000)
    assert len(channel.basic_get(queue, auto_ack=True)[2]) == 10_000


def test_every_channel_up_to_channel_max(connect):
    connection = connect(channel_max=16)
    channels = [connection.channel() for _ in range(16)]
    assert [channel.channel_number for channel in channels] == list(range(1, 17))
    channels[3].close()
    assert connection.channel().channel_number == 4


@on_time
def test_heartbeats_keep_an_idle_connection(connect):
    connection = connect(heartbeat=1)
    channel = connection.channel()
    end = time.monotonic() + 4
    while time.monotonic() < end:
        connection.process_data_events(0.1)
    assert channel.queue_declare("", exclusive=True).method.message_count == 0


def test_a_silent_client_is_dropped(connect):
    connection = connect(heartbeat=1)
    # Pika sends heartbeats only while it runs its loop.
    time.sleep(4)
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        connection.channel()


def test_without_heartbeats(connect):
    connection = connect(heartbeat=0)
    time.sleep(1.5)
    assert connection.channel().is_open


def test_a_lost_connection_is_noticed_and_replaced(url, name):
    proxy = Proxy(url)
    parameters = pika.URLParameters(proxy.url)
    queue = name()
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    channel.queue_declare(queue)
    channel.basic_publish("", queue, b"kept")
    channel.queue_declare(queue, passive=True)
    proxy.cut()
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        channel.basic_get(queue)
    again = pika.BlockingConnection(parameters)
    channel = again.channel()
    assert channel.basic_get(queue, auto_ack=True)[2] == b"kept"
    channel.queue_delete(queue)
    again.close()
    proxy.close()


def test_fifty_connections(connect):
    channels = [connect().channel() for _ in range(50)]
    for channel in channels:
        channel.basic_publish("", "nowhere", b"x")
        assert channel.is_open


def test_blocked_and_unblocked(connect, alarm):
    publisher, consumer = connect(), connect()
    queue = consumer.channel().queue_declare("", exclusive=True).method.queue
    events = []
    publisher.add_on_connection_blocked_callback(lambda _, frame: events.append("blocked"))
    publisher.add_on_connection_unblocked_callback(lambda _, frame: events.append("unblocked"))
    channel = publisher.channel()
    alarm.up()
    channel.basic_publish("", queue, b"x")
    publisher.process_data_events(2)
    assert events == ["blocked"]
    # Consuming connections go on.
    assert consumer.channel().queue_declare("", exclusive=True)
    alarm.down()
    publisher.process_data_events(2)
    assert events == ["blocked", "unblocked"]
