"""A Memcached server from Debian's package `memcached`."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from pymemcache import Client, MemcacheError  # type: ignore[import-untyped]  # it has no stubs

from tests.support.programs import program
from tests.support.serving import spare_port

VARIABLE = "FLASK_APIKEY_TEST_MEMCACHED"
TIMEOUT = 30


@contextmanager
def running_memcached() -> Iterator[str]:
    """Start a server, yield its URI, and kill it on exit."""
    port = spare_port()
    arguments = ["-l", "127.0.0.1", "-p", str(port), "-U", "0", "-u", "nobody"]
    process = subprocess.Popen([program(VARIABLE, "memcached"), *arguments], stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                with closing(Client(("127.0.0.1", port))) as client:
                    client.version()
            except (OSError, MemcacheError):
                assert process.poll() is None, "memcached exited"
                assert time.monotonic() < deadline, "memcached does not answer"
                time.sleep(0.02)
            else:
                break
        yield f"memcached://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
