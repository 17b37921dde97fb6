"""Transactions: publishes and acknowledgements that wait for commit."""


def test_commit_publishes(channel, queue, ready):
    channel.tx_select()
    for number in range(3):
        channel.basic_publish("", queue, b"%d" % number)
    assert ready(queue) == 0
    channel.tx_commit()
    assert [channel.basic_get(queue)[2] for _ in range(3)] == [b"0", b"1", b"2"]


def test_rollback_forgets_publishes(channel, queue, ready):
    channel.tx_select()
    channel.basic_publish("", queue, b"x")
    channel.tx_rollback()
    channel.tx_commit()
    assert ready(queue) == 0


def test_rollback_forgets_acknowledgements(channel, queue, fill):
    fill(queue, [1])
    channel.tx_select()
    tag = channel.basic_get(queue)[0].delivery_tag
    channel.basic_ack(tag)
    channel.tx_rollback()
    # The message is outstanding again, so that its tag can be settled.
    channel.basic_ack(tag)
    channel.tx_commit()
    assert channel.basic_get(queue) == (None, None, None)


def test_uncommitted_acknowledgements_come_back(connection, channel, queue, fill):
    fill(queue, [1])
    other = connection.channel()
    other.tx_select()
    other.basic_ack(other.basic_get(queue)[0].delivery_tag)
    other.close()
    method, _, body = channel.basic_get(queue)
    assert (method.redelivered, body) == (True, b"1")
