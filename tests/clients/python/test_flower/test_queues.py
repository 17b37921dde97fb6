"""Flower in a process of its own, whose page of the broker lists queues from the HTTP API."""

import re
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pika
import pytest

from ports import free_port

# More than one piece of a packed list.
QUEUES = [f"flower-{number}" for number in range(150)]


@pytest.fixture
def broker(start_broker):
    """A broker with these queues, each with one message more than the one before."""
    broker = start_broker("management.listen")
    with pika.BlockingConnection(pika.URLParameters(broker.url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        for count, queue in enumerate(QUEUES):
            channel.queue_declare(queue, durable=True)
            for _ in range(count % 7):
                channel.basic_publish("", queue, b"task")
    return broker


@pytest.fixture
def flower(broker, tmp_path):
    """The address of a Flower for an application that has these queues."""
    (tmp_path / "queued.py").write_text(
        "from celery import Celery\nfrom kombu import Queue\n"
        f"app = Celery('queued', broker={broker.url!r})\n"
        f"app.conf.task_queues = [Queue(name) for name in {QUEUES}]\n")
    api = f"http://guest:guest@127.0.0.1:{broker.ports['management.listen']}/api/"
    port = free_port()
    command = [sys.executable, "-m", "celery", "-A", "queued", "flower", f"--broker-api={api}",
               "--address=127.0.0.1", f"--port={port}"]
    log = tmp_path / "flower.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=output, stderr=output)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(60)
    print(log.read_text())


def page(address):
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(address) as answer:
                return answer.read().decode()
        except urllib.error.URLError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_its_page_lists_every_queue_with_its_messages(flower):
    row = r"<tr id=\"([^\"]+)\">\s*<td>[^<]+</td>\s*<td>(\d+)</td>"
    # On a busy machine Flower gives up on the API after a second, and lists nothing then.
    for _ in range(10):
        text = page(f"{flower}/broker")
        if listed := {name: int(messages) for name, messages in re.findall(row, text)}:
            break
    assert listed == {name: count % 7 for count, name in enumerate(QUEUES)}, text[:3000]
