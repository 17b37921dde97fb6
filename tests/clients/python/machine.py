"""Whether the machine was there for a test that goes by the time: others may have had it."""

import functools
import os
import threading
import time

TRIES = 5
# Others may have so much of one core; more of it is theirs.
OTHERS_PART = 0.15
# Who sleeps is woken within this time on a machine that has nothing else to do.
LATE_S = 0.025
TICK_S = 0.005


def on_time(test):
    """Where the test fails, its failure counts only if the machine was its own meanwhile;
    otherwise it is tried again. It makes names of its own each time."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        for tries in range(1, TRIES + 1):
            watch = Watch()
            try:
                return test(*args, **kwargs)
            except Exception:
                why = watch.disturbance()
                if why is None or tries == TRIES:
                    raise
                print(f"{why}: tried again")
            finally:
                watch.stop()

    return run


class Watch:
    """Looks what else the machine does."""

    def __init__(self):
        self.begun, self.others = time.monotonic(), others_seconds()
        self.latest, self.stopped = 0.0, False
        threading.Thread(target=self._sleep, daemon=True).start()

    def stop(self):
        self.stopped = True

    def _sleep(self):
        while not self.stopped:
            asleep = time.monotonic()
            time.sleep(TICK_S)
            self.latest = max(self.latest, time.monotonic() - asleep - TICK_S)

    def disturbance(self):
        """What kept the test from the machine since the start; None if nothing did."""
        elapsed = time.monotonic() - self.begun
        others = (others_seconds() - self.others) / elapsed
        if others > OTHERS_PART or self.latest > LATE_S:
            late_ms = self.latest * 1000
            return f"others had {others:.1f} cores, who slept woke up to {late_ms:.0f} ms late"
        return None


def others_seconds():
    """Processor time of all but this process group so far, other machines on this one's processors
    among them."""
    with open("/proc/stat") as file:
        numbers = [int(field) for field in file.readline().split()[1:]]
    # user, nice, system; irq, softirq, steal: without idle and iowait, and guests count as user.
    ticks = sum(numbers[index] for index in (0, 1, 2, 5, 6, 7)) - ticks_of_group()
    return ticks / os.sysconf("SC_CLK_TCK")


def ticks_of_group():
    ticks = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as file:
                # The name may have whatever characters it likes.
                fields = file.read().rpartition(") ")[2].split()
        except OSError:
            continue
        if int(fields[2]) == os.getpgrp():
            # Its children that have ended count with this process only.
            used = fields[11:15] if int(pid) == os.getpid() else fields[11:13]
            ticks += sum(map(int, used))
    return ticks
