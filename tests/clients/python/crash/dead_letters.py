"""Publishes what is going to die, has it die in every way, and counts what was moved on: URL
EVIDENCE.

All of it goes to one queue that is consumed at once and to one that nobody touches until the end:
there each message has to be once, however often the broker was killed. Besides the lines of
`evidence.py` it writes

    P SOURCE NUMBER               published and confirmed
    K SOURCE NUMBER               was kept in the queue that nobody touches
    R SOURCE NUMBER               was left in the queue it was published to
    E 0 0                         everything was counted
"""

import time

import pika

from evidence import Evidence, arguments, now, parameters

# Queues and what their messages die of.
SOURCES = {"dead-rejected": "rejected", "dead-expired": "expired", "dead-full": "maxlen",
           "dead-tired": "delivery_limit"}
KEPT, CONSUMED = "dead-keep", "dead-out"
PREFETCH = 20
# Between two publishes: most of the machine is for the other clients.
PAUSE_S = 0.004
# Long enough for what is expired or given back to have moved on.
QUIET_S = 1.5
END_S = 150


def is_to_be_left(source):
    """Nobody takes the last messages of this one: only what is too much dies."""
    return source == "dead-full"


class Mortals:
    def __init__(self, url, evidence):
        self.url, self.evidence = url, evidence
        self.number = 0
        self.last = time.monotonic()

    def connect(self):
        begun = now()
        connection = pika.BlockingConnection(parameters(self.url))
        self.evidence.line("O", begun, 0)
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_qos(prefetch_count=PREFETCH)
        channel.basic_consume("dead-rejected", self.reject)
        channel.basic_consume("dead-tired", self.give_back)
        channel.basic_consume(CONSUMED, self.moved)
        return connection, channel

    def session(self):
        connection, channel = self.connect()
        while not self.evidence.stopping:
            self.publish(channel)
            connection.process_data_events(time_limit=PAUSE_S)
        self.finish(connection, channel)

    def publish(self, channel):
        number, self.number = self.number, self.number + 1
        source = list(SOURCES)[number % len(SOURCES)]
        size = 30_000 if number % 500 == 0 else 100 + number % 900
        body = f"{source} {number} ".encode().ljust(size, b"x")
        properties = pika.BasicProperties(delivery_mode=2, priority=number % 5)
        channel.basic_publish("", source, body, properties)
        self.evidence.line("P", source, number)

    def reject(self, channel, method, _properties, _body):
        self.last = time.monotonic()
        channel.basic_reject(method.delivery_tag, requeue=False)

    def give_back(self, channel, method, _properties, _body):
        self.last = time.monotonic()
        channel.basic_reject(method.delivery_tag, requeue=True)

    def moved(self, channel, method, properties, body):
        self.last = time.monotonic()
        source, number = self.check(properties, body)
        self.evidence.line("D", CONSUMED, source, number, int(method.redelivered))
        channel.basic_ack(method.delivery_tag)
        self.evidence.line("A", CONSUMED, source, number, now())

    def check(self, properties, body):
        """What it died of, and that this was once."""
        source, number = body[:40].decode().split(" ")[:2]
        deaths = (properties.headers or {}).get("x-death", [])
        told = [(death["queue"], death["reason"], death["count"]) for death in deaths]
        if told != [(source, SOURCES[source], 1)]:
            self.evidence.line("V", f"{source} {number} tells of the deaths {told}")
        return source, int(number)

    def finish(self, connection, channel):
        """Counts everything, when all has died that is going to."""
        deadline = time.monotonic() + END_S
        while time.monotonic() - self.last < QUIET_S or self.waiting(channel):
            connection.process_data_events(time_limit=0.1)
            if time.monotonic() > deadline:
                self.evidence.line("V", f"not moved on in {END_S} s: {self.waiting(channel)}")
                break
        drain = connection.channel()
        for queue, word in [(KEPT, "K")] + [(it, "R") for it in SOURCES if is_to_be_left(it)]:
            while True:
                method, properties, body = drain.basic_get(queue)
                if method is None:
                    break
                if word == "K":
                    source, number = self.check(properties, body)
                else:
                    source, number = body[:40].decode().split(" ")[:2]
                drain.basic_ack(method.delivery_tag)
                self.evidence.line(word, source, number)
        self.evidence.line("E", 0, 0)
        connection.close()

    def waiting(self, channel):
        counts = {}
        for queue in list(SOURCES) + [CONSUMED]:
            count = channel.queue_declare(queue, passive=True).method.message_count
            if count > 0 and not is_to_be_left(queue):
                counts[queue] = count
        return counts


if __name__ == "__main__":
    url, path, _ = arguments()
    evidence = Evidence(path)
    mortals = Mortals(url, evidence)
    done = False
    while not done:
        try:
            mortals.session()
            done = True
        except Exception as error:  # pika raises many kinds when a socket breaks
            evidence.told(error)
        evidence.file.flush()
        time.sleep(0.02)
    evidence.file.close()
