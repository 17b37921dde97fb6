"""Direct reply-to: replies without a queue of one's own."""

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker

REPLY_TO = "amq.rabbitmq.reply-to"


class Caller:
    """A channel that asks, and what it was told."""

    def __init__(self, channel):
        self.channel, self.replies = channel, []
        self.tag = channel.basic_consume(
            REPLY_TO,
            lambda ch, method, properties, body: self.replies.append((properties, body)),
            auto_ack=True,
        )

    def ask(self, queue, body, **properties):
        properties = pika.BasicProperties(reply_to=REPLY_TO, **properties)
        self.channel.basic_publish("", queue, body, properties, mandatory=True)

    def wait(self, count):
        for _ in range(200):
            self.channel.connection.process_data_events(0.05)
            if len(self.replies) >= count:
                break
        return [body for _, body in self.replies]


@pytest.fixture
def requests(connect, name):
    """A server's channel and the queue of its requests."""
    server = connect().channel()
    return server, server.queue_declare(name(), exclusive=True).method.queue


def reply_name(server, queue):
    for _ in range(200):
        method, properties, _ = server.basic_get(queue, auto_ack=True)
        if method:
            return properties.reply_to
    raise AssertionError("no request came")


@pytest.mark.smoke
def test_replies_come_back(connect, requests):
    server, queue = requests
    caller = Caller(connect().channel())
    for number in range(3):
        caller.ask(queue, b"ask", correlation_id=f"{number}", headers={"a": 1})
    for number in range(3):
        method, properties, body = next(server.consume(queue))
        assert properties.reply_to.startswith(REPLY_TO + ".")
        assert (properties.headers, body) == ({"a": 1}, b"ask")
        answer = pika.BasicProperties(correlation_id=properties.correlation_id)
        server.basic_publish("", properties.reply_to, f"{number}", answer)
        server.basic_ack(method.delivery_tag)
    server.cancel()
    assert caller.wait(3) == [b"0", b"1", b"2"]
    assert [properties.correlation_id for properties, _ in caller.replies] == ["0", "1", "2"]


def test_a_reply_of_many_frames(connect, requests):
    server, queue = requests
    caller = Caller(connect().channel())
    caller.ask(queue, b"x" * 300_000)
    server.basic_publish("", reply_name(server, queue), b"y" * 300_000)
    assert caller.wait(1) == [b"y" * 300_000]


@pytest.mark.parametrize("end", ["cancel", "channel", "connection"])
def test_the_name_lives_as_long_as_its_consumer(connect, requests, end):
    server, queue = requests
    caller = Caller(connect().channel())
    caller.ask(queue, b"ask")
    name = reply_name(server, queue)
    assert server.queue_declare(name, passive=True).method.queue == name
    if end == "cancel":
        caller.channel.basic_cancel(caller.tag)
    else:
        (caller.channel if end == "channel" else caller.channel.connection).close()
    with pytest.raises(ChannelClosedByBroker) as refused:
        for _ in range(100):
            server.queue_declare(name, passive=True)
    assert refused.value.reply_code == 404
    assert refused.value.reply_text == f"NOT_FOUND - no queue '{name}' in vhost '/'"
    other = connect().channel()
    other.basic_publish("", name, b"too late")
    assert other.queue_declare("", exclusive=True).method.message_count == 0


def test_a_reply_to_nobody_is_returned(connect, requests):
    server, queue = requests
    caller = Caller(connect().channel())
    caller.ask(queue, b"ask")
    name = reply_name(server, queue)
    caller.channel.connection.close()
    other = connect().channel()
    other.confirm_delivery()
    with pytest.raises(pika.exceptions.UnroutableError):
        for _ in range(100):
            other.basic_publish("", name, b"too late", mandatory=True)


def test_declaring_the_name_makes_nothing(channel):
    for passive in (True, False):
        declared = channel.queue_declare(REPLY_TO, passive=passive).method
        assert (declared.queue, declared.message_count) == (REPLY_TO, 0)


def consume(channel, **arguments):
    return channel.basic_consume(REPLY_TO, lambda *_: None, **arguments)


def twice(channel):
    consume(channel, auto_ack=True)
    consume(channel, auto_ack=True)


def ask_without_consumer(channel):
    properties = pika.BasicProperties(reply_to=REPLY_TO)
    channel.basic_publish("", "anywhere", b"x", properties)
    channel.queue_declare("", exclusive=True)


REFUSALS = {
    "acknowledging": (
        lambda channel: consume(channel, auto_ack=False),
        "reply consumer cannot acknowledge",
    ),
    "twice": (twice, "reply consumer already set"),
    "without consumer": (ask_without_consumer, "fast reply consumer does not exist"),
}


@pytest.mark.parametrize("refused", REFUSALS)
def test_refusals(channel, refused):
    act, text = REFUSALS[refused]
    with pytest.raises(ChannelClosedByBroker) as error:
        act(channel)
    assert error.value.args == (406, f"PRECONDITION_FAILED - {text}")


@pytest.mark.parametrize("method", ["consume", "get", "bind", "purge"])
def test_no_other_method_finds_the_name(connect, requests, method):
    server, queue = requests
    caller = Caller(connect().channel())
    caller.ask(queue, b"ask")
    name = reply_name(server, queue)
    act = {
        "consume": lambda: server.basic_consume(name, lambda *_: None),
        "get": lambda: server.basic_get(name),
        "bind": lambda: server.queue_bind(name, "amq.fanout"),
        "purge": lambda: server.queue_purge(name),
    }[method]
    with pytest.raises(ChannelClosedByBroker) as error:
        act()
    assert error.value.args == (404, f"NOT_FOUND - no queue '{name}' in vhost '/'")
