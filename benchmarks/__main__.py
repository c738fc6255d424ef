"""The command ``python -m benchmarks``."""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from benchmarks import backends, comparison, creates, failure_timing, junk, refusals, rotation, stored_keys, usage
from benchmarks.report import Report, environment

BENCHMARKS = ("comparison", "stored-keys", "refusals", "backends", "usage")
NAMED_ONLY = ("failure-timing", "rotation", "creates", "junk")
MAX_USAGE_KEYS = 100_000


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1, type=click.Choice((*BENCHMARKS, *NAMED_ONLY)))
@click.option(
    "--samples", type=click.IntRange(min=2), default=10_000, show_default=True, help="Timed requests of each contender."
)
@click.option(
    "--warm-up",
    type=click.IntRange(min=1),
    default=500,
    show_default=True,
    help="Requests of each contender before, not timed.",
)
@click.option(
    "--stored",
    type=click.IntRange(min=100),
    default=1_000_000,
    show_default=True,
    help="Number of stored keys in stored-keys. A million keys take about two minutes and half a gigabyte.",
)
@click.option(
    "--rotated",
    type=click.IntRange(min=1000),
    default=100_000,
    show_default=True,
    help="Number of keys that rotation re-seals.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--check", is_flag=True, help="Exit with status 1 if a target is missed.")
def main(
    names: tuple[str, ...], samples: int, warm_up: int, stored: int, rotated: int, *, as_json: bool, check: bool
) -> None:
    """Measure the cost of checking a key.

    Without NAME, run comparison, stored-keys, refusals, backends and usage. Four more
    run only if named. failure-timing tests if the time of a refusal reveals its
    reason: it takes minutes for each database, with at most 5,000 requests. rotation
    measures a rotation of the Fernet key, and requests during it. creates measures
    the creation of keys by one and by eight processes, for a second each thousand samples.
    junk measures a valid key beside junk keys, under gunicorn, for a second each
    thousand samples and server, on SQLite and PostgreSQL.

    backends and creates measure SQLite, and the servers in FLASK_APIKEY_TEST_POSTGRESQL_URI,
    FLASK_APIKEY_TEST_MYSQL_URI and FLASK_APIKEY_TEST_MONGODB_URI.
    """
    reports = []
    for name in names or BENCHMARKS:
        with TemporaryDirectory(ignore_cleanup_errors=True) as directory:
            try:
                report = _run(name, Path(directory), samples, warm_up, stored, rotated)
            except ValueError as exc:
                raise click.BadParameter(str(exc), param_hint="--stored") from exc
        reports.append(report)
        if not as_json:
            click.echo(f"{report.table()}\n")
    if as_json:
        measured = [report.to_dict() for report in reports]
        click.echo(json.dumps({"environment": environment(), "samples": samples, "benchmarks": measured}, indent=2))
    else:
        click.echo(", ".join(f"{name} {value}" for name, value in environment().items()))
    if check and not all(target.met for report in reports for target in report.targets):
        sys.exit(1)


def _run(name: str, directory: Path, samples: int, warm_up: int, stored: int, rotated: int) -> Report:
    match name:
        case "comparison":
            report = comparison.run(directory, samples, warm_up)
        case "stored-keys":
            report = stored_keys.run(directory, samples, warm_up, many=stored)
        case "usage":
            report = usage.run(directory, samples, warm_up, stored=min(stored, MAX_USAGE_KEYS))
        case "backends":
            report = backends.run(directory, samples, warm_up)
        case "failure-timing":
            report = failure_timing.run(directory, min(samples, failure_timing.SAMPLES), warm_up)
        case "rotation":
            report = rotation.run(directory, warm_up, rotated=rotated)
        case "creates":
            report = creates.run(directory, samples / 1000)
        case "junk":
            report = junk.run(directory, samples / 1000)
        case _:
            report = refusals.run(directory, samples, warm_up)
    return report


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
