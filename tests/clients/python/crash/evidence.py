"""What a client of the crash test leaves behind: one line an event, kept outside of the broker.

    O TIME NUMBER                 connected, having begun then; the number of the next message
    X TEXT                        the connection was lost
    C FIRST LAST                  these messages were confirmed
    N FIRST LAST                  these were refused
    D QUEUE PUBLISHER NUMBER R    delivered; R is 1 if marked as redelivered
    A QUEUE PUBLISHER NUMBER TIME acknowledged
    Q QUEUE PUBLISHER NUMBER TIME given back to the queue
    V TEXT                        a promise was broken
    I TEXT                        worth knowing

Times are Unix time in milliseconds. `crates/xtask/src/crash/evidence.rs` reads and judges them.
"""

import signal
import sys
import time

import pika

# Where message NUMBER of a publisher goes: exchange, routing key, and whether that is durable.
ROUTES = [("crash.fan", ""), ("crash.direct", "a"), ("", "crash-b"), ("crash.entry", "x.t")]


def now():
    return int(time.time() * 1000)


def parameters(url):
    """Fails at once when the broker is down; the callers try again themselves."""
    parameters = pika.URLParameters(url)
    parameters.connection_attempts = 1
    parameters.socket_timeout = 3
    parameters.stack_timeout = 5
    return parameters


def is_transient(number):
    """These are published with delivery mode 1 and must not survive."""
    return number % 7 == 3


def body(publisher, number):
    """A body that tells whether it arrived whole: some small, some large, some in many frames."""
    size = 40 + number * 7919 % 1500
    if number % 100 == 0:
        size = 20_000
    if number % 1000 == 500:
        size = 300_000
    head = f"{publisher} {number} ".encode()
    return head.ljust(size, bytes([97 + number % 26]))


class Evidence:
    """The file of one client."""

    def __init__(self, path):
        self.file = open(path, "a", buffering=1 << 16)
        self.stopping = False
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, *_):
        self.stopping = True

    def line(self, *words):
        self.file.write(" ".join(map(str, words)) + "\n")

    def told(self, error):
        """Notes a lost connection. That the broker closed it with a reason breaks a promise."""
        if isinstance(error, (pika.exceptions.ConnectionClosedByBroker,
                              pika.exceptions.ChannelClosedByBroker)):
            self.line("V", f"closed by the broker: {error.reply_code} {error.reply_text}")
        else:
            self.line("X", repr(error).replace("\n", " ")[:200])

    def forever(self, session):
        """Runs `session` again after each loss until this client is to stop."""
        while not self.stopping:
            try:
                session()
            except Exception as error:  # pika raises many kinds when a socket breaks
                self.told(error)
            self.file.flush()
            time.sleep(0.02)
        self.file.close()


def arguments():
    """URL, path of the evidence, and what else was given."""
    return sys.argv[1], sys.argv[2], sys.argv[3:]
