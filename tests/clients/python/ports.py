"""Ports for brokers of the tests' own, whose addresses are known before they listen."""

import random
import socket

FIRST = 10_000


def free_port():
    """One that nothing listens on, and none of those that the system gives to whoever connects:
    such a port may be a client's by the time the broker starts."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        first_of_system = int(file.read().split()[0])
    end = first_of_system if first_of_system > FIRST else 32_768
    while True:
        port = random.randrange(FIRST, end)
        with socket.socket() as free:
            try:
                free.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
