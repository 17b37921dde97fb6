"""The tasks of the worker under test."""

import os
import time

from celery import Celery

app = Celery("tasks", broker=os.environ["AMQP_URL"], backend="rpc://")
app.conf.update(
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    task_default_queue=os.environ.get("CELERY_QUEUE", "celery"),
    worker_send_task_events=True,
)

if os.environ.get("CELERY_QUEUE_TYPE"):
    # Celery delays natively what goes through topic exchanges to quorum queues.
    app.conf.update(
        task_default_queue_type=os.environ["CELERY_QUEUE_TYPE"],
        task_default_exchange=app.conf.task_default_queue,
        task_default_exchange_type="topic",
        task_default_routing_key=app.conf.task_default_queue,
    )
if os.environ.get("CELERY_MAX_PRIORITY"):
    app.conf.task_queue_max_priority = int(os.environ["CELERY_MAX_PRIORITY"])
if os.environ.get("CELERY_PREFETCH"):
    app.conf.worker_prefetch_multiplier = int(os.environ["CELERY_PREFETCH"])


@app.task
def add(x, y):
    return x + y


@app.task
def total(numbers):
    return sum(numbers)


@app.task(bind=True, max_retries=3)
def third_time_lucky(self):
    """Fails twice; tells how often it was tried."""
    if self.request.retries < 2:
        raise self.retry(countdown=0.1)
    return self.request.retries


@app.task
def fails():
    raise ValueError("as asked")


@app.task
def now():
    return time.time()


@app.task(bind=True, max_retries=3)
def fails_twice(self, countdown):
    """Tells how often it was tried, and when it was done."""
    if self.request.retries < 2:
        raise self.retry(countdown=countdown)
    return self.request.retries, time.time()
