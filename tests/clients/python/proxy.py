"""A TCP proxy that a test can cut: what lies behind sees the connection vanish."""

import socket
import threading
from urllib.parse import urlsplit


class Proxy:
    """Relays to the broker at `url` until `cut`; new connections are taken afterwards."""

    def __init__(self, url):
        parts = urlsplit(url)
        self._target = (parts.hostname, parts.port or 5672)
        self._pairs = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = url.replace(f"{parts.hostname}:{parts.port}", f"127.0.0.1:{port}")
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self):
        """Ends every connection now open."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            self._end(*pair)

    def close(self):
        self._listener.close()
        self.cut()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            self._pairs.append((near, far))
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._relay, args=(source, sink), daemon=True).start()

    def _relay(self, source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        self._end(source, sink)

    @staticmethod
    def _end(*sockets):
        # A close alone would wait for the other thread's read; a shutdown ends that too.
        for end in sockets:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
