"""The command."""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from benchmarks import backends, comparison, failure_timing, refusals, rotation, stored_keys, usage
from benchmarks.report import Report, environment

BENCHMARKS = ("comparison", "stored-keys", "refusals", "backends", "usage")
MOST_COUNTED = 100_000


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1, type=click.Choice((*BENCHMARKS, "failure-timing", "rotation")))
@click.option(
    "--samples", type=click.IntRange(min=2), default=10_000, show_default=True, help="Calls of each contender."
)
@click.option("--warm-up", type=click.IntRange(min=1), default=500, show_default=True, help="Calls before, not timed.")
@click.option(
    "--stored",
    type=click.IntRange(min=100),
    default=1_000_000,
    show_default=True,
    help="What stored-keys calls many. To store a million takes about two minutes and half a gigabyte.",
)
@click.option(
    "--rotated",
    type=click.IntRange(min=1000),
    default=100_000,
    show_default=True,
    help="So many keys rotation re-seals.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--check", is_flag=True, help="Exit with 1 when a target is missed.")
def main(
    names: tuple[str, ...], samples: int, warm_up: int, stored: int, rotated: int, *, as_json: bool, check: bool
) -> None:
    """Time what a check costs: comparison, stored-keys, refusals, backends, usage, or all of them.

    Or, only when it is named, failure-timing: whether the time of a refusal tells its
    reason. It takes some minutes for each database, with 5,000 calls at most. And likewise
    rotation: how long a rotation of the Fernet key takes, and requests meanwhile.

    Servers take part in backends when FLASK_APIKEY_TEST_POSTGRESQL_URI,
    FLASK_APIKEY_TEST_MYSQL_URI and FLASK_APIKEY_TEST_MONGODB_URI name them.
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
            report = usage.run(directory, samples, warm_up, stored=min(stored, MOST_COUNTED))
        case "backends":
            report = backends.run(directory, samples, warm_up)
        case "failure-timing":
            report = failure_timing.run(directory, min(samples, failure_timing.SAMPLES), warm_up)
        case "rotation":
            report = rotation.run(directory, warm_up, rotated=rotated)
        case _:
            report = refusals.run(directory, samples, warm_up)
    return report


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
