"""RabbitMQ's seven tutorials, as pika's users write them."""

import uuid

import pika
import pytest


@pytest.mark.smoke
def test_1_hello_world(channel, consume, name):
    queue = name("hello")
    channel.queue_declare(queue=queue)
    channel.basic_publish(exchange="", routing_key=queue, body="Hello World!")
    inbox = consume(queue, auto_ack=True).wait(1)
    method, _, body = inbox[0]
    assert body == b"Hello World!"
    assert (method.exchange, method.routing_key, method.redelivered) == ("", queue, False)
    channel.queue_delete(queue)


@pytest.mark.smoke
def test_2_work_queues(connect, name):
    queue = name("task")
    producer = connect().channel()
    producer.queue_declare(queue=queue, durable=True)
    persistent = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent)
    for number in range(6):
        producer.basic_publish("", queue, f"task {number}", properties=persistent)
    done = []
    workers = [connect().channel() for _ in range(2)]
    for index, worker in enumerate(workers):
        worker.basic_qos(prefetch_count=1)

        def work(channel, method, properties, body, index=index):
            assert properties.delivery_mode == 2
            done.append((index, body))
            channel.basic_ack(delivery_tag=method.delivery_tag)

        worker.basic_consume(queue, work)
    for _ in range(100):
        for worker in workers:
            worker.connection.process_data_events(0.02)
        if len(done) == 6:
            break
    assert sorted(body for _, body in done) == [b"task %d" % n for n in range(6)]
    producer.queue_delete(queue)


def test_3_publish_subscribe(channel, consume, name):
    exchange = name("logs")
    channel.exchange_declare(exchange=exchange, exchange_type="fanout", auto_delete=True)
    inboxes = []
    for _ in range(2):
        queue = channel.queue_declare(queue="", exclusive=True).method.queue
        assert queue.startswith("amq.gen-")
        channel.queue_bind(exchange=exchange, queue=queue)
        inboxes.append(consume(queue, auto_ack=True))
    channel.basic_publish(exchange=exchange, routing_key="", body="info: Hello World!")
    for inbox in inboxes:
        assert inbox.wait(1).bodies == [b"info: Hello World!"]


def test_4_routing(channel, consume, name):
    exchange = name("direct_logs")
    channel.exchange_declare(exchange=exchange, exchange_type="direct", auto_delete=True)
    inboxes = {}
    for severities in (("error",), ("info", "warning", "error")):
        queue = channel.queue_declare(queue="", exclusive=True).method.queue
        for severity in severities:
            channel.queue_bind(exchange=exchange, queue=queue, routing_key=severity)
        inboxes[severities] = consume(queue, auto_ack=True)
    for severity in ("info", "error", "debug", "warning"):
        channel.basic_publish(exchange, severity, severity)
    assert inboxes[("error",)].wait(1).stays(1).bodies == [b"error"]
    rest = inboxes[("info", "warning", "error")]
    assert rest.wait(3).stays(3).bodies == [b"info", b"error", b"warning"]


def test_5_topics(channel, consume, name):
    exchange = name("topic_logs")
    channel.exchange_declare(exchange=exchange, exchange_type="topic", auto_delete=True)
    patterns = ["#", "kern.*", "*.critical", "kern.#", "nothing"]
    inboxes = {}
    for pattern in patterns:
        queue = channel.queue_declare(queue="", exclusive=True).method.queue
        channel.queue_bind(exchange=exchange, queue=queue, routing_key=pattern)
        inboxes[pattern] = consume(queue, auto_ack=True)
    for key in ("kern.critical", "kern", "app.critical", "kern.a.b", ""):
        channel.basic_publish(exchange, key, key)
    expected = {
        "#": [b"kern.critical", b"kern", b"app.critical", b"kern.a.b", b""],
        "kern.*": [b"kern.critical"],
        "*.critical": [b"kern.critical", b"app.critical"],
        "kern.#": [b"kern.critical", b"kern", b"kern.a.b"],
        "nothing": [],
    }
    for pattern, bodies in expected.items():
        assert inboxes[pattern].wait(len(bodies)).bodies == bodies, pattern


@pytest.mark.smoke
def test_6_rpc(connect, name):
    def fibonacci(n):
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

    requests = name("rpc")
    server = connect().channel()
    server.queue_declare(queue=requests, exclusive=True)

    def on_request(channel, method, properties, body):
        channel.basic_publish(
            exchange="",
            routing_key=properties.reply_to,
            properties=pika.BasicProperties(correlation_id=properties.correlation_id),
            body=str(fibonacci(int(body))),
        )
        channel.basic_ack(delivery_tag=method.delivery_tag)

    server.basic_qos(prefetch_count=1)
    server.basic_consume(queue=requests, on_message_callback=on_request)

    client = connect().channel()
    callback_queue = client.queue_declare(queue="", exclusive=True).method.queue
    replies = {}
    client.basic_consume(
        callback_queue,
        lambda ch, method, properties, body: replies.update({properties.correlation_id: body}),
        auto_ack=True,
    )
    asked = {}
    for number in (5, 10, 15):
        asked[str(uuid.uuid4())] = number
    for correlation, number in asked.items():
        properties = pika.BasicProperties(reply_to=callback_queue, correlation_id=correlation)
        client.basic_publish("", "%s" % requests, str(number), properties)
    for _ in range(200):
        server.connection.process_data_events(0.02)
        client.connection.process_data_events(0.02)
        if len(replies) == 3:
            break
    assert replies == {key: str(fibonacci(n)).encode() for key, n in asked.items()}


@pytest.mark.smoke
def test_7_publisher_confirms(channel, queue, ready):
    channel.confirm_delivery()
    for number in range(100):
        channel.basic_publish("", queue, f"{number}", mandatory=True)
    assert ready(queue) == 100
    with pytest.raises(pika.exceptions.UnroutableError):
        channel.basic_publish("", "no-such-queue-here", "x", mandatory=True)
