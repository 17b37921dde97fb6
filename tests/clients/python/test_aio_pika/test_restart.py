"""Robust connections over a crash of the broker."""

import asyncio

import aio_pika


def message(number):
    return aio_pika.Message(b"%d" % number, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)


async def robust(broker):
    return await aio_pika.connect_robust(broker.url, reconnect_interval=0.05)


async def restart(broker):
    """The broker ends and starts beside the loop, which has to see it go."""
    await asyncio.to_thread(broker.restart)


async def test_a_robust_consumer_goes_on_after_a_crash(own_broker):
    async with await robust(own_broker) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("work", durable=True)
        seen = []

        async def work(delivery):
            async with delivery.process():
                seen.append(delivery.body)

        await queue.consume(work)
        for number in range(20):
            if number % 5 == 4:
                await restart(own_broker)
            async with await aio_pika.connect(own_broker.url) as other:
                publishing = await other.channel()
                await publishing.default_exchange.publish(message(number), "work")
        async with asyncio.timeout(60):
            while set(seen) != {b"%d" % number for number in range(20)}:
                await asyncio.sleep(0.02)


async def test_a_robust_publisher_goes_on_after_a_crash(own_broker):
    async with await robust(own_broker) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("work", durable=True)
        await channel.default_exchange.publish(message(0), "work")
        await restart(own_broker)
        async with asyncio.timeout(60):
            while True:
                try:
                    await channel.default_exchange.publish(message(1), "work")
                    break
                except Exception:  # not connected again yet
                    await asyncio.sleep(0.05)
        found = [(await queue.get(no_ack=True)).body for _ in range(2)]
        assert found == [b"0", b"1"]
