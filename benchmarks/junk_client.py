"""A client that sends requests as fast as it can. It runs in a process of its own, with few imports, to start fast."""

import json
import socket
import sys
import threading
import time
from collections.abc import Sequence

TIMEOUT = 60


def main() -> None:
    """Read the job, wait for a line that starts it, and print the times of all answers in nanoseconds.

    With ``"accepted": true`` only answers with status 200 count.
    """
    job = json.loads(sys.stdin.readline())
    requests = [f"GET / HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\n\r\n".encode() for key in job["keys"]]
    times: list[list[int]] = [[] for _ in range(job["connections"])]
    print("ready", flush=True)  # noqa: T201  # the parent reads it
    sys.stdin.readline()
    end = time.monotonic() + job["seconds"]
    threads = [
        threading.Thread(
            target=_send,
            args=(job["port"], requests[number :: len(times)] or requests, end),
            kwargs={"times": each, "accepted": job["accepted"]},
        )
        for number, each in enumerate(times)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps([each for of_connection in times for each in of_connection]))  # noqa: T201  # as above


def _send(port: int, requests: Sequence[bytes], end: float, *, times: list[int], accepted: bool) -> None:
    connection: socket.socket | None = None
    number = 0
    while time.monotonic() < end:
        begin = time.perf_counter_ns()
        if connection is None:
            connection = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
        connection.sendall(requests[number % len(requests)])
        number += 1
        head = answer(connection)
        if not head or b"\r\nConnection: close" in head:
            connection.close()
            connection = None
        if head.startswith(b"HTTP/1.1 200") or (head and not accepted):
            times.append(time.perf_counter_ns() - begin)
    if connection is not None:
        connection.close()


def answer(connection: socket.socket) -> bytes:
    """Receive an answer, and return its head; nothing if the server closed the connection."""
    received = b""
    while b"\r\n\r\n" not in received:
        part = connection.recv(65_536)
        if not part:
            return b""
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65_536)
    return head


if __name__ == "__main__":
    main()
