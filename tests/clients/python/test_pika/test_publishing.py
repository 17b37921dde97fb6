"""Confirms, returns and refusals."""

import pika
import pytest
from pika.exceptions import NackError, UnroutableError


def test_mandatory_message_is_returned(channel):
    returned = []
    channel.add_on_return_callback(lambda ch, method, props, body: returned.append((method, body)))
    channel.basic_publish("amq.direct", "nobody", b"lost", mandatory=True)
    channel.connection.process_data_events(0.3)
    [(method, body)] = returned
    assert (method.reply_code, method.reply_text) == (312, "NO_ROUTE")
    assert (method.exchange, method.routing_key, body) == ("amq.direct", "nobody", b"lost")


def test_return_comes_before_the_ack(channel):
    events = []
    impl = channel._impl
    impl.add_on_return_callback(lambda ch, method, props, body: events.append("return"))
    impl.confirm_delivery(lambda frame: events.append(type(frame.method).__name__))
    channel.connection.process_data_events(0.2)
    impl.basic_publish("", "nobody-is-here", b"x", mandatory=True)
    channel.connection.process_data_events(0.3)
    assert events == ["return", "Ack"]


def test_unroutable_under_confirms_is_acknowledged(channel):
    channel.confirm_delivery()
    channel.basic_publish("", "nobody-is-here", b"x")
    with pytest.raises(UnroutableError):
        channel.basic_publish("", "nobody-is-here", b"x", mandatory=True)


def test_confirms_cover_every_publish_once(channel, queue):
    settled = []
    impl = channel._impl

    def on_confirm(frame):
        first = settled[-1] + 1 if settled else 1
        tag = frame.method.delivery_tag
        settled.extend(range(first, tag + 1) if frame.method.multiple else [tag])

    impl.confirm_delivery(on_confirm)
    channel.connection.process_data_events(0.2)
    for number in range(1000):
        impl.basic_publish("", queue, b"%d" % number)
    for _ in range(100):
        channel.connection.process_data_events(0.05)
        if len(settled) >= 1000:
            break
    assert settled == list(range(1, 1001))


def test_second_select_keeps_counting(channel, queue):
    channel.confirm_delivery()
    channel.basic_publish("", queue, b"x")
    channel._impl._send_method(pika.spec.Confirm.Select(False))
    channel.basic_publish("", queue, b"y")
    assert channel.basic_get(queue)[2] == b"x"


def declare_bounded(channel, queue, overflow, **limits):
    arguments = {"x-overflow": overflow, **limits}
    channel.queue_declare(queue, exclusive=True, arguments=arguments)


def test_reject_publish_nacks(channel, name, ready):
    queue = name()
    declare_bounded(channel, queue, "reject-publish", **{"x-max-length": 2})
    channel.confirm_delivery()
    channel.basic_publish("", queue, b"0")
    channel.basic_publish("", queue, b"1")
    for _ in range(3):
        with pytest.raises(NackError):
            channel.basic_publish("", queue, b"x")
    assert ready(queue) == 2
    channel.basic_get(queue, auto_ack=True)
    channel.basic_publish("", queue, b"2")
    assert [channel.basic_get(queue)[2] for _ in range(2)] == [b"1", b"2"]


def test_reject_publish_by_bytes(channel, name):
    queue = name()
    declare_bounded(channel, queue, "reject-publish", **{"x-max-length-bytes": 100})
    channel.confirm_delivery()
    channel.basic_publish("", queue, b"a" * 60)
    with pytest.raises(NackError):
        channel.basic_publish("", queue, b"b" * 60)


def test_reject_publish_without_confirms_drops_silently(channel, name, fill, ready):
    queue = name()
    declare_bounded(channel, queue, "reject-publish", **{"x-max-length": 2})
    fill(queue, range(5))
    assert ready(queue) == 2


def test_the_other_queues_keep_a_refused_message(channel, queue, name, ready):
    full, exchange = name("full"), name("x")
    declare_bounded(channel, full, "reject-publish", **{"x-max-length": 0})
    channel.exchange_declare(exchange, "fanout", auto_delete=True)
    channel.queue_bind(full, exchange)
    channel.queue_bind(queue, exchange)
    channel.confirm_delivery()
    with pytest.raises(NackError):
        channel.basic_publish(exchange, "", b"x")
    assert ready(queue) == 1


def test_drop_head_keeps_the_newest(channel, name, fill):
    queue = name()
    declare_bounded(channel, queue, "drop-head", **{"x-max-length": 3})
    fill(queue, range(10))
    assert [channel.basic_get(queue)[2] for _ in range(3)] == [b"7", b"8", b"9"]
    assert channel.basic_get(queue) == (None, None, None)


def test_drop_head_by_bytes(channel, name, fill):
    queue = name()
    channel.queue_declare(queue, exclusive=True, arguments={"x-max-length-bytes": 10})
    fill(queue, [b"aaaa", b"bbbb", b"cccc"])
    assert [channel.basic_get(queue)[2] for _ in range(2)] == [b"bbbb", b"cccc"]


def test_length_limit_counts_ready_messages_only(channel, name, fill, ready):
    queue = name()
    channel.queue_declare(queue, exclusive=True, arguments={"x-max-length": 2})
    fill(queue, range(2))
    channel.basic_get(queue)
    fill(queue, [2])
    assert ready(queue) == 2
    channel.basic_nack(0, multiple=True, requeue=True)
    assert ready(queue) in (2, 3)


def test_persistent_messages_are_confirmed(channel, name):
    queue = name()
    channel.queue_declare(queue, durable=True)
    channel.confirm_delivery()
    persistent = pika.BasicProperties(delivery_mode=2)
    for number in range(20):
        channel.basic_publish("", queue, b"%d" % number, persistent)
    assert channel.queue_delete(queue).method.message_count == 20
