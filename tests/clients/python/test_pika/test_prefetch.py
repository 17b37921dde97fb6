"""Prefetch: fairness between consumers, limits per consumer and per channel."""


def test_two_consumers_alternate_exactly(connection, queue, fill, consume):
    inboxes = [consume(queue, on=connection.channel()) for _ in range(2)]
    fill(queue, range(10))
    for inbox in inboxes:
        inbox.wait(5)
    first, second = inboxes
    if b"0" in second.bodies:
        first, second = second, first
    assert first.bodies == [b"0", b"2", b"4", b"6", b"8"]
    assert second.bodies == [b"1", b"3", b"5", b"7", b"9"]


def test_a_consumer_without_credit_is_passed_over(connection, queue, fill, consume):
    slow, fast = connection.channel(), connection.channel()
    slow.basic_qos(prefetch_count=1)
    slow_inbox = consume(queue, on=slow)
    fast_inbox = consume(queue, on=fast)
    fill(queue, range(10))
    fast_inbox.wait(9)
    assert len(slow_inbox) == 1
    assert fast_inbox.stays(9).bodies == sorted(fast_inbox.bodies)


def test_prefetch_bounds_the_unacknowledged(channel, queue, fill, consume):
    channel.basic_qos(prefetch_count=3)
    inbox = consume(queue)
    fill(queue, range(10))
    inbox.wait(3).stays(3)
    channel.basic_ack(inbox.tags[0])
    inbox.wait(4).stays(4)
    channel.basic_ack(inbox.tags[3], multiple=True)
    inbox.wait(7).stays(7)
    assert inbox.bodies == [b"%d" % number for number in range(7)]


def test_prefetch_of_zero_is_no_limit(channel, queue, fill, consume):
    channel.basic_qos(prefetch_count=0)
    inbox = consume(queue)
    fill(queue, range(500))
    inbox.wait(500)


def test_prefetch_is_of_the_consumer_begun_after_it(channel, queue, name, fill, consume):
    other = name()
    channel.queue_declare(other, exclusive=True)
    channel.basic_qos(prefetch_count=2)
    first = consume(queue)
    channel.basic_qos(prefetch_count=4)
    second = consume(other)
    fill(queue, range(10))
    fill(other, range(10))
    first.wait(2).stays(2)
    second.wait(4).stays(4)


def test_channel_wide_prefetch_counts_both_queues(channel, queue, name, fill, consume):
    other = name()
    channel.queue_declare(other, exclusive=True)
    channel.basic_qos(prefetch_count=5, global_qos=True)
    first, second = consume(queue), consume(other)
    fill(queue, range(10))
    fill(other, range(10))
    first.connection.process_data_events(0.3)
    assert len(first) + len(second) == 5
    taken = first if first else second
    channel.basic_ack(taken.tags[0])
    first.connection.process_data_events(0.3)
    assert len(first) + len(second) == 6


def test_both_prefetch_limits_apply(channel, queue, name, fill, consume):
    other = name()
    channel.queue_declare(other, exclusive=True)
    channel.basic_qos(prefetch_count=3)
    channel.basic_qos(prefetch_count=5, global_qos=True)
    first, second = consume(queue), consume(other)
    fill(queue, range(10))
    fill(other, range(10))
    first.connection.process_data_events(0.3)
    assert len(first) <= 3 and len(second) <= 3
    assert len(first) + len(second) == 5


def test_automatic_acknowledgement_ignores_prefetch(channel, queue, fill, consume):
    channel.basic_qos(prefetch_count=1)
    inbox = consume(queue, auto_ack=True)
    fill(queue, range(50))
    inbox.wait(50)


def test_get_is_not_bound_by_prefetch(channel, queue, fill):
    channel.basic_qos(prefetch_count=1)
    fill(queue, range(3))
    bodies = [channel.basic_get(queue)[2] for _ in range(3)]
    assert bodies == [b"0", b"1", b"2"]
