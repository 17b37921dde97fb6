"""Connections and channels of pika's blocking adapter, and small ways to use them."""

import time

import pika
import pytest


@pytest.fixture
def connect(url):
    """Opens connections with parameters of the test's choice; all are closed at its end."""
    opened = []

    def open_one(**settings):
        parameters = pika.URLParameters(url)
        for key, value in settings.items():
            setattr(parameters, key, value)
        connection = pika.BlockingConnection(parameters)
        opened.append(connection)
        return connection

    yield open_one
    for connection in opened:
        if connection.is_open:
            connection.close()


@pytest.fixture
def connection(connect):
    return connect()


@pytest.fixture
def channel(connection):
    return connection.channel()


@pytest.fixture
def queue(channel, name):
    """A queue of this connection only."""
    queue = name()
    channel.queue_declare(queue, exclusive=True)
    return queue


class Inbox(list):
    """A consumer's deliveries as (method, properties, body), in order."""

    def __init__(self, channel, queue, **options):
        super().__init__()
        self.connection = channel.connection
        self.tag = channel.basic_consume(queue, self._deliver, **options)

    def _deliver(self, channel, method, properties, body):
        self.append((method, properties, body))

    @property
    def bodies(self):
        return [body for _, _, body in self]

    @property
    def tags(self):
        return [method.delivery_tag for method, _, _ in self]

    def wait(self, count, seconds=30):
        """Processes events until `count` deliveries are here."""
        deadline = time.monotonic() + seconds
        while len(self) < count:
            assert time.monotonic() < deadline, f"{len(self)} of {count} deliveries"
            self.connection.process_data_events(0.05)
        return self

    def stays(self, count, seconds=0.3):
        """Asserts that no more than `count` deliveries arrive."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.connection.process_data_events(0.05)
        assert len(self) == count
        return self


@pytest.fixture
def consume(channel):
    """Starts consumers, on the test's channel unless another is given."""
    return lambda queue, on=None, **options: Inbox(on or channel, queue, **options)


@pytest.fixture
def fill(channel):
    """Publishes bodies to a queue through the default exchange and waits for the broker."""

    def publish(queue, bodies):
        for body in bodies:
            body = body if isinstance(body, bytes) else str(body).encode()
            channel.basic_publish("", queue, body)
        # A reply on the channel comes after everything published before it is done.
        channel.queue_declare(queue, passive=True)

    return publish


@pytest.fixture
def ready(connection):
    """The number of ready messages of a queue, asked on a channel of its own."""

    def count(queue):
        with connection.channel() as channel:
            return channel.queue_declare(queue, passive=True).method.message_count

    return count


@pytest.fixture
def eventually():
    """Asserts that a condition holds soon."""

    def wait(condition, seconds=30):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "did not happen in time"
            time.sleep(0.02)

    return wait
