"""Refusals: the codes and texts that clients show and match, and life after them."""

import pika
import pytest
from pika.exceptions import (
    ChannelClosedByBroker,
    ConnectionClosedByBroker,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

LOCKED = (
    "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{name}' in vhost '/'. "
    "It could be originally declared on another connection or the exclusive property value does "
    "not match that of the original declaration."
)


def redeclare(first, second):
    """Declares a queue twice with different properties."""

    def act(channel, name):
        channel.queue_declare(name, exclusive=True, **first)
        channel.queue_declare(name, exclusive=True, **second)

    return act


def redeclare_exchange(first, second):
    def act(channel, name):
        channel.exchange_declare(name, **{"exchange_type": "direct", "auto_delete": True, **first})
        channel.exchange_declare(name, **{"exchange_type": "direct", "auto_delete": True, **second})

    return act


def with_argument(argument, value):
    def act(channel, name):
        channel.queue_declare(name, exclusive=True, arguments={argument: value})

    return act


def publish(exchange, **properties):
    def act(channel, name):
        channel.basic_publish(exchange or name, name, b"x", pika.BasicProperties(**properties))
        channel.queue_declare("", exclusive=True)

    return act


TTL = "x-message-ttl"
REFUSALS = {
    "passive queue": (
        lambda c, n: c.queue_declare(n, passive=True),
        404,
        "NOT_FOUND - no queue '{name}' in vhost '/'",
    ),
    "passive exchange": (
        lambda c, n: c.exchange_declare(n, passive=True),
        404,
        "NOT_FOUND - no exchange '{name}' in vhost '/'",
    ),
    "get from nowhere": (
        lambda c, n: c.basic_get(n),
        404,
        "NOT_FOUND - no queue '{name}' in vhost '/'",
    ),
    "consume from nowhere": (
        lambda c, n: c.basic_consume(n, print),
        404,
        "NOT_FOUND - no queue '{name}' in vhost '/'",
    ),
    "purge of nothing": (
        lambda c, n: c.queue_purge(n),
        404,
        "NOT_FOUND - no queue '{name}' in vhost '/'",
    ),
    "publish to nowhere": (publish(""), 404, "NOT_FOUND - no exchange '{name}' in vhost '/'"),
    "bind a missing queue": (
        lambda c, n: c.queue_bind(n, "amq.direct", "k"),
        404,
        "NOT_FOUND - no queue '{name}' in vhost '/'",
    ),
    "reserved queue name": (
        lambda c, n: c.queue_declare("amq.mine"),
        403,
        "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'",
    ),
    "reserved exchange name": (
        lambda c, n: c.exchange_declare("amq.mine"),
        403,
        "ACCESS_REFUSED - exchange name 'amq.mine' contains reserved prefix 'amq.*'",
    ),
    "bind to the default exchange": (
        lambda c, n: (c.queue_declare(n, exclusive=True), c.queue_bind(n, "", "k")),
        403,
        "ACCESS_REFUSED - operation not permitted on the default exchange",
    ),
    "look for the default exchange": (
        lambda c, n: c.exchange_declare("", passive=True),
        403,
        "ACCESS_REFUSED - operation not permitted on the default exchange",
    ),
    "delete the default exchange": (
        lambda c, n: c.exchange_delete(""),
        403,
        "ACCESS_REFUSED - operation not permitted on the default exchange",
    ),
    "delete a system exchange": (
        lambda c, n: c.exchange_delete("amq.direct"),
        403,
        "ACCESS_REFUSED - deletion of system exchange 'amq.direct' in vhost '/' not allowed",
    ),
    "auto-delete differs": (
        redeclare({"auto_delete": True}, {"auto_delete": False}),
        406,
        "PRECONDITION_FAILED - inequivalent arg 'auto_delete' for queue '{name}' in vhost '/': "
        "received 'false' but current is 'true'",
    ),
    "exchange type differs": (
        redeclare_exchange({}, {"exchange_type": "topic"}),
        406,
        "PRECONDITION_FAILED - inequivalent arg 'type' for exchange '{name}' in vhost '/': "
        "received 'topic' but current is 'direct'",
    ),
    "exchange durability differs": (
        redeclare_exchange({"durable": True}, {"durable": False}),
        406,
        "PRECONDITION_FAILED - inequivalent arg 'durable' for exchange '{name}' in vhost '/': "
        "received 'false' but current is 'true'",
    ),
    "argument differs": (
        redeclare({"arguments": {TTL: 100}}, {"arguments": {TTL: 200}}),
        406,
        "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue '{name}' in vhost '/': "
        "received '200' but current is '100'",
    ),
    "argument was absent": (
        redeclare({}, {"arguments": {TTL: 200}}),
        406,
        "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue '{name}' in vhost '/': "
        "received the value '200' of type 'signedint' but current is none",
    ),
    "negative TTL": (
        with_argument(TTL, -1),
        406,
        "PRECONDITION_FAILED - invalid arg 'x-message-ttl' for queue '{name}' in vhost '/': "
        "{value_negative,-1}",
    ),
    "TTL is text": (
        with_argument(TTL, "soon"),
        406,
        "PRECONDITION_FAILED - invalid arg 'x-message-ttl' for queue '{name}' in vhost '/': "
        '"expected integer, got longstr"',
    ),
    "unknown delivery tag": (
        lambda c, n: (c.basic_ack(99), c.queue_declare("", exclusive=True)),
        406,
        "PRECONDITION_FAILED - unknown delivery tag 99",
    ),
    "confirm to tx": (
        lambda c, n: (c.confirm_delivery(), c.tx_select()),
        406,
        "PRECONDITION_FAILED - cannot switch from confirm to tx mode",
    ),
    "commit without select": (
        lambda c, n: c.tx_commit(),
        406,
        "PRECONDITION_FAILED - channel is not transactional",
    ),
    "foreign user id": (
        publish("amq.direct", user_id="other"),
        406,
        "PRECONDITION_FAILED - user_id property set to 'other' but authenticated user was 'guest'",
    ),
    "wrong x-match": (
        lambda c, n: (
            c.queue_declare(n, exclusive=True),
            c.queue_bind(n, "amq.headers", "", {"x-match": "bogus"}),
        ),
        406,
        "PRECONDITION_FAILED - Invalid x-match field value <<\"bogus\">>; expected all, any, "
        "all-with-x, or any-with-x",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_channel_is_closed(connection, name, case):
    act, code, text = REFUSALS[case]
    channel = connection.channel()
    own = name()
    with pytest.raises(ChannelClosedByBroker) as closed:
        act(channel, own)
    expected = text.replace("{name}", own)
    assert (closed.value.reply_code, closed.value.reply_text) == (code, expected)
    # The connection goes on, and so does the number of the channel.
    again = connection.channel(channel.channel_number)
    assert again.queue_declare("", exclusive=True).method.message_count == 0


def test_unknown_exchange_type(channel, name):
    with pytest.raises(ChannelClosedByBroker) as closed:
        channel.exchange_declare(name(), "bogus")
    text = "PRECONDITION_FAILED - unknown exchange type 'bogus'"
    assert (closed.value.reply_code, closed.value.reply_text) == (406, text)


def test_second_acknowledgement(channel, queue, fill):
    fill(queue, [1])
    tag = channel.basic_get(queue)[0].delivery_tag
    channel.basic_ack(tag)
    channel.basic_ack(tag)
    with pytest.raises(ChannelClosedByBroker) as closed:
        channel.queue_declare("", exclusive=True)
    assert closed.value.reply_text == f"PRECONDITION_FAILED - unknown delivery tag {tag}"


def test_locked_queue_text(connect, queue):
    with pytest.raises(ChannelClosedByBroker) as closed:
        connect().channel().queue_delete(queue)
    assert (closed.value.reply_code, closed.value.reply_text) == (405, LOCKED.format(name=queue))


def test_publishes_in_flight_behind_an_error_are_discarded(connection, queue, name, ready):
    channel = connection.channel()
    impl = channel._impl
    impl.basic_publish(name("none"), "k", b"x")
    for _ in range(50):
        impl.basic_publish("", queue, b"y" * 1000)
    with pytest.raises(ChannelClosedByBroker):
        channel.queue_declare("", exclusive=True)
    assert ready(queue) == 0


CONNECTION_REFUSALS = {
    "immediate": (
        lambda c, n: c._impl._send_method(
            pika.spec.Basic.Publish(exchange="", routing_key=n, immediate=True),
            (pika.BasicProperties(), b"x"),
        ),
        540,
        "NOT_IMPLEMENTED - immediate=true",
    ),
    "prefetch size": (
        lambda c, n: c.basic_qos(prefetch_size=10),
        540,
        "NOT_IMPLEMENTED - prefetch_size!=0 (10)",
    ),
    "recover without requeue": (
        lambda c, n: c.basic_recover(requeue=False),
        540,
        "NOT_IMPLEMENTED - requeue=false",
    ),
    "channel flow": (
        lambda c, n: c._impl._send_method(pika.spec.Channel.Flow(False)),
        540,
        "NOT_IMPLEMENTED - active=false",
    ),
    "consumer tag in use": (
        lambda c, n: c._impl._send_method(
            pika.spec.Basic.Consume(queue=n, consumer_tag="same")
        ),
        530,
        "NOT_ALLOWED - attempt to reuse consumer tag 'same'",
    ),
}


@pytest.mark.parametrize("case", CONNECTION_REFUSALS)
def test_connection_is_closed(connect, name, case):
    act, code, text = CONNECTION_REFUSALS[case]
    connection = connect()
    channel = connection.channel()
    queue = name()
    channel.queue_declare(queue, exclusive=True)
    channel.basic_consume(queue, print, consumer_tag="same")
    with pytest.raises(ConnectionClosedByBroker) as closed:
        act(channel, queue)
        channel.queue_declare("", exclusive=True)
    assert (closed.value.reply_code, closed.value.reply_text) == (code, text)
    # The client may come back at once.
    assert connect().channel().queue_declare("", exclusive=True).method.message_count == 0


def test_wrong_password(connect):
    with pytest.raises(ProbableAuthenticationError) as refused:
        connect(credentials=pika.PlainCredentials("guest", "wrong"))
    assert "Login was refused using authentication mechanism PLAIN" in str(refused.value)


def test_missing_vhost(connect):
    with pytest.raises((ConnectionClosedByBroker, ProbableAccessDeniedError)) as refused:
        connect(virtual_host="nope")
    assert "vhost nope not found" in str(refused.value)
