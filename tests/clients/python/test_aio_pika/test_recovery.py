"""aio-pika's robust connection: after a cut it declares, binds and consumes again by itself."""

import asyncio

import aio_pika

from proxy import Proxy


async def eventually(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.02)


async def test_consumers_go_on_after_a_cut(url, name):
    proxy = Proxy(url)
    received = []
    connection = await aio_pika.connect_robust(proxy.url, reconnect_interval=0.2)
    channel = await connection.channel()
    exchange = await channel.declare_exchange(name("x"), "direct", auto_delete=True)
    queue = await channel.declare_queue(name(), exclusive=True)
    await queue.bind(exchange, "k")

    async def deliver(message):
        async with message.process():
            received.append(message.body)

    await queue.consume(deliver)
    await exchange.publish(aio_pika.Message(b"before"), "k")
    await eventually(lambda: received == [b"before"])
    reconnected = asyncio.Event()
    connection.reconnect_callbacks.add(lambda *_: reconnected.set())
    proxy.cut()
    async with asyncio.timeout(60):
        await reconnected.wait()
        while True:
            try:
                await exchange.publish(aio_pika.Message(b"after"), "k")
                break
            except Exception:
                await asyncio.sleep(0.1)
    await eventually(lambda: received[-1] == b"after")
    await connection.close()
    proxy.close()
