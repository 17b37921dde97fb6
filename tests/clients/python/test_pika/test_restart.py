"""What is there after the broker was stopped or killed and started again."""

import signal
import time

import pika
import pytest

PERSISTENT = pika.BasicProperties(delivery_mode=2)
# Acknowledgements become durable a little later than they are sent.
SETTLED_S = 1.0

ending = pytest.mark.parametrize(
    "ending", [pytest.param(signal.SIGTERM, id="stop"), pytest.param(signal.SIGKILL, id="crash")]
)


@pytest.fixture
def link(own_broker):
    """Opens a channel on a new connection to the test's own broker."""
    opened = []

    def open_one():
        opened.append(pika.BlockingConnection(pika.URLParameters(own_broker.url)))
        return opened[-1].channel()

    yield open_one
    for connection in opened:
        try:
            connection.close()
        except pika.exceptions.AMQPError:
            pass  # ended with its broker


def drain(channel, queue):
    found = []
    while True:
        method, properties, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            return found
        found.append((method, properties, body))


def bodies(channel, queue):
    return [body for _, _, body in drain(channel, queue)]


def missing(open_one, check):
    """Whether `check` closes its channel with 404."""
    try:
        check(open_one())
        return False
    except pika.exceptions.ChannelClosedByBroker as error:
        assert error.reply_code == 404
        return True


@ending
def test_durable_things_survive(own_broker, link, ending):
    channel = link()
    channel.exchange_declare("kept", "topic", durable=True)
    channel.exchange_declare("inner", "fanout", durable=True)
    channel.exchange_declare("passing", "fanout")
    limited = {"x-max-length": 2, "x-overflow": "reject-publish"}
    channel.queue_declare("kept", durable=True, arguments=limited)
    channel.queue_declare("deleted", durable=True)
    channel.queue_declare("passing")
    channel.queue_declare("exclusive", durable=True, exclusive=True)
    channel.exchange_bind("inner", "kept", "a.#")
    channel.queue_bind("kept", "inner")
    channel.queue_bind("kept", "kept", "unbound")
    channel.queue_unbind("kept", "kept", "unbound")
    channel.queue_delete("deleted")
    own_broker.restart(ending)
    channel = link()
    channel.exchange_declare("kept", "topic", durable=True)
    channel.queue_declare("kept", durable=True, arguments=limited)
    assert missing(link, lambda c: c.exchange_declare("passing", passive=True))
    for queue in ["deleted", "passing", "exclusive"]:
        assert missing(link, lambda c: c.queue_declare(queue, passive=True)), queue
    channel.confirm_delivery()
    channel.basic_publish("kept", "a.b", b"1", mandatory=True)
    channel.basic_publish("kept", "a", b"2", mandatory=True)
    with pytest.raises(pika.exceptions.UnroutableError):
        channel.basic_publish("kept", "unbound", b"3", mandatory=True)
    with pytest.raises(pika.exceptions.NackError):
        channel.basic_publish("", "kept", b"4")
    assert bodies(channel, "kept") == [b"1", b"2"]


@ending
def test_messages_come_back_whole(own_broker, link, ending):
    channel = link()
    for number in range(3):
        channel.queue_declare(f"q{number}", durable=True)
        channel.queue_bind(f"q{number}", "amq.fanout")
    channel.confirm_delivery()
    properties = pika.BasicProperties(
        delivery_mode=2, content_type="text/x", headers={"n": 1, "deep": {"list": [1, "é", None]}},
        correlation_id="c", message_id="m", timestamp=1_700_000_000, app_id="a", type="t",
    )
    large = bytes(range(256)) * 2000
    for body in [b"", b"small", large]:
        channel.basic_publish("amq.fanout", "key", body, properties)
    channel.basic_publish("amq.fanout", "key", b"transient")
    own_broker.restart(ending)
    channel = link()
    for number in range(3):
        found = drain(channel, f"q{number}")
        assert [body for _, _, body in found] == [b"", b"small", large]
        for method, seen, _ in found:
            assert (method.exchange, method.routing_key) == ("amq.fanout", "key")
            assert not method.redelivered
            assert seen.__dict__ == properties.__dict__


@ending
def test_what_was_settled_stays_settled(own_broker, link, ending):
    channel = link()
    channel.queue_declare("q", durable=True)
    channel.queue_declare("purged", durable=True)
    channel.confirm_delivery()
    for number in range(6):
        channel.basic_publish("", "q", b"%d" % number, PERSISTENT)
    channel.basic_publish("", "purged", b"x", PERSISTENT)
    channel.queue_purge("purged")
    tags = [channel.basic_get("q")[0].delivery_tag for _ in range(5)]
    channel.basic_ack(tags[0])
    channel.basic_reject(tags[2], requeue=False)
    channel.basic_nack(tags[3], requeue=True)
    time.sleep(SETTLED_S)
    own_broker.restart(ending)
    channel = link()
    found = drain(channel, "q")
    assert [body for _, _, body in found] == [b"1", b"3", b"4", b"5"]
    assert found[1][0].redelivered, "it was given back before"
    assert not found[3][0].redelivered, "it was never delivered"
    assert bodies(channel, "purged") == []


def test_a_commit_survives_a_crash(own_broker, link):
    channel = link()
    channel.queue_declare("from", durable=True)
    channel.queue_declare("to", durable=True)
    channel.tx_select()
    channel.basic_publish("", "from", b"work", PERSISTENT)
    channel.tx_commit()
    method, _, _ = channel.basic_get("from")
    channel.basic_publish("", "to", b"result", PERSISTENT)
    channel.basic_ack(method.delivery_tag)
    channel.tx_commit()
    channel.basic_publish("", "to", b"not committed", PERSISTENT)
    own_broker.restart()
    channel = link()
    assert bodies(channel, "from") == []
    assert bodies(channel, "to") == [b"result"]
