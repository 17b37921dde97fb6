"""Retries and delays as frameworks build them whose own language has no suite here: Sneakers (its
handler `Maxretry`), Laravel (`vladimir-yuldashev/laravel-queue-rabbitmq`) and MassTransit. The
topologies, names and headers are theirs."""

import base64
import json
import time

import pika
import pytest
from pika.exceptions import AMQPConnectionError, ChannelClosedByBroker

from machine import on_time
from proxy import Proxy

LATE_S = 0.3


def headers(properties):
    return properties.headers or {}


def deaths(properties):
    """(queue, reason, count) of each kind of death, the last one first."""
    found = headers(properties).get("x-death", [])
    return [(death["queue"], death["reason"], death["count"]) for death in found]


class Topology:
    """Durable queues and exchanges of a test, which are deleted at its end."""

    def __init__(self, channel):
        self.channel = channel
        self.queues, self.exchanges = [], []

    def queue(self, name, **arguments):
        arguments = {f"x-{key.replace('_', '-')}": value for key, value in arguments.items()}
        self.channel.queue_declare(name, durable=True, arguments=arguments)
        self.queues.append(name)
        return name

    def exchange(self, name, kind, **arguments):
        arguments = {f"x-{key.replace('_', '-')}": value for key, value in arguments.items()}
        self.channel.exchange_declare(name, kind, durable=True, arguments=arguments)
        self.exchanges.append(name)
        return name


@pytest.fixture
def topology(connect):
    made = Topology(connect().channel())
    yield made
    for queue in made.queues:
        made.channel.queue_delete(queue)
    for exchange in made.exchanges:
        made.channel.exchange_delete(exchange)


class Sneakers:
    """A worker with Sneakers' `Maxretry` handler."""

    def __init__(self, topology, worker, retry_timeout, retry_max_times):
        self.channel, self.worker = topology.channel, worker
        self.max_retries = retry_max_times
        retry, error, requeue = (f"{worker}-{end}" for end in ("retry", "error", "retry-requeue"))
        self.error_exchange = error
        topology.queue(worker, dead_letter_exchange=retry)
        for exchange in (retry, error, requeue):
            topology.exchange(exchange, "topic")
        topology.queue(retry, dead_letter_exchange=requeue, message_ttl=retry_timeout)
        topology.queue(error)
        bind = self.channel.queue_bind
        bind(retry, retry, "#")
        bind(error, error, "#")
        bind(worker, requeue, "#")

    def failed(self, method, properties, body):
        """What the handler does with a job that failed."""
        found = headers(properties).get("x-death", [])
        failures = sum(death["count"] for death in found if death["queue"] == self.worker)
        if failures + 1 <= self.max_retries:
            self.channel.basic_reject(method.delivery_tag, requeue=False)
            return
        report = {
            "error": "reject",
            "num_attempts": failures + 1,
            "payload": base64.encodebytes(body).decode(),
        }
        self.channel.basic_publish(
            self.error_exchange, method.routing_key, json.dumps(report).encode()
        )
        self.channel.basic_ack(method.delivery_tag)


@on_time
def test_sneakers_tries_again_after_a_while(topology, name, consume):
    worker = name("work")
    sneakers = Sneakers(topology, worker, retry_timeout=500, retry_max_times=2)
    sneakers.channel.basic_qos(prefetch_count=10)
    inbox = consume(worker, on=sneakers.channel)
    sent = pika.BasicProperties(delivery_mode=2, content_type="text/plain", headers={"of": "a"})
    sneakers.channel.basic_publish("", worker, b"job", sent)
    for attempt in range(3):
        method, properties, body = inbox.wait(attempt + 1)[attempt]
        assert (body, method.redelivered) == (b"job", False)
        assert (properties.content_type, properties.delivery_mode) == ("text/plain", 2)
        assert headers(properties)["of"] == "a"
        expected = [(f"{worker}-retry", "expired"), (worker, "rejected")] if attempt else []
        assert deaths(properties) == [(*death, attempt) for death in expected]
        if attempt:
            assert time.monotonic() - failed == pytest.approx(0.5, abs=LATE_S)
            assert method.exchange == f"{worker}-retry-requeue"
            assert headers(properties)["x-first-death-queue"] == worker
            assert headers(properties)["x-last-death-reason"] == "expired"
        failed = time.monotonic()
        sneakers.failed(method, properties, body)
    report = consume(f"{worker}-error", on=sneakers.channel, auto_ack=True).wait(1)[0]
    told = json.loads(report[2])
    assert (base64.b64decode(told["payload"]), told["num_attempts"]) == (b"job", 3)
    inbox.stays(3)


def test_sneakers_counts_each_job_by_itself(topology, name, consume):
    worker = name("work")
    sneakers = Sneakers(topology, worker, retry_timeout=200, retry_max_times=3)
    inbox = consume(worker, on=sneakers.channel)
    jobs = [b"%d" % number for number in range(20)]
    for job in jobs:
        sneakers.channel.basic_publish("", worker, job)
    # Job n fails n % 4 times, so that those of 3 need every retry there is.
    seen, done = 0, {}
    while len(done) < len(jobs):
        method, properties, body = inbox.wait(seen + 1)[seen]
        seen += 1
        failures = sum(count for queue, _, count in deaths(properties) if queue == worker)
        if failures < int(body) % 4:
            sneakers.failed(method, properties, body)
        else:
            sneakers.channel.basic_ack(method.delivery_tag)
            done[body] = failures
    assert done == {job: int(job) % 4 for job in jobs}
    inbox.stays(seen)


class Laravel:
    """The queue driver: a channel, and the names that it makes of a queue's."""

    def __init__(self, topology, queue, failed_exchange=None, quorum=False, **arguments):
        self.topology, self.channel, self.queue = topology, topology.channel, queue
        if failed_exchange:
            arguments["dead_letter_exchange"] = failed_exchange
            arguments["dead_letter_routing_key"] = f"{queue}.failed"
        if quorum:
            arguments["queue_type"] = "quorum"
        topology.queue(queue, **arguments)

    def later(self, seconds, payload, attempts=0):
        ttl = int(seconds * 1000)
        delayed = f"{self.queue}.delay.{ttl}"
        self.topology.queue(
            delayed,
            dead_letter_exchange="",
            dead_letter_routing_key=self.queue,
            message_ttl=ttl,
            expires=2 * ttl,
        )
        self._publish(delayed, payload, attempts)
        return delayed

    def push(self, payload, attempts=0):
        self._publish(self.queue, payload, attempts)

    def _publish(self, queue, payload, attempts):
        properties = pika.BasicProperties(
            content_type="application/json",
            delivery_mode=2,
            correlation_id=payload["id"],
            priority=attempts,
            headers={"laravel": {"attempts": attempts}},
        )
        self.channel.basic_publish("", queue, json.dumps(payload).encode(), properties, True)

    def pop(self, seconds=30):
        """Asks until a job is there, as a worker does."""
        deadline = time.monotonic() + seconds
        while True:
            method, properties, body = self.channel.basic_get(self.queue)
            if method:
                return method, properties, json.loads(body)
            assert time.monotonic() < deadline, "no job"
            time.sleep(0.02)


@pytest.mark.parametrize("quorum", [False, True])
@on_time
def test_laravel_later(topology, name, quorum):
    laravel = Laravel(topology, name("default"), quorum=quorum)
    start = time.monotonic()
    waits = {laravel.later(wait, {"id": f"{wait}"}): wait for wait in (1, 0.4, 0.7)}
    for delayed, wait in sorted(waits.items(), key=lambda item: item[1]):
        method, properties, job = laravel.pop()
        assert time.monotonic() - start == pytest.approx(wait, abs=LATE_S)
        assert (job, properties.correlation_id) == ({"id": f"{wait}"}, f"{wait}")
        assert headers(properties)["laravel"] == {"attempts": 0}
        assert deaths(properties) == [(delayed, "expired", 1)]
        laravel.channel.basic_ack(method.delivery_tag)


@on_time
def test_laravel_releases_a_job_with_one_more_attempt(topology, name):
    laravel = Laravel(topology, name("default"), max_priority=10)
    laravel.push({"id": "fails"})
    for attempt in range(3):
        method, properties, job = laravel.pop()
        assert headers(properties)["laravel"] == {"attempts": attempt}
        # The driver sends it anew, so that no death of before is with it.
        assert len(deaths(properties)) == min(attempt, 1)
        assert properties.priority == attempt
        laravel.channel.basic_ack(method.delivery_tag)
        laravel.later(0.2, job, attempt + 1)
    # What was tried more often is done first.
    laravel.push({"id": "new"})
    time.sleep(0.5)
    assert [laravel.pop()[2]["id"] for _ in range(2)] == ["fails", "new"]


@on_time
def test_laravel_queues_of_delays_go_when_nobody_uses_them(connection, topology, name):
    laravel = Laravel(topology, name("default"))

    def is_there(queue):
        channel = connection.channel()
        try:
            channel.queue_declare(queue, passive=True)
        except ChannelClosedByBroker as closed:
            assert closed.reply_code == 404
            return False
        channel.close()
        return True

    # Each use begins its time anew: it lives longer than its x-expires of 0.8 s.
    for _ in range(4):
        delayed = laravel.later(0.4, {"id": "x"})
        time.sleep(0.3)
    assert is_there(delayed)
    for _ in range(4):
        laravel.pop()
    time.sleep(1.2)
    assert not is_there(delayed)


def test_laravel_reroutes_failed_jobs(topology, name, consume):
    exchange, queue = name("failed"), name("default")
    topology.exchange(exchange, "direct")
    topology.queue(f"{queue}.failed")
    topology.channel.queue_bind(f"{queue}.failed", exchange, f"{queue}.failed")
    laravel = Laravel(topology, queue, failed_exchange=exchange)
    laravel.later(0.2, {"id": "bad"}, attempts=2)
    laravel.channel.basic_reject(laravel.pop()[0].delivery_tag, requeue=False)
    method, properties, body = consume(f"{queue}.failed", auto_ack=True).wait(1)[0]
    assert (json.loads(body), method.exchange) == ({"id": "bad"}, exchange)
    assert headers(properties)["laravel"] == {"attempts": 2}
    assert deaths(properties) == [
        (queue, "rejected", 1),
        (f"{queue}.delay.200", "expired", 1),
    ]
    assert headers(properties)["x-first-death-queue"] == f"{queue}.delay.200"


class MassTransit:
    """A receive endpoint of a quorum queue; its error and skipped queues are made when needed."""

    def __init__(self, topology, endpoint):
        self.topology, self.channel, self.endpoint = topology, topology.channel, endpoint
        self.channel.confirm_delivery()
        self._pair(endpoint)

    def _pair(self, name):
        """An exchange and its queue of the same name."""
        self.topology.exchange(name, "fanout", queue_type="quorum")
        self.topology.queue(name, queue_type="quorum")
        self.channel.queue_bind(name, name, "")
        return name

    def send(self, body, expiration=None, **headers):
        properties = pika.BasicProperties(
            content_type="application/vnd.masstransit+json",
            delivery_mode=2,
            message_id="1",
            expiration=expiration,
            headers=headers,
        )
        self.channel.basic_publish(self.endpoint, "", body, properties, mandatory=True)

    def move(self, delivery, end, **added):
        """Copies a delivery with more headers into the endpoint's other queue, and settles it."""
        method, properties, body = delivery
        target = self._pair(f"{self.endpoint}_{end}")
        properties.headers = {**headers(properties), **added}
        self.channel.basic_publish(target, "", body, properties, mandatory=True)
        self.channel.basic_ack(method.delivery_tag)
        return target


def test_masstransit_moves_faults_and_what_nobody_handles(topology, name, consume):
    bus = MassTransit(topology, name("input"))
    inbox = consume(bus.endpoint, on=bus.channel)
    fault = {
        "MT-Reason": "fault",
        "MT-Fault-ExceptionType": "System.TimeoutException",
        "MT-Fault-Message": "too late",
        "MT-Fault-Timestamp": "2026-11-30T06:00:00.0000000Z",
        "MT-Fault-StackTrace": "   at Consumer.Consume\n" * 400,
        "MT-Fault-RetryCount": 3,
    }
    for number, (end, added) in enumerate(
        {"error": fault, "skipped": {"MT-Reason": "dead-letter"}}.items()
    ):
        bus.send(b"{}", publishId="1")
        target = bus.move(inbox.wait(number + 1)[number], end, **added)
        method, properties, body = consume(target, on=bus.channel).wait(1)[0]
        assert (method.exchange, method.redelivered, body) == (target, False, b"{}")
        assert headers(properties) == {"publishId": "1", **added}
        assert properties.message_id == "1"
    inbox.stays(2)


def test_masstransit_messages_of_a_process_that_dies_come_back_counted(
    url, topology, name, consume
):
    bus = MassTransit(topology, name("input"))
    bus.send(b"{}")
    for delivery in range(3):
        proxy = Proxy(url)
        worker = pika.BlockingConnection(pika.URLParameters(proxy.url))
        method, properties, _ = consume(bus.endpoint, on=worker.channel()).wait(1)[0]
        assert headers(properties).get("x-delivery-count", 0) == delivery
        assert method.redelivered is (delivery > 0)
        proxy.close()
        with pytest.raises(AMQPConnectionError):
            worker.process_data_events(10)


@on_time
def test_masstransit_requests_that_time_out_are_not_served(topology, name, consume):
    bus = MassTransit(topology, name("input"))
    bus.send(b"request", expiration="300")
    bus.send(b"lasts", expiration="30000")
    time.sleep(0.5)
    inbox = consume(bus.endpoint, on=bus.channel).wait(1)
    assert inbox.stays(1).bodies == [b"lasts"]


def test_masstransit_delayed_exchanges_need_a_plugin(topology, name):
    with pytest.raises(ChannelClosedByBroker) as closed:
        topology.exchange(name("input_delay"), "x-delayed-message", delayed_type="fanout")
    expected = "PRECONDITION_FAILED - unknown exchange type 'x-delayed-message'"
    assert (closed.value.reply_code, closed.value.reply_text) == (406, expected)


@on_time
def test_masstransit_redelivery_through_a_queue_for_each_delay(topology, name, consume):
    """What its users build without the plugin: the bus counts in a header of its own."""
    bus = MassTransit(topology, name("input"))
    inbox = consume(bus.endpoint, on=bus.channel)
    bus.send(b"{}")
    for count, wait in enumerate((300, 600)):
        method, properties, body = inbox.wait(count + 1)[count]
        delay = topology.queue(
            f"{bus.endpoint}_delay_{wait}",
            queue_type="quorum",
            message_ttl=wait,
            expires=60_000,
            dead_letter_exchange=bus.endpoint,
        )
        properties.headers = {**headers(properties), "MT-Redelivery-Count": count + 1}
        start = time.monotonic()
        bus.channel.basic_publish("", delay, body, properties, mandatory=True)
        bus.channel.basic_ack(method.delivery_tag)
        _, properties, body = inbox.wait(count + 2)[count + 1]
        assert time.monotonic() - start == pytest.approx(wait / 1000, abs=LATE_S)
        assert headers(properties)["MT-Redelivery-Count"] == count + 1
        assert body == b"{}"
        assert deaths(properties)[0] == (delay, "expired", 1)
        # What the bus sent on of earlier deaths counts for nothing: it is a message of its own.
        assert len(deaths(properties)) == 1
