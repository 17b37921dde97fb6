"""The metrics endpoint, read by Prometheus' own library."""

import gzip
import urllib.request

import pika
import pytest
from prometheus_client.parser import text_string_to_metric_families

PAGES = [
    "metrics",
    "metrics/per-object",
    "metrics/detailed",
    "metrics/detailed?family=queue_coarse_metrics&family=queue_metrics&family=exchange_names",
    "metrics/detailed?family=channel_metrics&family=queue_metrics&vhost=%2F&queue=q",
]
NAME = 'q"with\\quotes'


@pytest.fixture
def broker(start_broker):
    """Ports of a Leveret's own listeners: of AMQP and of the metrics."""
    return list(start_broker("management.metrics_listen").ports.values())


def families(port, page, coding):
    """The page's families by name; none comes twice, and none of its series."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{page}",
                                     headers={"Accept-Encoding": coding})
    with urllib.request.urlopen(request) as answer:
        body = answer.read()
        if answer.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
    found, series = {}, set()
    for family in text_string_to_metric_families(body.decode()):
        assert family.name not in found
        found[family.name] = family
        for sample in family.samples:
            key = (sample.name, *sorted(sample.labels.items()))
            assert key not in series
            series.add(key)
    return found


@pytest.mark.smoke
def test_pages_are_what_prometheus_reads(broker):
    amqp, metrics = broker
    connection = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", amqp))
    channel = connection.channel()
    channel.queue_declare(NAME)
    channel.basic_publish("", NAME, b"hello")
    channel.queue_declare(NAME, passive=True)
    declared = 1
    # The second time pages are longer than one piece of an answer.
    for queues in (1, 300):
        for index in range(declared, queues):
            channel.queue_declare(f"q{index}")
        declared = queues
        for coding in ("identity", "gzip"):
            pages = {page: families(metrics, page, coding) for page in PAGES}
            ready = {sample.labels["queue"]: sample.value for sample in
                     pages["metrics/per-object"]["rabbitmq_queue_messages_ready"].samples}
            assert len(ready) == queues and ready[NAME] == 1
            assert pages["metrics"]["rabbitmq_queue_messages_ready"].samples[0].value == 1
            detailed = pages[PAGES[3]]["rabbitmq_detailed_queue_messages_bytes"].samples
            assert sum(sample.value for sample in detailed) == len(b"hello")
    connection.close()
