"""Exchange types, bindings between exchanges, alternate exchanges."""

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker


@pytest.fixture
def declare(channel, name):
    """Declares exchanges that are removed at the end of the test."""
    declared = []

    def exchange(kind, **options):
        exchange = name(kind)
        channel.exchange_declare(exchange, kind, **options)
        declared.append(exchange)
        return exchange

    yield exchange
    with channel.connection.channel() as cleaner:
        for exchange in declared:
            cleaner.exchange_delete(exchange)


@pytest.fixture
def bound(channel):
    """A new queue bound to an exchange."""

    def queue(exchange, key="", arguments=None):
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, exchange, key, arguments)
        return queue

    return queue


@pytest.fixture
def bodies(channel):
    """Takes everything ready from a queue."""

    def take(queue):
        found = []
        while (reply := channel.basic_get(queue, auto_ack=True))[0]:
            found.append(reply[2])
        return found

    return take


@pytest.mark.parametrize("kind", ["direct", "fanout", "topic", "headers"])
def test_predeclared_exchanges(channel, kind):
    channel.exchange_declare(f"amq.{kind}", kind, durable=True)
    channel.exchange_declare(f"amq.{kind}", passive=True)


def test_direct_matches_the_whole_key(channel, declare, bound, bodies):
    exchange = declare("direct")
    queue = bound(exchange, "a.b")
    for key in ("a.b", "a", "a.b.c", "A.b", ""):
        channel.basic_publish(exchange, key, key)
    assert bodies(queue) == [b"a.b"]


def test_one_copy_however_many_bindings(channel, declare, bound, bodies):
    exchange = declare("topic")
    queue = bound(exchange, "a.#")
    channel.queue_bind(queue, exchange, "#.b")
    channel.queue_bind(queue, exchange, "a.b")
    channel.basic_publish(exchange, "a.b", b"once")
    assert bodies(queue) == [b"once"]


def test_unbind(channel, declare, bound, bodies):
    exchange = declare("direct")
    queue = bound(exchange, "k")
    channel.queue_bind(queue, exchange, "other")
    channel.queue_unbind(queue, exchange, "k")
    channel.basic_publish(exchange, "k", b"no")
    channel.basic_publish(exchange, "other", b"yes")
    assert bodies(queue) == [b"yes"]
    channel.queue_unbind(queue, exchange, "never bound")


TOPICS = [
    ("*.orange.*", "quick.orange.rabbit", True),
    ("*.orange.*", "orange", False),
    ("lazy.#", "lazy", True),
    ("lazy.#", "lazy.a.b.c", True),
    ("lazy.#", "lazyx", False),
    ("#", "", True),
    ("*", "", False),
    ("*", "a", True),
    ("a.*.b", "a..b", True),
    ("#.a.#", "x.y.a", True),
    ("#.a.#", "b", False),
    ("a.#.b", "a.b", True),
    ("a.#.b", "a.x.y.b", True),
    ("*.#", "a", True),
    ("a.b", "a.b", True),
]


@pytest.mark.parametrize("pattern, key, matches", TOPICS)
def test_topic(channel, declare, bound, bodies, pattern, key, matches):
    exchange = declare("topic")
    queue = bound(exchange, pattern)
    channel.basic_publish(exchange, key, b"x")
    assert bodies(queue) == ([b"x"] if matches else [])


HEADERS = [
    ({"x-match": "all", "a": 1, "b": "two"}, {"a": 1, "b": "two", "c": 3}, True),
    ({"x-match": "all", "a": 1, "b": "two"}, {"a": 1}, False),
    ({"x-match": "any", "a": 1, "b": "two"}, {"b": "two"}, True),
    ({"x-match": "any", "a": 1, "b": "two"}, {"a": 2}, False),
    ({"a": 1, "b": 2}, {"a": 1}, False),
    ({"a": None}, {"a": "anything"}, True),
    ({"a": None}, {}, False),
    ({"x-match": "all"}, {"a": 1}, True),
    ({"x-match": "any"}, {"a": 1}, False),
    ({"x-match": "all", "x-key": 1, "a": 1}, {"a": 1}, True),
    ({"x-match": "all-with-x", "x-key": 1, "a": 1}, {"a": 1}, False),
    ({"x-match": "any-with-x", "x-key": 1, "a": 1}, {"x-key": 1}, True),
    ({"a": 1}, {"a": "1"}, False),
    ({"a": True}, {"a": True}, True),
]


@pytest.mark.parametrize("arguments, headers, matches", HEADERS)
def test_headers(channel, declare, bound, bodies, arguments, headers, matches):
    exchange = declare("headers")
    queue = bound(exchange, "", arguments)
    channel.basic_publish(exchange, "", b"x", pika.BasicProperties(headers=headers))
    assert bodies(queue) == ([b"x"] if matches else [])


def test_exchange_bound_to_exchange(channel, declare, bound, bodies):
    source, middle = declare("topic"), declare("direct")
    channel.exchange_bind(middle, source, "a.*")
    queue = bound(middle, "a.b")
    channel.basic_publish(source, "a.b", b"1")
    channel.basic_publish(source, "a.c", b"2")
    assert bodies(queue) == [b"1"]
    channel.exchange_unbind(middle, source, "a.*")
    channel.basic_publish(source, "a.b", b"3")
    assert bodies(queue) == []


def test_a_circle_of_exchanges_ends(channel, declare, bound, bodies):
    exchanges = [declare("fanout") for _ in range(3)]
    for index, exchange in enumerate(exchanges):
        channel.exchange_bind(exchanges[(index + 1) % 3], exchange)
    queues = [bound(exchange) for exchange in exchanges]
    channel.basic_publish(exchanges[0], "", b"x")
    assert [bodies(queue) for queue in queues] == [[b"x"]] * 3


def test_alternate_exchange(channel, declare, bound, bodies):
    last = declare("fanout")
    middle = declare("direct", arguments={"alternate-exchange": last})
    first = declare("direct", arguments={"alternate-exchange": middle})
    taken, lost = bound(first, "k"), bound(last)
    channel.confirm_delivery()
    channel.basic_publish(first, "k", b"routed", mandatory=True)
    channel.basic_publish(first, "other", b"unrouted", mandatory=True)
    assert bodies(taken) == [b"routed"]
    assert bodies(lost) == [b"unrouted"]


def test_missing_alternate_exchange_is_as_unroutable(channel, declare, name):
    exchange = declare("direct", arguments={"alternate-exchange": name("none")})
    channel.confirm_delivery()
    with pytest.raises(pika.exceptions.UnroutableError):
        channel.basic_publish(exchange, "k", b"x", mandatory=True)


def test_internal_exchange(connection, channel, declare, bound, bodies):
    inner = declare("fanout", internal=True)
    outer = declare("fanout")
    channel.exchange_bind(inner, outer)
    queue = bound(inner)
    channel.basic_publish(outer, "", b"x")
    assert bodies(queue) == [b"x"]
    other = connection.channel()
    other.confirm_delivery()
    with pytest.raises(ChannelClosedByBroker) as closed:
        other.basic_publish(inner, "", b"x")
    text = f"ACCESS_REFUSED - cannot publish to internal exchange '{inner}' in vhost '/'"
    assert (closed.value.reply_code, closed.value.reply_text) == (403, text)


def test_auto_delete_exchange_goes_with_its_last_binding(connection, channel, name):
    exchange, queue = name("auto"), name()
    channel.exchange_declare(exchange, "fanout", auto_delete=True)
    channel.queue_declare(queue, exclusive=True)
    channel.exchange_declare(exchange, passive=True)
    channel.queue_bind(queue, exchange)
    channel.queue_delete(queue)
    with pytest.raises(ChannelClosedByBroker) as closed:
        connection.channel().exchange_declare(exchange, passive=True)
    assert closed.value.reply_code == 404


def test_carbon_copies(channel, declare, bound, bodies):
    exchange = declare("direct")
    queues = [bound(exchange, key) for key in ("main", "copy", "blind")]
    properties = pika.BasicProperties(headers={"CC": ["copy"], "BCC": ["blind"], "kept": 1})
    channel.basic_publish(exchange, "main", b"x", properties)
    for queue in queues:
        _, received, body = channel.basic_get(queue, auto_ack=True)
        assert body == b"x"
        assert received.headers == {"CC": ["copy"], "kept": 1}


def test_delete_if_unused(connection, declare, bound):
    exchange = declare("fanout")
    bound(exchange)
    with pytest.raises(ChannelClosedByBroker) as closed:
        connection.channel().exchange_delete(exchange, if_unused=True)
    text = f"PRECONDITION_FAILED - exchange '{exchange}' in vhost '/' in use"
    assert (closed.value.reply_code, closed.value.reply_text) == (406, text)


def test_delete_is_idempotent(channel, name):
    channel.exchange_delete(name("none"))
