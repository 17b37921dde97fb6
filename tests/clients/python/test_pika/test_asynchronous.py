"""The same flows through pika's callback adapters: SelectConnection and AsyncioConnection."""

import asyncio

import pika
import pytest
from pika.adapters.asyncio_connection import AsyncioConnection


class Flow:
    """Opens a channel with confirms, sends `count` messages, receives them, closes."""

    def __init__(self, queue, count):
        self.queue, self.count = queue, count
        self.received, self.confirmed, self.errors = [], 0, []
        self.closed_with = None

    def on_open(self, connection):
        self.connection = connection
        connection.channel(on_open_callback=self.on_channel)

    def on_channel(self, channel):
        self.channel = channel
        channel.add_on_close_callback(lambda _, reason: self.errors.append(reason))
        channel.queue_declare(self.queue, exclusive=True, callback=self.on_declared)

    def on_declared(self, frame):
        assert frame.method.queue == self.queue
        self.channel.confirm_delivery(self.on_confirm, callback=self.on_confirming)

    def on_confirming(self, frame):
        self.channel.basic_qos(prefetch_count=10, callback=self.on_qos)

    def on_qos(self, frame):
        self.channel.basic_consume(self.queue, self.on_delivery)
        for number in range(self.count):
            self.channel.basic_publish("", self.queue, b"%d" % number)

    def on_confirm(self, frame):
        assert isinstance(frame.method, pika.spec.Basic.Ack)
        self.confirmed = frame.method.delivery_tag
        self.finish()

    def on_delivery(self, channel, method, properties, body):
        self.received.append(body)
        channel.basic_ack(method.delivery_tag)
        self.finish()

    def finish(self):
        if len(self.received) == self.count and self.confirmed == self.count:
            self.connection.close()

    def check(self):
        assert self.received == [b"%d" % number for number in range(self.count)]
        assert self.confirmed == self.count
        assert [type(error).__name__ for error in self.errors] == ["ChannelClosedByClient"]


class Failure(Flow):
    """Declares a missing queue passively; the broker closes the channel, not the connection."""

    def on_channel(self, channel):
        channel.add_on_close_callback(self.on_close)
        channel.queue_declare(self.queue, passive=True)

    def on_close(self, channel, reason):
        self.errors.append(reason)
        self.connection.channel(on_open_callback=lambda channel: self.connection.close())

    def check(self):
        [error] = self.errors
        text = f"NOT_FOUND - no queue '{self.queue}' in vhost '/'"
        assert (error.reply_code, error.reply_text) == (404, text)


FLOWS = [(Flow, 500), (Failure, 0)]


def end_with(flow, reason):
    flow.closed_with = reason


@pytest.mark.parametrize("kind, count", FLOWS)
def test_select_connection(url, name, kind, count):
    flow = kind(name(), count)

    def on_close(connection, reason):
        end_with(flow, reason)
        connection.ioloop.stop()

    connection = pika.SelectConnection(
        pika.URLParameters(url), on_open_callback=flow.on_open, on_close_callback=on_close
    )
    connection.ioloop.start()
    assert flow.closed_with.reply_code == 200
    flow.check()


@pytest.mark.parametrize("kind, count", FLOWS)
async def test_asyncio_connection(url, name, kind, count):
    flow = kind(name(), count)
    closed = asyncio.get_running_loop().create_future()
    AsyncioConnection(
        pika.URLParameters(url),
        on_open_callback=flow.on_open,
        on_close_callback=lambda _, reason: closed.set_result(reason),
    )
    reason = await asyncio.wait_for(closed, 20)
    assert reason.reply_code == 200
    flow.check()


async def test_asyncio_consumers_share_the_work(url, name):
    """Two connections on one loop take turns."""
    queue = name()
    taken = {0: [], 1: []}
    everything = asyncio.get_running_loop().create_future()
    consuming = []

    def start(index):
        def on_delivery(channel, method, properties, body):
            taken[index].append(body)
            channel.basic_ack(method.delivery_tag)
            if sum(map(len, taken.values())) == 20:
                everything.set_result(None)

        def on_consume(channel):
            consuming.append(channel)
            if len(consuming) == 2:
                for number in range(20):
                    channel.basic_publish("", queue, b"%02d" % number)

        def on_channel(channel):
            channel.queue_declare(
                queue,
                auto_delete=True,
                callback=lambda _: channel.basic_consume(
                    queue, on_delivery, callback=lambda _: on_consume(channel)
                ),
            )

        return AsyncioConnection(
            pika.URLParameters(url),
            on_open_callback=lambda connection: connection.channel(on_open_callback=on_channel),
        )

    connections = [start(index) for index in range(2)]
    await asyncio.wait_for(everything, 20)
    for connection in connections:
        connection.close()
    assert {len(bodies) for bodies in taken.values()} == {10}
    assert all(bodies == sorted(bodies) for bodies in taken.values())
