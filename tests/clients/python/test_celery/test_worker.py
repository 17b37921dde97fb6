"""A Celery worker in a process of its own, and a client that gives it work."""

import os
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest
from celery import Celery

FOLDER = Path(__file__).parent


@contextmanager
def worker(log, **environment):
    """A worker that is ready, in an environment with these additions; `log` has what it says."""
    command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "--loglevel=INFO"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--concurrency=2", "--hostname=one@test"],
            cwd=FOLDER,
            env=os.environ | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 30
        while " ready." not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()
            print(log.read_text())


@pytest.fixture(scope="module")
def tasks(url, tmp_path_factory):
    """The task module, with a worker that runs it."""
    os.environ["CELERY_QUEUE"] = f"celery-{uuid.uuid4().hex[:8]}"
    sys.path.insert(0, str(FOLDER))
    import tasks

    with worker(tmp_path_factory.mktemp("celery") / "worker.log"):
        yield tasks


def test_add(tasks):
    assert tasks.add.delay(2, 3).get(timeout=15) == 5


def test_many_tasks(tasks):
    results = [tasks.add.delay(number, 1) for number in range(100)]
    assert [result.get(timeout=30) for result in results] == list(range(1, 101))


def test_chain(tasks):
    from celery import chain

    work = chain(tasks.add.s(1, 2), tasks.add.s(10), tasks.add.s(100))
    assert work.apply_async().get(timeout=15) == 113


def test_group(tasks):
    from celery import group

    work = group(tasks.add.s(number, number) for number in range(10))
    assert work.apply_async().get(timeout=15) == [2 * number for number in range(10)]


def test_retry(tasks):
    assert tasks.third_time_lucky.delay().get(timeout=20) == 2


def test_failure(tasks):
    with pytest.raises(ValueError, match="as asked"):
        tasks.fails.delay().get(timeout=15)


def test_countdown(tasks):
    start = time.monotonic()
    assert tasks.add.apply_async((1, 1), countdown=1.5).get(timeout=15) == 2
    assert time.monotonic() - start > 1.4


def test_inspect_ping(tasks):
    assert tasks.app.control.inspect(timeout=5).ping() == {"one@test": {"ok": "pong"}}


def test_inspect_sees_the_queue(tasks):
    queues = tasks.app.control.inspect(timeout=5).active_queues()
    assert [queue["name"] for queue in queues["one@test"]] == [os.environ["CELERY_QUEUE"]]


def test_broadcast_reaches_the_worker(tasks):
    reply = tasks.app.control.rate_limit("tasks.add", "1000/s", reply=True, timeout=5)
    assert "ok" in reply[0]["one@test"]


@pytest.mark.timeout(120)
def test_a_worker_goes_on_after_a_crash(own_broker, tmp_path):
    def add(x, y):
        """The sum, as a program finds it out that has just been started."""
        with Celery("tasks", broker=own_broker.url, backend="rpc://", set_as_current=False) as app:
            return app.send_task("tasks.add", (x, y), queue="celery").get(timeout=40)

    with worker(tmp_path / "worker.log", AMQP_URL=own_broker.url, CELERY_QUEUE="celery") as process:
        assert add(2, 3) == 5
        own_broker.restart()
        assert add(20, 30) == 50
        assert process.poll() is None, "it is the same worker"
