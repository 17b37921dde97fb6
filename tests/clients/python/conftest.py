"""Fixtures shared by every Python client: where the broker is and names nobody else uses."""

import os
import subprocess
import uuid

import pytest


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
