"""Headless Chromium, driven through the pipes of its DevTools protocol without a library.

The protocol: https://chromedevtools.github.io/devtools-protocol/
"""

import base64
import fcntl
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, BinaryIO

# File descriptors at which the browser expects the pipes.
_COMMANDS, _EVENTS = 3, 4
_FLAGS = (
    "--headless",
    "--no-sandbox",  # Chromium needs this to run as root, and opens only our own pages
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
_PHONE_WIDTH = 600
_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    """Find the path of an installed Chromium."""
    return next(filter(None, map(shutil.which, _PROGRAMS)), None)


class Page:
    """Tab of a browser.

    Attributes:
        events: Received events, each with ``method`` and ``params``.
    """

    def __init__(self, commands: BinaryIO, events: BinaryIO) -> None:
        self._commands = commands
        self._events = events
        self._received = b""
        self._ids = count(1)
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol and wait for its result."""
        number = next(self._ids)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def open(self, url: str, *, width: int = 1280, height: int = 800, scheme: str = "light") -> None:
        """Load a page with a window size and a preferred colour scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < _PHONE_WIDTH,
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events.clear()
        self.call("Page.navigate", url=url)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def evaluate(self, expression: str) -> Any:
        """Evaluate a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(str(result["exceptionDetails"]))
        return result["result"].get("value")

    def screenshot(self) -> bytes:
        """Capture the whole page as PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        return base64.b64decode(shot["data"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            chunk = self._events.read(1 << 16)
            if not chunk:
                raise RuntimeError("the browser has ended")
            self._received += chunk
        message, _, self._received = self._received.partition(b"\0")
        parsed: dict[str, Any] = json.loads(message)
        return parsed


@contextmanager
def browsing(program: str) -> Iterator[Page]:
    """Start a browser with a temporary profile, and yield a page."""
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        commands, to_browser = os.pipe()
        from_browser, events = os.pipe()
        # Our pipes may have the descriptors 3 or 4, which the spawn below overwrites in the child.
        high_commands, high_events = (
            fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, _EVENTS + 1) for each in (commands, events)
        )
        process = os.posix_spawn(
            program,
            [program, *_FLAGS, f"--user-data-dir={profile}"],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, high_commands, _COMMANDS),
                (os.POSIX_SPAWN_DUP2, high_events, _EVENTS),
            ],
            setpgroup=0,
        )
        for each in (commands, events, high_commands, high_events):
            os.close(each)
        try:
            with (
                os.fdopen(to_browser, "wb", buffering=0) as sent,
                os.fdopen(from_browser, "rb", buffering=0) as received,
            ):
                yield Page(sent, received)
        finally:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
