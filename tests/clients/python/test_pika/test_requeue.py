"""What comes back to a queue: where it stands, in which order, and marked as redelivered."""

import pika
import pytest

from proxy import Proxy


def take(channel, queue, count):
    """The delivery tags of `count` messages taken and not acknowledged."""
    return [channel.basic_get(queue)[0].delivery_tag for _ in range(count)]


def drain(channel, queue):
    """Everything ready as (body, redelivered)."""
    found = []
    while (reply := channel.basic_get(queue, auto_ack=True))[0]:
        found.append((reply[2], reply[0].redelivered))
    return found


@pytest.fixture
def shared(channel, name):
    """A queue that other connections may use."""
    queue = name()
    channel.queue_declare(queue)
    yield queue
    channel.queue_delete(queue)


ORDER = [(b"0", True), (b"1", True), (b"2", True), (b"3", False), (b"4", False)]


def test_nack_multiple_keeps_the_order(channel, queue, fill):
    fill(queue, range(5))
    tags = take(channel, queue, 3)
    channel.basic_nack(tags[-1], multiple=True, requeue=True)
    assert drain(channel, queue) == ORDER


def test_nack_of_everything(channel, queue, fill):
    fill(queue, range(5))
    take(channel, queue, 3)
    channel.basic_nack(0, multiple=True, requeue=True)
    assert drain(channel, queue) == ORDER


def test_reject_goes_back_to_its_place(channel, queue, fill):
    fill(queue, range(5))
    tags = take(channel, queue, 3)
    for index in (1, 0, 2):
        channel.basic_reject(tags[index], requeue=True)
    assert drain(channel, queue) == ORDER


def test_reject_of_one_in_the_middle(channel, queue, fill):
    fill(queue, range(5))
    tags = take(channel, queue, 3)
    channel.basic_reject(tags[1], requeue=True)
    assert drain(channel, queue) == [(b"1", True), (b"3", False), (b"4", False)]


def test_reject_without_requeue_drops(channel, queue, fill):
    fill(queue, range(2))
    tags = take(channel, queue, 1)
    channel.basic_reject(tags[0], requeue=False)
    assert drain(channel, queue) == [(b"1", False)]


def test_closing_the_channel(connection, channel, queue, fill):
    fill(queue, range(5))
    other = connection.channel()
    take(other, queue, 3)
    other.close()
    assert drain(channel, queue) == ORDER


def test_closing_the_connection(connect, channel, shared, fill, ready, eventually):
    fill(shared, range(5))
    other = connect()
    take(other.channel(), shared, 3)
    other.close()
    eventually(lambda: ready(shared) == 5)
    assert drain(channel, shared) == ORDER


def test_losing_the_connection(url, channel, shared, fill, ready, eventually):
    fill(shared, range(5))
    proxy = Proxy(url)
    other = pika.BlockingConnection(pika.URLParameters(proxy.url))
    take(other.channel(), shared, 3)
    proxy.close()
    eventually(lambda: ready(shared) == 5)
    assert drain(channel, shared) == ORDER


def test_recover(channel, queue, fill):
    fill(queue, range(5))
    take(channel, queue, 3)
    channel.basic_recover(requeue=True)
    assert drain(channel, queue) == ORDER


def test_consumers_get_what_came_back_first(connection, channel, queue, fill, consume):
    channel.basic_qos(prefetch_count=2)
    fill(queue, range(6))
    inbox = consume(queue).wait(2)
    channel.basic_nack(inbox.tags[1], multiple=True, requeue=True)
    inbox.wait(4)
    assert inbox.bodies == [b"0", b"1", b"0", b"1"]
    assert [method.redelivered for method, _, _ in inbox] == [False, False, True, True]


def test_cancel_keeps_deliveries_with_the_channel(channel, queue, fill, consume, ready):
    channel.basic_qos(prefetch_count=3)
    fill(queue, range(3))
    inbox = consume(queue).wait(3)
    channel.basic_cancel(inbox.tag)
    assert ready(queue) == 0
    channel.basic_ack(inbox.tags[-1], multiple=True)
    channel.queue_declare(queue, passive=True)
    assert ready(queue) == 0
