"""Everyday flows with aio-pika: tutorials, prefetch, order, confirms, refusals."""

import asyncio
import hashlib
import os

import aio_pika
import pytest
from aio_pika.exceptions import (
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    DeliveryError,
    PublishError,
)


@pytest.fixture
async def connection(url):
    async with await aio_pika.connect(url) as connection:
        yield connection


@pytest.fixture
async def channel(connection):
    return await connection.channel(publisher_confirms=False)


@pytest.fixture
async def queue(channel):
    return await channel.declare_queue(exclusive=True)


async def fill(channel, queue, count):
    for number in range(count):
        message = aio_pika.Message(b"%d" % number)
        await channel.default_exchange.publish(message, queue.name)
    await channel.declare_queue(queue.name, passive=True)


async def drain(queue):
    """Everything ready; what was delivered before has a star."""
    found = []
    while message := await queue.get(no_ack=True, fail=False):
        found.append(message.body.decode() + "*" * bool(message.redelivered))
    return " ".join(found)


class Inbox(list):
    async def wait(self, count):
        async with asyncio.timeout(60):
            while len(self) < count:
                await asyncio.sleep(0.01)

    async def stays(self, count):
        await asyncio.sleep(0.3)
        assert len(self) == count

    @property
    def bodies(self):
        return " ".join(message.body.decode() for message in self)


async def consume(queue, **options):
    inbox = Inbox()

    async def deliver(message):
        inbox.append(message)

    inbox.tag = await queue.consume(deliver, **options)
    return inbox


async def test_hello_world(channel, queue):
    await channel.default_exchange.publish(aio_pika.Message(b"Hello World!"), queue.name)
    async with queue.iterator() as messages:
        async for message in messages:
            async with message.process():
                assert message.body == b"Hello World!"
            break


async def test_work_queues(url, channel, name):
    queue = await channel.declare_queue(name("task"), durable=True)
    for number in range(6):
        mode = aio_pika.DeliveryMode.PERSISTENT
        message = aio_pika.Message(b"%d" % number, delivery_mode=mode)
        await channel.default_exchange.publish(message, queue.name)
    done = []
    connections = [await aio_pika.connect(url) for _ in range(2)]
    for connection in connections:
        worker = await connection.channel()
        await worker.set_qos(prefetch_count=1)

        async def work(message):
            async with message.process():
                done.append(message.body)

        await (await worker.get_queue(queue.name)).consume(work)
    async with asyncio.timeout(60):
        while len(done) < 6:
            await asyncio.sleep(0.01)
    assert sorted(done) == [b"%d" % number for number in range(6)]
    for connection in connections:
        await connection.close()
    # The client waits for no close-ok: the workers' consumers may be there still.
    await queue.delete(if_unused=False)


@pytest.mark.parametrize(
    "kind, pattern, keys, expected",
    [
        ("fanout", "", ["a", "b"], "a b"),
        ("direct", "error", ["info", "error", "debug"], "error"),
        ("topic", "kern.#", ["kern.critical", "kern", "app.critical"], "kern.critical kern"),
    ],
)
async def test_exchanges(channel, queue, name, kind, pattern, keys, expected):
    exchange = await channel.declare_exchange(name(kind), kind, auto_delete=True)
    await queue.bind(exchange, pattern)
    for key in keys:
        await exchange.publish(aio_pika.Message(key.encode()), key)
    assert await drain(queue) == expected


async def test_headers_and_alternate_exchange(channel, queue, name):
    last = await channel.declare_exchange(name("last"), "fanout", auto_delete=True)
    exchange = await channel.declare_exchange(
        name("headers"), "headers", auto_delete=True, arguments={"alternate-exchange": last.name}
    )
    other = await channel.declare_queue(exclusive=True)
    await queue.bind(exchange, "", arguments={"x-match": "any", "a": 1, "b": 2})
    await other.bind(last)
    for headers in ({"a": 1}, {"a": 2}):
        message = aio_pika.Message(str(headers["a"]).encode(), headers=headers)
        await exchange.publish(message, "")
    assert (await drain(queue), await drain(other)) == ("1", "2")


async def test_rpc_pattern(connection):
    from aio_pika.patterns import RPC

    channel = await connection.channel()
    rpc = await RPC.create(channel)

    async def multiply(*, x, y):
        return x * y

    await rpc.register("multiply", multiply, auto_delete=True)
    results = await asyncio.gather(*(rpc.proxy.multiply(x=n, y=2) for n in range(20)))
    assert results == [2 * number for number in range(20)]
    await rpc.close()


async def test_publisher_confirms(connection, queue):
    channel = await connection.channel()
    message = aio_pika.Message(b"x")
    sent = (channel.default_exchange.publish(message, queue.name) for _ in range(200))
    await asyncio.gather(*sent)
    declared = await channel.declare_queue(queue.name, passive=True)
    assert declared.declaration_result.message_count == 200


async def test_mandatory_return(connection):
    channel = await connection.channel(on_return_raises=True)
    with pytest.raises((PublishError, DeliveryError)):
        await channel.default_exchange.publish(aio_pika.Message(b"x"), "nobody", mandatory=True)


async def test_nack_on_overflow(connection):
    channel = await connection.channel()
    arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
    queue = await channel.declare_queue(exclusive=True, arguments=arguments)
    await channel.default_exchange.publish(aio_pika.Message(b"1"), queue.name)
    with pytest.raises(DeliveryError):
        await channel.default_exchange.publish(aio_pika.Message(b"2"), queue.name)
    assert await drain(queue) == "1"


@pytest.mark.parametrize("size", [0, 1, 131064, 131065, 5_000_000])
async def test_bodies(channel, queue, size):
    body = os.urandom(size)
    await channel.default_exchange.publish(aio_pika.Message(body), queue.name)
    received = (await queue.get(no_ack=True)).body
    assert hashlib.sha256(received).digest() == hashlib.sha256(body).digest()


async def test_two_consumers_alternate(connection, channel, queue):
    other = await connection.channel()
    first = await consume(queue)
    second = await consume(await other.get_queue(queue.name))
    await fill(channel, queue, 10)
    await first.wait(5)
    await second.wait(5)
    assert (first.bodies, second.bodies) == ("0 2 4 6 8", "1 3 5 7 9")


async def test_prefetch_and_channel_wide_prefetch(connection, channel, queue):
    await channel.set_qos(prefetch_count=3)
    inbox = await consume(queue)
    await fill(channel, queue, 10)
    await inbox.wait(3)
    await inbox.stays(3)
    await inbox[2].ack(multiple=True)
    await inbox.wait(6)
    wide = await connection.channel(publisher_confirms=False)
    await wide.set_qos(prefetch_count=4, global_=True)
    queues = [await wide.declare_queue(exclusive=True) for _ in range(2)]
    inboxes = [await consume(each) for each in queues]
    for each in queues:
        await fill(wide, each, 5)
    await asyncio.sleep(0.3)
    assert sum(map(len, inboxes)) == 4


async def test_requeue_order(channel, queue):
    await fill(channel, queue, 5)
    taken = [await queue.get() for _ in range(3)]
    await taken[2].nack(multiple=True, requeue=True)
    assert await drain(queue) == "0* 1* 2* 3 4"


async def test_requeue_when_the_channel_closes(connection, channel, queue):
    await fill(channel, queue, 5)
    other = await connection.channel()
    theirs = await other.get_queue(queue.name)
    for _ in range(3):
        await theirs.get()
    await other.close()
    assert await drain(queue) == "0* 1* 2* 3 4"


async def test_refusals_close_the_channel_only(connection, name):
    channel = await connection.channel()
    with pytest.raises(ChannelNotFoundEntity, match="NOT_FOUND - no queue"):
        await channel.declare_queue(name(), passive=True)
    channel = await connection.channel()
    exchange = await channel.declare_exchange(name(), "direct", auto_delete=True)
    with pytest.raises(ChannelPreconditionFailed, match="inequivalent arg 'type'"):
        await channel.declare_exchange(exchange.name, "topic", auto_delete=True)
    channel = await connection.channel()
    await channel.declare_queue(exclusive=True)


async def is_blocked(connection):
    """Whether the client was told so: then aiormq's part of the connection is not ready."""
    try:
        async with asyncio.timeout(0.05):
            await connection.transport.connection.ready()
        return False
    except TimeoutError:
        return True


# On a busy machine RabbitMQ's tool takes ten seconds for each change of the alarm.
@pytest.mark.timeout(240)
async def test_blocked_and_unblocked(url, connection, channel, queue, alarm):
    async with await aio_pika.connect(url) as publishing:
        # Waiting for confirms, a publish would not return before the alarm is over.
        publisher = await publishing.channel(publisher_confirms=False)
        inbox = await consume(queue, no_ack=True)
        assert not await is_blocked(publishing)
        await asyncio.to_thread(alarm.up)
        await publisher.default_exchange.publish(aio_pika.Message(b"first"), queue.name)
        async with asyncio.timeout(60):
            while not await is_blocked(publishing):
                await asyncio.sleep(0.01)
        await publisher.default_exchange.publish(aio_pika.Message(b"second"), queue.name)
        # Consuming connections go on.
        await channel.declare_queue(exclusive=True)
        await asyncio.sleep(0.3)
        # RabbitMQ does not take the one either that it tells of the alarm.
        assert inbox.bodies in ("", "first")
        await asyncio.to_thread(alarm.down)
        async with asyncio.timeout(60):
            await publishing.transport.connection.ready()
        await inbox.wait(2)
        assert inbox.bodies == "first second"
