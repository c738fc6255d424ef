"""Servers of one process, each on a Unix socket of its own in the current directory: ``<name>.sock``."""

from threading import Thread

import waitress
from werkzeug.serving import make_server

from example_app import create_app

PROXIES = ["127.0.0.1", "unix"]
HEADERS = {"x-forwarded-for", "x-forwarded-proto"}


def main() -> None:
    """Serve until the process is ended."""
    declared = create_app({"APIKEY_TRUSTED_PROXIES": PROXIES})
    undeclared = create_app({"APIKEY_TRUSTED_PROXIES": []})
    servers = [
        waitress.create_server(declared, unix_socket="waitress.sock", clear_untrusted_proxy_headers=False),
        waitress.create_server(declared, unix_socket="waitress-as-it-comes.sock"),
        waitress.create_server(
            undeclared,
            unix_socket="waitress-that-reads.sock",
            trusted_proxy="localhost",
            trusted_proxy_headers=HEADERS,
        ),
    ]
    threads = [Thread(target=server.run, daemon=True) for server in servers]
    threads.append(Thread(target=make_server("unix://werkzeug.sock", 0, declared).serve_forever, daemon=True))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
