"""Consumes queues and acknowledges one by one: URL EVIDENCE QUEUE...

Told to stop, it goes on until its queues are empty.
"""

import random
import time

import pika

from evidence import Evidence, arguments, body, now, parameters

PREFETCH = 50
# Long enough for a broker that has something to deliver.
QUIET_S = 0.7
# So often it is asked before a message that is not delivered counts as such: a broker on a busy
# machine may have it on its way.
LOOKS = 20
# Messages are left to pile up for at most this long after a start.
LATE_S = 0.4


class Consumer:
    def __init__(self, url, evidence, queues):
        self.url, self.evidence, self.queues = url, evidence, queues

    def session(self):
        self.begun = now()
        self.lost = None
        self.open = 0
        self.looks = 0
        self.connection = pika.SelectConnection(
            parameters(self.url),
            on_open_callback=self.connected,
            on_open_error_callback=self.closed,
            on_close_callback=self.closed,
        )
        self.connection.ioloop.start()
        if self.lost is not None:
            raise self.lost

    def closed(self, _, error):
        self.lost = self.lost or error
        self.connection.ioloop.stop()

    def connected(self, _):
        self.evidence.line("O", self.begun, 0)
        self.last = time.monotonic()
        late = 0 if self.evidence.stopping else random.random() * LATE_S
        self.connection.ioloop.call_later(late, self.start)
        self.connection.ioloop.call_later(0.1, self.look)

    def start(self):
        for queue in self.queues:
            opened = lambda channel, queue=queue: self.consume(channel, queue)
            self.connection.channel(on_open_callback=opened)

    def consume(self, channel, queue):
        self.channel = channel
        channel.add_on_close_callback(self.channel_closed)
        channel.basic_qos(prefetch_count=PREFETCH)
        deliver = lambda *delivery: self.deliver(queue, *delivery)
        channel.basic_consume(queue, deliver, callback=self.consuming)

    def consuming(self, _):
        self.open += 1

    def channel_closed(self, _, error):
        if self.connection.is_open:
            self.lost = self.lost or error
            self.connection.close()

    def deliver(self, queue, channel, method, _properties, content):
        self.last = time.monotonic()
        publisher, number = content[:30].split(b" ")[:2]
        publisher, number = publisher.decode(), int(number)
        if content != body(publisher, number):
            self.evidence.line("V", f"{queue}: {publisher} {number} arrived damaged")
        again = int(method.redelivered)
        self.evidence.line("D", queue, publisher, number, again)
        if queue == "crash-b" and number % 5 == 2 and not again:
            channel.basic_nack(method.delivery_tag, requeue=True)
            self.evidence.line("Q", queue, publisher, number, now())
        else:
            channel.basic_ack(method.delivery_tag)
            self.evidence.line("A", queue, publisher, number, now())

    def look(self):
        quiet = time.monotonic() - self.last > QUIET_S
        if self.evidence.stopping and quiet and self.open == len(self.queues):
            self.left, self.undelivered = len(self.queues), []
            for queue in self.queues:
                self.channel.queue_declare(queue, passive=True, callback=self.counted)
        else:
            self.connection.ioloop.call_later(0.1, self.look)

    def counted(self, frame):
        if frame.method.message_count > 0:
            self.undelivered.append(f"{frame.method.message_count} in {frame.method.queue}")
        self.left -= 1
        if self.left > 0:
            return
        self.looks += 1
        if self.undelivered and self.looks < LOOKS:
            self.connection.ioloop.call_later(QUIET_S, self.look)
            return
        if self.undelivered:
            text = ", ".join(self.undelivered)
            self.evidence.line("V", f"messages are ready for a consumer and not delivered: {text}")
        self.connection.close()


if __name__ == "__main__":
    url, path, queues = arguments()
    evidence = Evidence(path)
    evidence.forever(Consumer(url, evidence, queues).session)
