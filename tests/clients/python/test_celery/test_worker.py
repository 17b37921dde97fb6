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
from celery.exceptions import TaskRevokedError
from kombu import Connection

from machine import on_time

FOLDER = Path(__file__).parent


@contextmanager
def worker(log, concurrency=2, **environment):
    """A worker that is ready, in an environment with these additions; `log` has what it says."""
    command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "--loglevel=INFO"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, f"--concurrency={concurrency}", "--hostname=one@test"],
            cwd=FOLDER,
            env=os.environ | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 120
        while " ready." not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
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
    assert tasks.add.delay(2, 3).get(timeout=60) == 5


def test_many_tasks(tasks):
    results = [tasks.add.delay(number, 1) for number in range(100)]
    assert [result.get(timeout=90) for result in results] == list(range(1, 101))


def test_chain(tasks):
    from celery import chain

    work = chain(tasks.add.s(1, 2), tasks.add.s(10), tasks.add.s(100))
    assert work.apply_async().get(timeout=60) == 113


def test_group(tasks):
    from celery import group

    work = group(tasks.add.s(number, number) for number in range(10))
    assert work.apply_async().get(timeout=60) == [2 * number for number in range(10)]


def test_retry(tasks):
    assert tasks.third_time_lucky.delay().get(timeout=60) == 2


def test_failure(tasks):
    with pytest.raises(ValueError, match="as asked"):
        tasks.fails.delay().get(timeout=60)


def test_countdown(tasks):
    start = time.monotonic()
    assert tasks.add.apply_async((1, 1), countdown=1.5).get(timeout=60) == 2
    assert time.monotonic() - start > 1.4


def test_inspect_ping(tasks):
    assert tasks.app.control.inspect(timeout=5).ping() == {"one@test": {"ok": "pong"}}


def test_inspect_sees_the_queue(tasks):
    queues = tasks.app.control.inspect(timeout=5).active_queues()
    assert [queue["name"] for queue in queues["one@test"]] == [os.environ["CELERY_QUEUE"]]


def test_broadcast_reaches_the_worker(tasks):
    reply = tasks.app.control.rate_limit("tasks.add", "1000/s", reply=True, timeout=5)
    assert "ok" in reply[0]["one@test"]


@pytest.mark.timeout(400)
def test_a_worker_goes_on_after_a_crash(own_broker, tmp_path):
    def add(x, y):
        """The sum, as a program finds it out that has just been started."""
        with Celery("tasks", broker=own_broker.url, backend="rpc://", set_as_current=False) as app:
            return app.send_task("tasks.add", (x, y), queue="celery").get(timeout=90)

    with worker(tmp_path / "worker.log", AMQP_URL=own_broker.url, CELERY_QUEUE="celery") as process:
        assert add(2, 3) == 5
        own_broker.restart()
        assert add(20, 30) == 50
        assert process.poll() is None, "it is the same worker"


@pytest.fixture(scope="module")
def quorum_tasks(url, tmp_path_factory):
    """A client of a worker whose tasks come through quorum queues, which Celery delays natively."""
    queue = f"quorum-{uuid.uuid4().hex[:8]}"
    environment = {"CELERY_QUEUE": queue, "CELERY_QUEUE_TYPE": "quorum"}
    with worker(tmp_path_factory.mktemp("celery") / "quorum.log", **environment):
        app = Celery("tasks", broker=url, backend="rpc://", set_as_current=False)
        app.conf.update(quorum_settings(queue))
        yield app


def quorum_settings(queue):
    return {
        "task_default_queue": queue,
        "task_default_queue_type": "quorum",
        "task_default_exchange": queue,
        "task_default_exchange_type": "topic",
        "task_default_routing_key": queue,
    }


@on_time
def test_a_countdown_is_kept_by_the_broker(quorum_tasks):
    start = time.time()
    sent = quorum_tasks.send_task("tasks.now", countdown=3)
    assert sent.get(timeout=60) - start == pytest.approx(3, abs=0.3)


@on_time
def test_several_countdowns_come_in_order_of_their_time(quorum_tasks):
    start = time.time()
    sent = {wait: quorum_tasks.send_task("tasks.now", countdown=wait) for wait in (4, 1, 2)}
    for wait, result in sent.items():
        assert result.get(timeout=60) - start == pytest.approx(wait, abs=0.3)


@on_time
def test_retries_with_a_countdown(quorum_tasks):
    start = time.time()
    retries, done = quorum_tasks.send_task("tasks.fails_twice", (1,)).get(timeout=60)
    assert retries == 2
    assert done - start == pytest.approx(2, abs=0.6)


def test_a_task_that_has_expired_is_not_done(quorum_tasks):
    sent = quorum_tasks.send_task("tasks.now", countdown=2, expires=1)
    with pytest.raises(TaskRevokedError):
        sent.get(timeout=60)


@on_time
def test_results_that_nobody_fetches_go(url):
    """The queue of results expires with `result_expires`."""
    with Celery("expiring", broker=url, backend="rpc://", set_as_current=False) as app:
        app.conf.result_expires = 1
        name = app.backend.oid
        with Connection(url) as connection:
            channel = connection.default_channel
            app.backend.binding(channel).declare()
            channel.queue_declare(name, passive=True)
            time.sleep(1.6)
            with pytest.raises(connection.channel_errors, match="no queue"):
                channel.queue_declare(name, passive=True)


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_tasks_of_higher_priority_are_done_first(url, tmp_path, kind):
    """With `x-max-priority`, and in a quorum queue, which needs none."""
    queue = f"priority-{uuid.uuid4().hex[:8]}"
    environment = {"CELERY_QUEUE": queue, "CELERY_PREFETCH": "1"}
    if kind == "quorum":
        environment["CELERY_QUEUE_TYPE"] = kind
    else:
        environment["CELERY_MAX_PRIORITY"] = "10"
    with Celery("tasks", broker=url, backend="rpc://", set_as_current=False) as app:
        app.conf.update(task_default_queue=queue)
        if kind == "quorum":
            app.conf.update(quorum_settings(queue))
        else:
            app.conf.task_queue_max_priority = 10
        # Nobody takes them yet.
        given = (1, 9, 5, 9, 0)
        sent = [app.send_task("tasks.now", priority=priority) for priority in given]
        with worker(tmp_path / "worker.log", concurrency=1, **environment):
            done = [result.get(timeout=90) for result in sent]
    order = sorted(range(len(given)), key=done.__getitem__)
    assert [given[index] for index in order] == [9, 9, 5, 1, 0]
    assert order[:2] == [1, 3], "those of one priority in the order of their sending"
