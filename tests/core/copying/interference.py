"""Steps that happen during a copy."""


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
