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
    """A Leveret of the test's own, which may be stopped, killed and started again."""

    def __init__(self, binary, folder):
        port = free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{port}/%2f"
        self.address = ("127.0.0.1", port)
        self.command = [binary, "--data-dir", folder / "data"]
        for setting in [f'amqp.listen=["127.0.0.1:{port}"]', "management.listen=[]",
                        "management.metrics_listen=[]"]:
            self.command += ["--set", setting]
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
def own_broker(tmp_path):
    binary = os.environ.get("LEVERET_BIN")
    if not binary:
        pytest.skip("only a Leveret can be restarted")
    broker = OwnBroker(binary, tmp_path)
    yield broker
    broker.process.kill()
    broker.process.wait()
