"""Code as users write it, checked by mypy and pyright and never run."""  # noqa: A005  # nobody imports it
