"""Does one thing after another, keeps a model of what must be durable by then, and compares after
each crash: URL EVIDENCE SEED.

What was in flight when the broker died may have happened or not, but not by half. What was
settled within the last second may come back.
"""

import random
import time
import uuid

import pika

from evidence import Evidence, arguments, parameters

QUEUES = [f"ledger-{number}" for number in range(6)]
EXCHANGES = [("ledger.fan", "fanout"), ("ledger.direct", "direct"), ("ledger.topic", "topic")]
KEYS = ["red", "blue", "red.dark"]
PASSING_QUEUE, PASSING_EXCHANGE = "ledger-passing", "ledger.passing"
SHORT = "ledger-5"
SHORT_LENGTH = 8
READY_MAX = 60
# What a settlement may be late with, and how late the end of a connection is noticed.
BOUND_S = 1.0 + 0.2


class Item:
    """One message in one queue."""

    def __init__(self, body, life, transient=False):
        self.body, self.life, self.transient = body, life, transient
        self.settled_at = None  # acknowledged, rejected or dropped
        self.returned_at = None
        self.was_delivered = False


class Doubt:
    """What the operation in flight may have done: all of it or nothing."""

    def __init__(self):
        self.arriving = {}  # queue -> Item at its end
        self.leaving = {}  # queue -> Items
        self.deleting = None
        self.repeat = None


class Ledger:
    def __init__(self, url, evidence, seed):
        self.url, self.evidence = url, evidence
        self.random = random.Random(seed)
        self.queues = {}  # name -> Items in order, those lately settled among them
        self.exchanges = {}
        self.bindings = set()
        self.gone = set()
        self.doubt = None
        self.life = 0
        self.ended_at = None
        self.answered_at = 0
        self.verified = self.items = 0
        self.transactions = None

    def broken(self, text):
        self.evidence.line("V", f"ledger, life {self.life}: {text}")

    def has_transactions(self):
        try:
            with pika.BlockingConnection(parameters(self.url)) as connection:
                connection.channel().tx_select()
            return True
        except pika.exceptions.ConnectionClosedByBroker as error:
            self.evidence.line("I", f"no transactions: {error.reply_text}")
            return False

    def session(self):
        if self.transactions is None:
            self.transactions = self.has_transactions()
        connection = pika.BlockingConnection(parameters(self.url))
        try:
            if self.ended_at is not None:
                self.verify(connection)
                self.ended_at = None
            self.channel = connection.channel()
            self.channel.confirm_delivery()
            self.declare_passing()
            while not self.evidence.stopping:
                self.step(connection)
            connection.close()
            self.evidence.line("I", f"ledger: {self.verified} restarts, {self.items} messages")
        except Exception:
            if self.ended_at is None:
                self.ended_at = time.time()
                self.life += 1
            raise

    # Operations: `doubt` says what may have happened until the broker has answered.

    def step(self, connection):
        operations = [
            (14, self.publish), (3, self.acknowledge), (2, self.give_back), (0.4, self.purge),
            (0.4, self.delete_queue), (2, self.declare_queue), (2, self.bind), (1, self.unbind),
            (1, self.declare_exchange), (0.3, self.delete_exchange), (2, self.transaction),
        ]
        weights, choices = zip(*operations)
        operation = self.random.choices(choices, weights)[0]
        self.doubt = Doubt()
        operation(connection)
        self.doubt = None
        # Nearly all of them wait for the disk: up to here the broker, and its disk, went on.
        self.answered_at = time.time()

    def declare_passing(self):
        self.channel.queue_declare(PASSING_QUEUE, durable=False)
        self.channel.exchange_declare(PASSING_EXCHANGE, "fanout", durable=False)
        self.channel.queue_bind(PASSING_QUEUE, PASSING_EXCHANGE)

    def declare_queue(self, _):
        self._declare_queue(self.random.choice(QUEUES))

    def _declare_queue(self, queue):
        limit = {"x-max-length": SHORT_LENGTH} if queue == SHORT else None
        self.doubt.repeat = lambda: self._declare_queue(queue)
        self.gone.discard(queue)
        self.channel.queue_declare(queue, durable=True, arguments=limit)
        self.queues.setdefault(queue, [])

    def delete_queue(self, _):
        queue = self.pick()
        if queue is None:
            return
        self.doubt.deleting = queue
        self.channel.queue_delete(queue)
        self.forget_queue(queue)

    def forget_queue(self, queue):
        self.queues.pop(queue, None)
        self.bindings = {binding for binding in self.bindings if binding[1] != queue}
        self.gone.add(queue)

    def declare_exchange(self, _):
        self._declare_exchange(*self.random.choice(EXCHANGES))

    def _declare_exchange(self, exchange, kind):
        self.doubt.repeat = lambda: self._declare_exchange(exchange, kind)
        self.channel.exchange_declare(exchange, kind, durable=True)
        self.exchanges[exchange] = kind

    def delete_exchange(self, _):
        if self.exchanges:
            self._delete_exchange(self.random.choice(sorted(self.exchanges)))

    def _delete_exchange(self, exchange):
        self.doubt.repeat = lambda: self._delete_exchange(exchange)
        self.channel.exchange_delete(exchange)
        self.exchanges.pop(exchange, None)
        self.bindings = {binding for binding in self.bindings if binding[0] != exchange}

    def bind(self, _):
        if self.exchanges and self.queues:
            exchange = self.random.choice(sorted(self.exchanges))
            key = self.random.choice(KEYS + ["#", "*.dark"])
            self._bind(exchange, self.pick(), key)

    def _bind(self, exchange, queue, key):
        self.doubt.repeat = lambda: self._bind(exchange, queue, key)
        self.channel.queue_bind(queue, exchange, key)
        self.bindings.add((exchange, queue, key))

    def unbind(self, _):
        if self.bindings:
            self._unbind(*self.random.choice(sorted(self.bindings)))

    def _unbind(self, exchange, queue, key):
        self.doubt.repeat = lambda: self._unbind(exchange, queue, key)
        self.channel.queue_unbind(queue, exchange, key)
        self.bindings.discard((exchange, queue, key))

    def pick(self):
        return self.random.choice(sorted(self.queues)) if self.queues else None

    def targets(self, exchange, key):
        if exchange == "":
            return [key] if key in self.queues else []
        kind = self.exchanges[exchange]
        matching = {queue for source, queue, pattern in self.bindings
                    if source == exchange and matches(kind, pattern, key)}
        return sorted(matching)

    def route(self):
        """An exchange and a key; the exchange may have nothing bound."""
        if self.exchanges and self.random.random() < 0.7:
            return self.random.choice(sorted(self.exchanges)), self.random.choice(KEYS)
        return "", self.random.choice(QUEUES)

    def message(self, targets, transient=False):
        size = self.random.choice([0, 10, 600, 600, 20_000])
        body = f"{uuid.uuid4().hex} ".encode() + b"x" * size
        return body, {queue: Item(body, self.life, transient) for queue in targets}

    def publish(self, _):
        exchange, key = self.route()
        targets = self.targets(exchange, key)
        transient = self.random.random() < 0.1
        body, self.doubt.arriving = self.message(targets, transient)
        properties = pika.BasicProperties(delivery_mode=1 if transient else 2)
        try:
            self.channel.basic_publish(exchange, key, body, properties, mandatory=True)
            if not targets:
                self.broken(f"{exchange!r} {key!r} leads somewhere: {body[:32]}")
        except pika.exceptions.UnroutableError:
            if targets:
                self.broken(f"{exchange!r} {key!r} does not lead to {targets}: {body[:32]}")
        except pika.exceptions.NackError:
            self.broken(f"a message to {targets} was refused")
        self.arrive(self.doubt.arriving)

    def arrive(self, arriving):
        for queue, item in arriving.items():
            self.queues[queue].append(item)
        if SHORT in arriving:
            ready = self.ready(SHORT)
            for item in ready[: max(0, len(ready) - SHORT_LENGTH)]:
                item.settled_at = time.time()  # the broker has dropped it
        # All that has happened is in the model, before anything else can fail.
        self.doubt = Doubt()
        for queue in arriving:
            ready = self.ready(queue)
            for _ in ready if len(ready) > READY_MAX else []:
                self.take(queue)

    def ready(self, queue):
        return [item for item in self.queues[queue] if item.settled_at is None]

    def get(self, channel, queue):
        """The next message, which must be the model's; None if there is none."""
        ready = self.ready(queue)
        method, _, body = channel.basic_get(queue)
        if (method is None) != (not ready) or (ready and ready[0].body != body):
            wanted = [item.body[:32] for item in ready[:3]]
            self.broken(f"{queue} gave {body and body[:32]}, not {wanted}")
            raise AssertionError("the model is wrong")
        if method is None:
            return None, None
        ready[0].was_delivered = True
        return method, ready[0]

    def take(self, queue):
        method, item = self.get(self.channel, queue)
        self.channel.basic_ack(method.delivery_tag)
        item.settled_at = time.time()

    def acknowledge(self, _):
        queue = self.pick()
        if queue is not None and self.ready(queue):
            self.take(queue)
        if queue is not None:
            # What is long settled may not come back; there is no need to remember it.
            old = time.time() - 10
            self.queues[queue] = [item for item in self.queues[queue]
                                  if item.settled_at is None or item.settled_at > old]

    def give_back(self, _):
        queue = self.pick()
        if queue is None:
            return
        method, item = self.get(self.channel, queue)
        if method is None:
            return
        requeue = self.random.random() < 0.7
        self.channel.basic_reject(method.delivery_tag, requeue=requeue)
        if requeue:
            item.returned_at = time.time()
        else:
            item.settled_at = time.time()

    def purge(self, _):
        queue = self.pick()
        if queue is None:
            return
        self.doubt.leaving = {queue: self.ready(queue)}
        count = self.channel.queue_purge(queue).method.message_count
        if count != len(self.doubt.leaving[queue]):
            self.broken(f"{queue} purged {count} of {len(self.doubt.leaving[queue])}")
        # Purge-ok has come: none of these may come back.
        for item in self.doubt.leaving[queue]:
            self.queues[queue].remove(item)

    def transaction(self, connection):
        if not self.transactions or not self.queues:
            return
        channel = connection.channel()
        channel.tx_select()
        arriving, leaving = {}, {}
        for queue in {self.pick(), self.pick()} - {SHORT}:
            body, items = self.message([queue])
            channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2))
            arriving.update(items)
        source = self.pick()
        method, item = self.get(channel, source)
        if method is not None:
            channel.basic_ack(method.delivery_tag)
            leaving = {source: [item]}
        if self.random.random() < 0.2:
            channel.tx_rollback()
            channel.close()  # gives back what was not acknowledged after all
            if item is not None:
                item.returned_at = time.time()
            return
        self.doubt.arriving, self.doubt.leaving = arriving, leaving
        channel.tx_commit()
        for queue, items in leaving.items():
            for item in items:
                self.queues[queue].remove(item)
        self.arrive(arriving)
        channel.close()

    # After a crash.

    def verify(self, connection):
        """Compares every queue with the model, then goes on with what there is."""
        self.check_passing(connection)
        doubt = self.doubt or Doubt()
        if doubt.deleting is not None and not self.exists(connection, doubt.deleting):
            self.forget_queue(doubt.deleting)
        for queue in sorted(self.gone):
            if self.exists(connection, queue):
                self.broken(f"{queue} was deleted and is there")
        found = {queue: self.contents(connection, queue) for queue in self.queues}
        happened = self.whether_it_happened(doubt, found)
        for queue, messages in found.items():
            self.compare(queue, messages, doubt, happened)
        for queue in [queue for queue, messages in found.items() if messages is None]:
            self.forget_queue(queue)
        # The model is right again, before anything else can fail.
        self.doubt = Doubt()
        self.doubt.repeat = doubt.repeat
        self.channel = connection.channel()
        if doubt.repeat is not None:
            doubt.repeat()
        for exchange, kind in self.exchanges.items():
            self.channel.exchange_declare(exchange, kind, passive=True)
        self.doubt = None
        self.verified += 1

    def check_passing(self, connection):
        if self.exists(connection, PASSING_QUEUE):
            self.broken("a transient queue is there after a restart")
        channel = connection.channel()
        try:
            channel.exchange_declare(PASSING_EXCHANGE, passive=True)
            self.broken("a transient exchange is there after a restart")
        except pika.exceptions.ChannelClosedByBroker as error:
            if error.reply_code != 404:
                raise

    def exists(self, connection, queue):
        channel = connection.channel()
        try:
            channel.queue_declare(queue, passive=True)
            channel.close()
            return True
        except pika.exceptions.ChannelClosedByBroker as error:
            if error.reply_code != 404:
                raise
            return False

    def contents(self, connection, queue):
        """All messages of a queue, given back afterwards; None if there is no such queue."""
        if not self.exists(connection, queue):
            self.broken(f"{queue} is gone")
            return None
        channel = connection.channel()
        messages = []
        for item in self.queues[queue]:
            item.was_delivered = True
        while True:
            method, _, body = channel.basic_get(queue)
            if method is None:
                break
            messages.append((body, method.redelivered))
        channel.close()
        return messages

    def whether_it_happened(self, doubt, found):
        """Looks for the arriving messages of the operation in flight; they come together."""
        seen = {queue: any(body == item.body for body, _ in found.get(queue) or [])
                for queue, item in doubt.arriving.items() if not item.transient}
        # A queue with a limit may have dropped it again.
        seen.pop(SHORT, None)
        if len(set(seen.values())) > 1:
            self.broken(f"an atomic operation was done by half: {seen}")
        if seen:
            return any(seen.values())
        left = {queue: [any(body == item.body for body, _ in found.get(queue) or [])
                        for item in items if not item.transient]
                for queue, items in doubt.leaving.items()}
        left = [there for parts in left.values() for there in parts]
        if len(set(left)) > 1:
            self.broken(f"an operation in flight was done by half: {left}")
        return not any(left)

    def compare(self, queue, messages, doubt, happened):
        if messages is None:
            return
        leaving = doubt.leaving.get(queue, []) if happened else []
        expected = [item for item in self.queues[queue] if item not in leaving]
        if happened and queue in doubt.arriving:
            expected.append(doubt.arriving[queue])
        left = [self.state(item, queue, doubt) for item in expected]
        at, kept = 0, []
        for body, redelivered in messages:
            while at < len(expected) and expected[at].body != body:
                self.absent(queue, expected[at], left[at])
                at += 1
            if at == len(expected):
                self.broken(f"{queue} has {body[:32]}, which is unknown, gone or out of order")
                continue
            self.present(queue, expected[at], left[at], redelivered)
            kept.append(expected[at])
            at += 1
        for item, state in zip(expected[at:], left[at:]):
            self.absent(queue, item, state)
        for item in kept:
            item.settled_at = None
            item.returned_at = time.time()
        self.items += len(kept)
        self.queues[queue] = kept

    def state(self, item, queue, doubt):
        """Whether a message must be there, must not, or may."""
        if item.transient:
            return "must not"
        if item.settled_at is not None:
            last = min(self.ended_at, self.answered_at)
            return "must not" if item.settled_at < last - BOUND_S else "may"
        if queue == SHORT and doubt.arriving:
            return "may"  # the one arriving may have pushed it out
        return "must"

    def absent(self, queue, item, state):
        if state == "must":
            self.broken(f"lost from {queue}: {item.body[:32]}, published in life {item.life}")

    def present(self, queue, item, state, redelivered):
        if state == "must not":
            what = "transient" if item.transient else "settled"
            ago = "" if item.transient else f", {self.ended_at - item.settled_at:.3f} s before"
            self.broken(f"{queue} has a {what} message after a restart: {item.body[:32]}{ago}")
        returned = item.returned_at is not None and item.returned_at < self.ended_at - BOUND_S
        if returned and not redelivered:
            self.broken(f"{queue} has forgotten that {item.body[:32]} was delivered before")


def matches(kind, pattern, key):
    if kind == "fanout":
        return True
    if kind == "direct":
        return pattern == key
    return pattern == "#" or pattern == key or (pattern == "*.dark" and key == "red.dark")


if __name__ == "__main__":
    url, path, (seed,) = arguments()
    evidence = Evidence(path)
    evidence.forever(Ledger(url, evidence, int(seed)).session)
