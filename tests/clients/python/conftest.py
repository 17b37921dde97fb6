"""Fixtures shared by every Python client: where the broker is and names nobody else uses."""

import os
import signal
import socket
import subprocess
import time
import uuid

import pytest

from ports import free_port


@pytest.fixture(scope="session")
def url():
    """The broker's URL, from the environment."""
    return os.environ["AMQP_URL"]


@pytest.fixture
def name():
    """Makes names of queues and exchanges that no other test uses."""
    return lambda stem="q": f"{stem}-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def alarm():
    """Raises and clears the broker's memory alarm with the commands of the environment."""
    raising, clearing = os.environ.get("ALARM_RAISE"), os.environ.get("ALARM_CLEAR")
    if not raising or not clearing:
        pytest.skip("the environment names no command that raises an alarm")

    class Alarm:
        def up(self):
            subprocess.run(raising, shell=True, check=True)

        def down(self):
            subprocess.run(clearing, shell=True, check=True)

    switch = Alarm()
    yield switch
    switch.down()


class OwnBroker:
    """A Leveret of the test's own, which may be stopped, killed and started again. It listens for
    AMQP and for what else is named, each on a port of its own."""

    LISTENERS = ["amqp.listen", "management.listen", "management.metrics_listen"]

    def __init__(self, binary, folder, *others):
        self.ports = {listener: free_port() for listener in ["amqp.listen", *others]}
        port = self.ports["amqp.listen"]
        self.url = f"amqp://guest:guest@127.0.0.1:{port}/%2f"
        self.address = ("127.0.0.1", port)
        self.command = [binary, "--data-dir", folder / "data"]
        for listener in self.LISTENERS:
            known = listener in self.ports
            addresses = f'["127.0.0.1:{self.ports[listener]}"]' if known else "[]"
            self.command += ["--set", f"{listener}={addresses}"]
        self.log = folder / "log"
        self.start()

    def start(self):
        with open(self.log, "a") as log:
            # LEVERET_… in its environment would be settings.
            self.process = subprocess.Popen(self.command, stderr=log, env={})
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(self.address).close()
                return
            except OSError:
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.01)

    def end(self, how):
        """Ends the broker with a signal; asked to stop it has to do so well."""
        self.process.send_signal(how)
        status = self.process.wait(60)
        assert status == (0 if how == signal.SIGTERM else -how), self.log.read_text()

    def restart(self, how=signal.SIGKILL):
        self.end(how)
        self.start()


@pytest.fixture
def start_broker(tmp_path):
    """Starts the one broker of the test's own."""
    binary = os.environ.get("LEVERET_BIN")
    if not binary:
        pytest.skip("only a Leveret can be started here")
    started = []

    def start(*listeners):
        started.append(OwnBroker(binary, tmp_path, *listeners))
        return started[0]

    yield start
    for broker in started:
        broker.process.kill()
        broker.process.wait()


@pytest.fixture
def own_broker(start_broker):
    return start_broker()
