"""Tables of other systems: adopted rows open what they opened there, and nothing else. The names are made up."""

import csv
from datetime import datetime, timezone
from pathlib import Path

import pytest

SAMPLES = Path(__file__).parent / "samples"
CODES = {"accepted": None, "revoked": "key_revoked", "expired": "key_expired", "refused": "invalid_key"}


def rows_of(name):
    with (SAMPLES / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def moment(text):
    # PostgreSQL writes the zone as +00, which Python 3.10 does not read. All samples are in UTC.
    text = text.removesuffix("Z").removesuffix("+00")
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc) if text else None


@pytest.mark.parametrize("form", ["sha256-hex", "sha256-hex-sk_live", "sha512-hex"])
def test_table(scene, form):
    scene.clock.set(moment("2026-11-29T16:00:00"))
    for row in rows_of(f"{form}.csv"):
        expires_at = moment(row["expires_at"])
        record = scene.do(
            "adopt",
            digest=row["digest"],
            algorithm=form.partition("-")[0],
            name=row["name"],
            owner=row["owner"] or None,
            created_at=moment(row["created_at"]),
            **({"lifetime": None} if expires_at is None else {"expires_at": expires_at}),
        )
        if row["revoked"] in {"true", "1", "t"}:
            scene.do("revoke", record.id)
    presented = rows_of(f"{form}.keys.csv")
    assert len(presented) == 8
    assert [scene.code(each["key"]) for each in presented] == [CODES[each["expected"]] for each in presented]
