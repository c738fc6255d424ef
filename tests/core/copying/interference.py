"""Steps that happen during a copy."""

import signal
import subprocess
import sys


def owner_of(backend, path):
    """Return the object and the name of a method such as ``"add"`` or ``"history.append"``."""
    part, _, method = path.rpartition(".")
    return (getattr(backend, part) if part else backend), method


def before(monkeypatch, backend, path, step):
    """Run a step once, just before a method of a backend or of a part of it."""
    owner, method = owner_of(backend, path)
    original = getattr(owner, method)

    def after_step(*arguments, **options):
        monkeypatch.setattr(owner, method, original)
        step()
        return original(*arguments, **options)

    monkeypatch.setattr(owner, method, after_step)


def killed_copy(source_uri, target_uri, fernet_key, path):
    """Copy with pages of two keys, and kill the process before the second call of a method of the target.

    The method is named as in `owner_of`.
    """
    program = f"""
import os, signal
from flask_apikey.core.copying import keys
from flask_apikey.core.model.sealing import FernetKeyring
from flask_apikey.core.storage.registry import backend_for
from tests.core.copying.interference import owner_of
keys._PAGE = 2
source, target = backend_for({source_uri!r}), backend_for({target_uri!r})
target.init_storage()
owner, name = owner_of(target, {path!r})
method = getattr(owner, name)
def killed(*arguments, calls=[], **options):
    calls.append(arguments)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return method(*arguments, **options)
setattr(owner, name, killed)
keys.copy_keys(source, target, ring=FernetKeyring({fernet_key!r}))
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
