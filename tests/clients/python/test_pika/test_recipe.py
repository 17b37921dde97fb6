"""The client of docs/concepts/back-pressure.md, as it stands there, at a full queue."""

import os
import pathlib
import re
import subprocess
import sys
import time

PAGE = pathlib.Path(__file__).parents[4] / "docs/concepts/back-pressure.md"
# 6,400 take a minute.
LINES = int(os.environ.get("RECIPE_LINES", "800"))
LENGTH = 400
A_SECOND = 100


def test_who_waits_as_told_is_hardly_ever_refused(channel, name, url, tmp_path, eventually):
    [program] = re.findall(r"```python amqp\n(.*?)```", PAGE.read_text(), re.DOTALL)
    arguments = {"x-max-length": LENGTH, "x-overflow": "reject-publish",
                 "x-nack-reason": "return"}
    queue = name()
    channel.queue_declare(queue, durable=True, arguments=arguments)
    lines = [f"order {number}" for number in range(LINES)]
    (tmp_path / "lines").write_text("\n".join(lines))
    with open(tmp_path / "lines") as given, open(tmp_path / "said", "w") as said:
        child = subprocess.Popen([sys.executable, "-c", program], stdin=given, stderr=said,
                                 env={**os.environ, "AMQP_URL": url, "QUEUE": queue})
    # It is taken from once it is full.
    eventually(lambda: (tmp_path / "said").stat().st_size)
    received, begun = [], time.monotonic()
    while len(received) < LINES:
        over = child.poll() is not None
        due = LINES if over else (time.monotonic() - begun) * A_SECOND
        method, _, body = channel.basic_get(queue, auto_ack=True)
        assert method or not over, (received[-1:], (tmp_path / "said").read_text())
        received += [body.decode()] if method else []
        if len(received) >= due:
            time.sleep(0.01)
    channel.queue_delete(queue)
    assert (child.wait(), received) == (0, lines)
    refused = (tmp_path / "said").read_text().count("refused")
    assert 0 < refused < 0.05 * LINES
