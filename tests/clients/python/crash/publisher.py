"""Publishes to every route with a window of unconfirmed messages: URL EVIDENCE."""

import time

import pika

from evidence import ROUTES, Evidence, arguments, body, is_transient, now, parameters

NAME = "p"
WINDOW = 200
PER_SECOND = 1000
TICK_S = 0.005


class Publisher:
    def __init__(self, url, evidence):
        self.url, self.evidence = url, evidence
        self.number = 0

    def session(self):
        self.begun = now()
        self.first = self.number
        self.open = {}  # delivery tags not confirmed, in order
        self.lost = None
        self.connection = pika.SelectConnection(
            parameters(self.url),
            on_open_callback=lambda _: self.connection.channel(on_open_callback=self.opened),
            on_open_error_callback=self.closed,
            on_close_callback=self.closed,
        )
        self.connection.ioloop.start()
        if self.lost is not None:
            raise self.lost

    def closed(self, _, error):
        self.lost = self.lost or error
        self.connection.ioloop.stop()

    def opened(self, channel):
        self.channel = channel
        channel.add_on_close_callback(self.channel_closed)
        channel.add_on_return_callback(self.returned)
        channel.confirm_delivery(self.settled, callback=self.confirming)

    def channel_closed(self, _, error):
        self.lost = self.lost or error
        if self.connection.is_open:
            self.connection.close()

    def confirming(self, _):
        self.evidence.line("O", self.begun, self.number)
        self.start = time.monotonic()
        self.publish()

    def returned(self, _channel, method, _properties, content):
        words = content[:20].split()[:2]
        self.evidence.line("V", f"returned {words}: {method.reply_code} {method.reply_text}")

    def settled(self, frame):
        method = frame.method
        word = "C" if isinstance(method, pika.spec.Basic.Ack) else "N"
        settled = [method.delivery_tag]
        if method.multiple:
            settled = [tag for tag in self.open if tag <= method.delivery_tag]
        for tag in settled:
            del self.open[tag]
            number = self.first + tag - 1
            self.evidence.line(word, number, number)

    def publish(self):
        sent = self.number - self.first
        if self.evidence.stopping:
            if not self.open:
                self.connection.close()
            else:
                self.connection.ioloop.call_later(TICK_S, self.publish)
            return
        due = int((time.monotonic() - self.start) * PER_SECOND) - sent
        for _ in range(min(due, WINDOW - len(self.open))):
            exchange, key = ROUTES[self.number % len(ROUTES)]
            mode = 1 if is_transient(self.number) else 2
            properties = pika.BasicProperties(delivery_mode=mode)
            content = body(NAME, self.number)
            self.number += 1
            self.open[self.number - self.first] = True
            self.channel.basic_publish(exchange, key, content, properties, mandatory=True)
        self.connection.ioloop.call_later(TICK_S, self.publish)


if __name__ == "__main__":
    url, path, _ = arguments()
    evidence = Evidence(path)
    evidence.forever(Publisher(url, evidence).session)
