"""Queues: get, purge, delete, exclusive, auto-delete, names, cancel notification."""

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker


def test_get_counts_what_is_left(channel, queue, fill):
    fill(queue, range(3))
    for left in (2, 1, 0):
        method, _, body = channel.basic_get(queue, auto_ack=True)
        assert (method.message_count, body) == (left, b"%d" % (2 - left))
    assert channel.basic_get(queue) == (None, None, None)


def test_get_and_deliver_share_delivery_tags(channel, queue, name, fill, consume):
    other = name()
    channel.queue_declare(other, exclusive=True)
    fill(queue, [0])
    fill(other, [0, 1])
    assert channel.basic_get(queue)[0].delivery_tag == 1
    inbox = consume(other).wait(2)
    assert inbox.tags == [2, 3]


def test_declare_tells_ready_messages_and_consumers(channel, queue, fill, consume):
    fill(queue, range(4))
    channel.basic_get(queue)
    reply = channel.queue_declare(queue, passive=True).method
    assert (reply.queue, reply.message_count, reply.consumer_count) == (queue, 3, 0)
    consume(queue).wait(3)
    reply = channel.queue_declare(queue, passive=True).method
    assert (reply.message_count, reply.consumer_count) == (0, 1)


def test_purge_drops_ready_messages_only(channel, queue, fill):
    fill(queue, range(5))
    tag = channel.basic_get(queue)[0].delivery_tag
    assert channel.queue_purge(queue).method.message_count == 4
    channel.basic_nack(tag)
    assert channel.basic_get(queue)[2] == b"0"


def test_delete_tells_what_was_ready(channel, name, fill):
    queue = name()
    channel.queue_declare(queue)
    fill(queue, range(3))
    assert channel.queue_delete(queue).method.message_count == 3
    assert channel.queue_delete(queue).method.message_count == 0


def test_server_named_queues(channel, fill):
    names = {channel.queue_declare("", exclusive=True).method.queue for _ in range(5)}
    assert len(names) == 5
    assert all(name.startswith("amq.gen-") for name in names)


def test_the_last_declared_queue_has_no_name(channel):
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind("", "amq.direct", routing_key="key")
    channel.basic_publish("amq.direct", "key", b"x")
    channel.queue_declare(queue, passive=True)
    assert channel.basic_get("")[2] == b"x"


def test_exclusive_queue_is_locked_for_others(connect, channel, queue):
    other = connect().channel()
    with pytest.raises(ChannelClosedByBroker) as closed:
        other.queue_declare(queue, passive=True)
    assert closed.value.reply_code == 405
    assert closed.value.reply_text.startswith(
        f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{queue}' in vhost '/'"
    )


def test_exclusive_queue_ends_with_its_connection(connect, channel, name):
    queue = name()
    owner = connect()
    owner.channel().queue_declare(queue, exclusive=True)
    owner.close()
    # The name is free at once: the queue is gone before close-ok.
    assert channel.queue_declare(queue, exclusive=True).method.message_count == 0


def test_exclusive_queue_is_shared_by_channels(connection, queue):
    assert connection.channel().queue_declare(queue, exclusive=True).method.queue == queue


def test_auto_delete_waits_for_the_first_consumer(channel, name, consume):
    queue = name()
    channel.queue_declare(queue, auto_delete=True)
    channel.basic_get(queue)
    channel.queue_declare(queue, passive=True)
    first, second = consume(queue), consume(queue)
    channel.basic_cancel(first.tag)
    channel.queue_declare(queue, passive=True)
    channel.basic_cancel(second.tag)
    with pytest.raises(ChannelClosedByBroker) as closed:
        channel.queue_declare(queue, passive=True)
    assert closed.value.reply_code == 404


def test_auto_delete_when_the_consumers_channel_closes(connection, channel, name, consume):
    queue = name()
    channel.queue_declare(queue, auto_delete=True)
    other = connection.channel()
    consume(queue, on=other)
    other.close()
    with pytest.raises(ChannelClosedByBroker):
        channel.queue_declare(queue, passive=True)


def test_consumers_are_told_when_their_queue_goes(connection, channel, name, consume):
    queue = name()
    channel.queue_declare(queue)
    cancelled = []
    channel.add_on_cancel_callback(lambda frame: cancelled.append(frame.method.consumer_tag))
    inbox = consume(queue)
    connection.channel().queue_delete(queue)
    connection.process_data_events(0.3)
    assert cancelled == [inbox.tag]
    # The channel goes on.
    assert channel.queue_declare("", exclusive=True).method.message_count == 0


def test_exclusive_consumer(connection, channel, queue, consume):
    consume(queue, exclusive=True)
    other = connection.channel()
    with pytest.raises(ChannelClosedByBroker) as closed:
        other.basic_consume(queue, lambda *_: None)
    assert closed.value.reply_code == 403
    expected = f"ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use"
    assert closed.value.reply_text == expected


def test_delete_if_unused_and_if_empty(connection, channel, queue, fill, consume):
    fill(queue, [1])
    with pytest.raises(ChannelClosedByBroker) as closed:
        connection.channel().queue_delete(queue, if_empty=True)
    expected = f"PRECONDITION_FAILED - queue '{queue}' in vhost '/' not empty"
    assert closed.value.reply_text == expected
    consume(queue)
    with pytest.raises(ChannelClosedByBroker) as closed:
        connection.channel().queue_delete(queue, if_unused=True)
    assert closed.value.reply_text == f"PRECONDITION_FAILED - queue '{queue}' in vhost '/' in use"


def test_nothing_arrives_after_cancel(channel, queue, fill, consume):
    inbox = consume(queue, auto_ack=True)
    fill(queue, range(10))
    inbox.wait(10)
    channel.basic_cancel(inbox.tag)
    fill(queue, range(5))
    inbox.stays(10)
    assert channel.queue_declare(queue, passive=True).method.message_count == 5


def test_many_consumers_of_one_channel(channel, name, fill, consume):
    inboxes = {}
    for number in range(20):
        queue = name()
        channel.queue_declare(queue, exclusive=True)
        inboxes[number] = (queue, consume(queue, auto_ack=True))
    for number, (queue, _) in inboxes.items():
        fill(queue, [number])
    for number, (_, inbox) in inboxes.items():
        assert inbox.wait(1).bodies == [b"%d" % number]


def test_an_unknown_argument_is_taken(channel, name):
    channel.queue_declare(name(), exclusive=True, arguments={"x-of-our-own": "yes"})


def test_generator_of_messages(channel, queue, fill):
    fill(queue, range(3))
    bodies = []
    for method, _, body in channel.consume(queue, inactivity_timeout=5):
        bodies.append(body)
        channel.basic_ack(method.delivery_tag)
        if len(bodies) == 3:
            break
    assert channel.cancel() == 0
    assert bodies == [b"0", b"1", b"2"]
    assert isinstance(method, pika.spec.Basic.Deliver)
