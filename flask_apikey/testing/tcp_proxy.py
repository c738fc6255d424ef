"""A TCP proxy that interrupts connections to a server."""

import socket
import threading
from contextlib import suppress
from urllib.parse import urlsplit

_BLOCK = 65_536


class TCPProxy:
    """Forwards TCP connections from a local port to a server.

    Args:
        uri: The URI of the server, with one host and a port.

    Attributes:
        uri: The same URI with the address of the proxy.
    """

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        self._server = _address(uri)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._silent: set[socket.socket] = set()
        self._is_cut = False
        self._answers_until_loss = 0
        self._counting = threading.Lock()
        credentials, at, _ = parts.netloc.rpartition("@")
        port = self._listener.getsockname()[1]
        self.uri = parts._replace(netloc=f"{credentials}{at}127.0.0.1:{port}").geturl()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Close all connections, and refuse new ones until `mend`."""
        self._is_cut = True
        for each in list(self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Accept connections again."""
        self._is_cut = False

    def silence(self) -> None:
        """Forward nothing more on the open connections, and leave them open. New connections work."""
        self._silent |= self._open

    def redirect(self, uri: str) -> None:
        """Forward new connections to another server. Open connections stay as they are."""
        self._server = _address(uri)

    def lose_answer(self, number: int) -> None:
        """Close a connection instead of forwarding one of the next answers.

        Args:
            number: The number of the answer, starting at 1. Later connections work.
        """
        with self._counting:
            self._answers_until_loss = number

    @property
    def has_lost_answer(self) -> bool:
        """True if the answer set by `lose_answer` was lost."""
        return self._answers_until_loss == 0

    def close(self) -> None:
        """Close the proxy and all connections."""
        self.cut()
        # Only shutdown() wakes accept() in the other thread.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._is_cut:
                    client.close()
                    continue
                server = socket.create_connection(self._server)
                self._open |= {client, server}
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._forward, args=(source, target, server), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_BLOCK):
                if source in self._silent:
                    continue
                if source is server and self._loses_this_answer():
                    break
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._open.discard(source)
        self._silent.discard(source)
        source.close()

    def _loses_this_answer(self) -> bool:
        with self._counting:
            if self._answers_until_loss == 0:
                return False
            self._answers_until_loss -= 1
            return self._answers_until_loss == 0


def _address(uri: str) -> tuple[str, int]:
    parts = urlsplit(uri)
    if parts.hostname is None or parts.port is None:
        raise ValueError("the URI needs one host and a port")
    return parts.hostname, parts.port
