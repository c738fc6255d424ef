"""Steps that happen during a copy."""

import signal
import subprocess
import sys


def before(monkeypatch, backend, method, step):
    """Run a step once, just before a method of a backend."""
    original = getattr(type(backend), method)

    def after_step(self, *arguments, **options):
        monkeypatch.setattr(type(backend), method, original)
        step()
        return original(self, *arguments, **options)

    monkeypatch.setattr(type(backend), method, after_step)


def killed_copy(source_uri, target_uri, method):
    """Copy with pages of two keys, and kill the process at the second call of a method of the target."""
    program = f"""
import os, signal
from flask_apikey.core.copying import keys
from flask_apikey.core.storage.contract import backend_for
keys._PAGE = 2
source, target = backend_for({source_uri!r}), backend_for({target_uri!r})
target.init_storage()
method = type(target).{method}
def killed(self, *arguments, calls=[], **options):
    calls.append(arguments)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return method(self, *arguments, **options)
type(target).{method} = killed
keys.copy_keys(source, target)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
