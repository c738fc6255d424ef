"""Contract of `Backend.usage`."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from datetime import timedelta
from random import Random
from threading import Barrier
from typing import Any

import pytest

from flask_apikey.core.errors import StorageError
from flask_apikey.core.model.keystring import new_id
from flask_apikey.core.model.usage import (
    DAY,
    MAX_ENDPOINT_BYTES,
    MAX_ENDPOINT_LENGTH,
    MAX_METHOD_LENGTH,
    MAX_REFUSAL_LENGTH,
    MAX_STATUS_LENGTH,
    MAX_WRITER_LENGTH,
    PREVIOUS_SECRET,
    LastUse,
    UsageBatch,
    UsageField,
    UsageFilter,
    UsageLabel,
    UsageOutcome,
    UsageRow,
)
from flask_apikey.core.model.validation import MAX_OWNER_LENGTH
from flask_apikey.core.storage.contract import Backend, UsageStore
from flask_apikey.core.times import to_microseconds
from flask_apikey.core.usage.last_use import current_secret
from flask_apikey.testing.contracts.fixtures import ContractFixtures
from flask_apikey.testing.races import Race
from flask_apikey.testing.samples import NOW, stored_key
from flask_apikey.testing.tcp_proxy import TCPProxy

_RACERS = 16
_ROUNDS = 10
_MIDNIGHT = 20_000 * DAY
_EVERYTHING = UsageFilter()


def label_of(key_id: str, hour: int = _MIDNIGHT, endpoint: str = "/books", **values: Any) -> UsageLabel:
    """Create a label with these values, and defaults for all others."""
    return UsageLabel(**{"method": "GET", "status": "2xx", **values}, key_id=key_id, hour=hour, endpoint=endpoint)


def batch_of(
    counts: Mapping[UsageLabel, int], last_uses: Sequence[LastUse] = (), *, writer: str | None = None, number: int = 1
) -> UsageBatch:
    """Create a batch, by default of a new writer."""
    rows = [UsageRow(label, count) for label, count in counts.items()]
    return UsageBatch(writer or new_id(), number, rows, last_uses, NOW)


def counts_in(storage: UsageStore) -> dict[UsageLabel, int]:
    """Return all counts by label."""
    return {row.label: row.count for row in storage.all_rows()}


def usage_of(backend: Backend) -> UsageStore:
    """Return the usage store of a backend that must have one."""
    assert backend.usage is not None
    return backend.usage


class UsageContract(ContractFixtures):
    """Tests for the usage of a backend. For the fixtures see `BackendContract`."""

    @pytest.fixture
    def usage(self, backend: Backend) -> UsageStore:
        """The usage store of the backend."""
        return usage_of(backend)

    def test_sum_by_each_field(self, usage: UsageStore) -> None:
        one, other = new_id(), new_id()
        first = {
            label_of(one): 1,
            label_of(one, _MIDNIGHT + 1): 2,
            label_of(one, _MIDNIGHT + 1, status="5xx"): 4,
            label_of(other, _MIDNIGHT + 1, "/authors", method="POST"): 8,
        }
        second = {label_of(one): 16, label_of(other, _MIDNIGHT + 25): 32}
        usage.add(batch_of(first))
        usage.add(batch_of(second))
        assert usage.sum(UsageField.KEY, _EVERYTHING) == {one: 23, other: 40}
        assert usage.sum(UsageField.HOUR, _EVERYTHING) == {
            _MIDNIGHT: 17,
            _MIDNIGHT + 1: 14,
            _MIDNIGHT + 25: 32,
        }
        assert usage.sum(UsageField.ENDPOINT, _EVERYTHING) == {"/books": 55, "/authors": 8}
        assert usage.sum(UsageField.METHOD, _EVERYTHING) == {"GET": 55, "POST": 8}
        assert usage.sum(UsageField.STATUS, _EVERYTHING) == {"2xx": 59, "5xx": 4}
        assert counts_in(usage) == {**first, **second, label_of(one): 17}

    def test_totals_by_several_fields(self, usage: UsageStore) -> None:
        one, other = new_id(), new_id()
        usage.add(
            batch_of(
                {
                    label_of(one): 1,
                    label_of(one, _MIDNIGHT + 1): 2,
                    label_of(one, method="POST", status="5xx"): 4,
                    label_of(other): 8,
                    label_of(other, endpoint="/authors"): 16,
                    label_of(other, status="", reason="revoked"): 32,
                    label_of(other, endpoint="/authors", status="", reason="revoked"): 64,
                }
            )
        )
        key, hour, endpoint = UsageField.KEY, UsageField.HOUR, UsageField.ENDPOINT
        assert usage.totals([key, endpoint, UsageField.METHOD, UsageField.STATUS], _EVERYTHING) == {
            (one, "/books", "GET", "2xx"): 3,
            (one, "/books", "POST", "5xx"): 4,
            (other, "/books", "GET", "2xx"): 8,
            (other, "/authors", "GET", "2xx"): 16,
        }
        assert usage.totals([hour, key], UsageFilter(key_ids=[one, *(new_id() for _ in range(1_500))])) == {
            (_MIDNIGHT, one): 5,
            (_MIDNIGHT + 1, one): 2,
        }
        refused = UsageFilter(outcome=UsageOutcome.REFUSED)
        assert usage.totals([key, UsageField.REASON], refused) == {(other, "revoked"): 96}
        assert usage.sum(UsageField.KEY, refused) == {other: 96}

    def test_requests_of_report_mode_are_apart(self, usage: UsageStore) -> None:
        """They have a status and a reason, and no key unless it was proven."""
        one = new_id()
        passed = {
            label_of("", reason="missing"): 1,
            label_of("", _MIDNIGHT + 1, reason="missing"): 2,
            label_of("", endpoint="/authors", status="5xx", reason="unknown"): 4,
            label_of(one, owner="team-7", reason="revoked"): 8,
        }
        others = {label_of(one, owner="team-7"): 16, label_of(one, owner="team-7", status="", reason="revoked"): 32}
        usage.add(batch_of({**passed, **others}))
        assert counts_in(usage) == {**passed, **others}
        fields = [UsageField.REASON, UsageField.ENDPOINT, UsageField.KEY, UsageField.OWNER]
        would_refuse = UsageFilter(outcome=UsageOutcome.WOULD_REFUSE)
        for _ in range(2):
            assert usage.totals(fields, would_refuse) == {
                ("missing", "/books", "", ""): 3,
                ("unknown", "/authors", "", ""): 4,
                ("revoked", "/books", one, "team-7"): 8,
            }
            assert usage.sum(UsageField.KEY, replace(would_refuse, owner="team-7")) == {one: 8}
            assert usage.sum(UsageField.KEY, replace(would_refuse, key_ids=[one])) == {one: 8}
            assert usage.sum(UsageField.KEY, _EVERYTHING) == {one: 16}
            assert usage.sum(UsageField.KEY, UsageFilter(outcome=UsageOutcome.REFUSED)) == {one: 32}
            assert usage.endpoints("", limit=5) == {"/books", "/authors"}
            usage.fold(before=_MIDNIGHT + 2 * DAY)
        assert usage.prune(before=_MIDNIGHT + 2 * DAY) == 5

    def test_sum_with_all_conditions(self, usage: UsageStore) -> None:
        one, other = new_id(), new_id()
        hours = range(_MIDNIGHT - 2, _MIDNIGHT + 3)
        usage.add(batch_of({label_of(one, hour): 1 << number for number, hour in enumerate(hours)}))
        usage.add(batch_of({label_of(other, hour): 100 for hour in hours}))

        def total(**conditions: Any) -> int:
            return sum(usage.sum(UsageField.ENDPOINT, UsageFilter(**conditions)).values())

        assert total() == 531
        assert total(since=_MIDNIGHT) == 328
        assert total(until=_MIDNIGHT) == 203
        assert total(key_ids=[one]) == 31
        assert total(key_ids=[one], since=_MIDNIGHT - 1, until=_MIDNIGHT + 1) == 6
        assert total(key_ids=[one, other], since=_MIDNIGHT + 2) == 116
        assert total(key_ids=[one], since=_MIDNIGHT + 3) == 0
        assert total(key_ids=[]) == 0
        assert total(key_ids=[new_id()]) == 0
        assert total(outcome=UsageOutcome.REFUSED) == 0

    def test_sum_of_owners(self, usage: UsageStore) -> None:
        one, other = new_id(), new_id()
        usage.add(
            batch_of(
                {
                    label_of(one): 1,
                    label_of(one, owner="team-7"): 2,
                    label_of(one, _MIDNIGHT + 30, owner="team-7"): 4,
                    label_of(one, owner="team-8"): 8,
                    label_of(other, owner="team-7"): 16,
                    label_of(other, owner="Team-7"): 32,
                    label_of(other, owner="team-7", status="", reason="expired"): 64,
                }
            )
        )

        def totals(**conditions: Any) -> Mapping[str | int, int]:
            return usage.sum(UsageField.OWNER, UsageFilter(**conditions))

        for _ in range(2):
            assert totals() == {"": 1, "team-7": 22, "Team-7": 32, "team-8": 8}
            assert totals(owner="team-7") == {"team-7": 22}
            assert totals(owner="") == {"": 1}
            assert totals(owner="team-9") == {}
            assert totals(owner="team-7", key_ids=[one]) == {"team-7": 6}
            assert totals(owner="team-7", until=_MIDNIGHT + DAY) == {"team-7": 18}
            assert totals(owner="team-7", outcome=UsageOutcome.REFUSED) == {"team-7": 64}
            by_key = usage.totals([UsageField.KEY, UsageField.OWNER], UsageFilter(owner="team-7"))
            assert by_key == {(one, "team-7"): 6, (other, "team-7"): 16}
            usage.fold(before=_MIDNIGHT + 2 * DAY)

    def test_sum_over_many_keys(self, usage: UsageStore) -> None:
        key_ids = [new_id() for _ in range(600)]
        usage.add(batch_of({label_of(key_id): 1 for key_id in key_ids}, [_use(key_id) for key_id in key_ids]))
        asked = [*key_ids[:-1], *key_ids[:300], *(new_id() for _ in range(2_500))]
        assert usage.sum(UsageField.KEY, UsageFilter(key_ids=asked)) == dict.fromkeys(key_ids[:-1], 1)
        assert usage.sum(UsageField.STATUS, UsageFilter(key_ids=asked)) == {"2xx": 599}
        assert sorted(use.key_id for use in usage.last_uses(asked)) == sorted(key_ids[:-1])

    def test_counts_beyond_32_bits(self, usage: UsageStore) -> None:
        key_id = new_id()
        for number in range(3):
            usage.add(batch_of({label_of(key_id): 2**31 - 1, label_of(key_id, _MIDNIGHT + number): 2**40}))
        assert usage.sum(UsageField.KEY, _EVERYTHING) == {key_id: 3 * (2**31 - 1 + 2**40) - 2**31 + 1}

    def test_labels_are_compared_exactly(self, usage: UsageStore) -> None:
        key_id = "a" * len(new_id())
        endpoints = [
            "/books",
            "/Books",
            "/büch",
            "/bu\u0308ch",
            "/buch",
            "/日本/<id>",
            "/🔑",
            "/a b",
            "/%20 %",
            "(other)",
        ]
        labels = [label_of(key_id, endpoint=endpoint) for endpoint in endpoints]
        labels += [label_of(key_id.upper()), label_of(key_id, method="get"), label_of(key_id, method="G ET")]
        labels += [label_of(key_id, method="G%20ET"), label_of(key_id, status="", reason="2xx")]
        labels += [label_of(key_id, method="a b", status="c"), label_of(key_id, method="a", status="b c")]
        labels += [label_of(key_id, owner=owner) for owner in ("a", "A", "ä", "2xx", "a b", "a%20b")]
        longest = label_of(
            key_id,
            endpoint="🔑" * MAX_ENDPOINT_LENGTH,
            method="🔑" * MAX_METHOD_LENGTH,
            status="🔑" * MAX_STATUS_LENGTH,
            reason="🔑" * MAX_REFUSAL_LENGTH,
            owner="🔑" * MAX_OWNER_LENGTH,
        )
        # Incompressible, unlike the longest: a database may compress what it cannot index otherwise.
        draw = Random(7)  # noqa: S311  # no secret
        endpoint, method, reason, owner = (
            "".join(chr(draw.randrange(0x20000, 0x2A000)) for _ in range(length))
            for length in (MAX_ENDPOINT_BYTES // 4, MAX_METHOD_LENGTH, MAX_REFUSAL_LENGTH, MAX_OWNER_LENGTH)
        )
        labels += [
            longest,
            longest._replace(endpoint=longest.endpoint[:-1] + "✓"),
            longest._replace(owner=longest.owner[:-1] + "✓"),
            longest._replace(endpoint=endpoint, method=method, reason=reason, owner=owner),
        ]
        counts = {label: 1 << number for number, label in enumerate(labels)}
        batch = batch_of(counts, writer="w" * MAX_WRITER_LENGTH)
        for each in (batch, batch, batch_of(counts)):
            usage.add(each)
        assert counts_in(usage) == {label: 2 * count for label, count in counts.items()}

    def test_add_is_idempotent(self, usage: UsageStore) -> None:
        key_id, writer = new_id(), new_id()
        hours = {label_of(key_id, _MIDNIGHT + hour): hour for hour in range(1, 30)}
        first = batch_of(hours, [_use(key_id)], writer=writer)
        second = batch_of({label_of(key_id, _MIDNIGHT + 1): 100}, writer=writer, number=2)
        usage.add(first)
        usage.add(first)
        assert counts_in(usage) == hours
        usage.add(second)
        for repeated in (second, first, second):
            usage.add(repeated)
        assert counts_in(usage) == {**hours, label_of(key_id, _MIDNIGHT + 1): 101}
        assert len(usage.last_uses([key_id])) == 1

    def test_batch_numbers_with_gaps(self, usage: UsageStore) -> None:
        label, writer = label_of(new_id()), new_id()
        for number in (7, 9, 9, 1_000_000_000_000):
            usage.add(batch_of({label: 1}, writer=writer, number=number))
        usage.add(batch_of({label: 1}, number=7))
        usage.add(batch_of({}))
        assert counts_in(usage) == {label: 4}

    def test_latest_use_wins(self, usage: UsageStore) -> None:
        one, other = new_id(), new_id()
        second = timedelta(seconds=1)
        usage.add(batch_of({}, [_use(one, address="192.0.2.1"), _use(other, address=None)]))
        usage.add(batch_of({}, [_use(one, at=NOW - second, address="192.0.2.2")]))
        assert set(usage.last_uses([one])) == {_use(one, address="192.0.2.1")}
        usage.add(batch_of({}, [_use(one, at=NOW + second, address=None)]))
        usage.add(batch_of({}, [_use(one, at=NOW, address="192.0.2.3")]))
        earlier = _use(one, secret=PREVIOUS_SECRET, at=NOW - second, address="2001:db8:1111:2222:3333:4444:5555:6666")
        usage.add(batch_of({}, [earlier]))
        assert set(usage.last_uses([other, one, other])) == {
            _use(one, at=NOW + second, address=None),
            earlier,
            _use(other, address=None),
        }
        assert list(usage.last_uses([])) == list(usage.last_uses([new_id()])) == []

    def test_endpoints_up_to_a_limit(self, usage: UsageStore) -> None:
        key_id = new_id()
        endpoints = {f"/{number}" for number in range(20)}
        usage.add(batch_of({label_of(key_id, _MIDNIGHT + hour, each): 1 for each in endpoints for hour in (0, 1)}))
        usage.add(batch_of({label_of(new_id(), endpoint="/another"): 1}))
        assert usage.endpoints(key_id, limit=100) == endpoints
        some = usage.endpoints(key_id, limit=7)
        assert len(some) == 7
        assert some < endpoints
        assert usage.endpoints(new_id(), limit=7) == set()

    @pytest.mark.parametrize("limit", [1, 7, 1_000])
    def test_rows_are_ordered_by_label(self, usage: UsageStore, limit: int) -> None:
        key_ids = ["a" * 16, "B" * 16, "Ab" * 8]
        hours = [_MIDNIGHT + hour for hour in (-1, 5, DAY)]
        labels = [
            label_of(key_id, hour, endpoint, method=method, status=status, reason=reason, owner=owner)
            for key_id in key_ids
            for hour in hours
            for endpoint in ("/b", "/B", "/é", "/😀", "/\uffee")
            for method, status, reason in (("GET", "2xx", ""), ("DELETE", "", "expired"))
            for owner in ("b", "B", "")
        ]
        usage.add(batch_of(dict.fromkeys(labels, 1)))
        usage.fold(before=_MIDNIGHT)
        usage.add(batch_of({label_of(key_ids[0], _MIDNIGHT - DAY, "/b"): 5}))
        read: list[UsageLabel] = []
        while page := usage.rows(after=read[-1] if read else None, limit=limit):
            assert len(page) <= limit
            read += [row.label for row in page]
        assert read == sorted(read)
        assert len(read) == len(labels) + 1
        assert [row.label for row in usage.all_rows()] == read

    def test_fold_keeps_sums(self, usage: UsageStore) -> None:
        one, other = new_id(), new_id()
        counts = {label_of(key_id, _MIDNIGHT + hour): hour + 100 for key_id in (one, other) for hour in range(-30, 30)}
        refused = label_of(one, _MIDNIGHT - 3, status="", reason="expired")
        usage.add(batch_of({**counts, refused: 9, refused._replace(hour=_MIDNIGHT - 4): 2}))
        by_key = usage.sum(UsageField.KEY, _EVERYTHING)
        assert usage.fold(before=_MIDNIGHT + 20) == 62
        in_day = label_of(one, _MIDNIGHT - DAY, span=DAY)
        folded = {label: count for label, count in counts.items() if label.hour >= _MIDNIGHT} | {
            in_day: sum(range(100 - DAY, 100)),
            in_day._replace(key_id=other): sum(range(100 - DAY, 100)),
            in_day._replace(hour=_MIDNIGHT - 2 * DAY): sum(range(70, 100 - DAY)),
            in_day._replace(hour=_MIDNIGHT - 2 * DAY, key_id=other): sum(range(70, 100 - DAY)),
            in_day._replace(status="", reason="expired"): 11,
        }
        assert counts_in(usage) == folded
        assert usage.sum(UsageField.KEY, _EVERYTHING) == by_key
        assert usage.sum(UsageField.HOUR, UsageFilter(key_ids=[one], until=_MIDNIGHT)) == {
            _MIDNIGHT - DAY: sum(range(100 - DAY, 100)),
            _MIDNIGHT - 2 * DAY: sum(range(70, 100 - DAY)),
        }
        assert usage.fold(before=_MIDNIGHT + 20) == 0
        assert counts_in(usage) == folded

    def test_fold_again_after_late_counts(self, usage: UsageStore) -> None:
        label = label_of(new_id(), _MIDNIGHT + 5)
        for _ in range(2):
            usage.add(batch_of({label: 7}))
            usage.fold(before=_MIDNIGHT + DAY)
        usage.add(batch_of({label: 1}))
        in_day = label._replace(hour=_MIDNIGHT, span=DAY)
        assert counts_in(usage) == {in_day: 14, label: 1}
        assert usage.sum(UsageField.KEY, _EVERYTHING) == {label.key_id: 15}
        assert usage.fold(before=_MIDNIGHT + DAY) == 1
        assert counts_in(usage) == {in_day: 15}

    def test_prune_removes_ended_hours_and_days(self, usage: UsageStore) -> None:
        key_id = new_id()
        hours = [_MIDNIGHT + hour for hour in range(-DAY, 2 * DAY, 6)]
        usage.add(batch_of({label_of(key_id, hour): 1 for hour in hours}, [_use(key_id)]))
        usage.fold(before=_MIDNIGHT + DAY)
        assert usage.prune(before=_MIDNIGHT - 1) == 0
        assert usage.prune(before=_MIDNIGHT + DAY - 1) == 1
        assert set(counts_in(usage)) == {
            label_of(key_id, _MIDNIGHT, span=DAY),
            *(label_of(key_id, hour) for hour in hours[-4:]),
        }
        assert usage.prune(before=_MIDNIGHT + DAY + 7) == 3
        assert counts_in(usage) == dict.fromkeys([label_of(key_id, hour) for hour in hours[-2:]], 1)
        assert usage.prune(before=_MIDNIGHT + 9 * DAY) == 2
        assert counts_in(usage) == {}
        assert usage.endpoints(key_id, limit=1) == set()
        assert len(usage.last_uses([key_id])) == 1

    def test_fold_last_uses(self, backend: Backend, usage: UsageStore) -> None:
        second = timedelta(seconds=1)
        rolled, unrolled, unused = stored_key(rolled_at=NOW + second), stored_key(), stored_key(rolled_at=NOW + second)
        pruned = stored_key(pruned_at=NOW)
        backend.add_many([rolled, unrolled, unused, pruned])
        one, other, third = (key.record.id for key in (rolled, unrolled, unused))
        # The last one is from a clock that was ahead and was then corrected.
        secrets = [to_microseconds(moment) for moment in (NOW, NOW + second / 3, NOW + second / 2, NOW + 9 * second)]
        earlier = [_use(one, secret=secret, at=NOW - number * second) for number, secret in enumerate(secrets)]
        earlier[1] = replace(earlier[1], at=NOW + 7 * second, address="2001:db8::1")
        present = _use(one, secret=current_secret(rolled.record), at=NOW + second)
        of_unrolled = _use(other, secret=current_secret(unrolled.record))
        of_unused = [_use(third, secret=PREVIOUS_SECRET, at=NOW + second), _use(third, secret=1, address=None)]
        ended = (PREVIOUS_SECRET, 1, current_secret(pruned.record))
        gone = [_use(key_id, secret=secret) for key_id in (new_id(), pruned.record.id) for secret in ended]
        usage.add(batch_of({}, [*earlier, present, of_unrolled, *of_unused, *gone]))
        left = {present, replace(earlier[1], secret=PREVIOUS_SECRET), of_unrolled, of_unused[0]}
        for _ in range(2):
            usage.fold_last_uses()
            assert set(usage.last_uses([one, other, third, *(use.key_id for use in gone)])) == left
        late = _use(one, secret=secrets[0], at=NOW + 8 * second)
        usage.add(batch_of({}, [late]))
        assert late in usage.last_uses([one])
        usage.fold_last_uses()
        assert set(usage.last_uses([one])) == {present, replace(late, secret=PREVIOUS_SECRET)}

    def test_fold_of_hundreds_of_last_uses(self, backend: Backend, usage: UsageStore) -> None:
        keys = [stored_key() for _ in range(2)]
        backend.add_many(keys)
        secrets = range(1, 261)
        uses = [_use(key.record.id, secret=each, at=NOW + timedelta(seconds=each)) for key in keys for each in secrets]
        uses += [_use(new_id()) for _ in range(20)]
        usage.add(batch_of({}, uses))
        usage.fold_last_uses()
        latest = NOW + timedelta(seconds=secrets[-1])
        assert set(usage.last_uses([use.key_id for use in uses])) == {
            _use(key.record.id, secret=PREVIOUS_SECRET, at=latest) for key in keys
        }

    def test_fold_loses_no_concurrent_last_use(self, backend: Backend, usage: UsageStore) -> None:
        keys = [stored_key() for _ in range(20)]
        backend.add_many(keys)
        later = NOW + timedelta(seconds=1)
        for key in keys:
            old, present = (_use(key.record.id, secret=secret) for secret in (1, current_secret(key.record)))
            usage.add(batch_of({}, [old]))
            used = batch_of({}, [replace(old, at=later), present])
            with ThreadPoolExecutor(3) as pool:
                work = [pool.submit(usage.add, used), *(pool.submit(usage.fold_last_uses) for _ in range(2))]
                for each in work:
                    each.result()
            usage.fold_last_uses()
            assert set(usage.last_uses([key.record.id])) == {replace(old, secret=PREVIOUS_SECRET, at=later), present}

    def test_put_replaces_counts_and_keeps_later_uses(self, usage: UsageStore) -> None:
        key_id = new_id()
        hours = [label_of(key_id, _MIDNIGHT + hour) for hour in range(40)]
        day = label_of(key_id, _MIDNIGHT - DAY, span=DAY)
        usage.add(batch_of({hours[0]: 10, hours[1]: 20}, [_use(key_id, address="192.0.2.1")]))
        counts = {**dict.fromkeys(hours[1:], 21), hours[2]: 2**40, day: 5}
        rows = [UsageRow(label, count) for label, count in counts.items()]
        later = _use(key_id, at=NOW + timedelta(hours=1), address="192.0.2.2")
        earlier = _use(key_id, at=NOW - timedelta(hours=1), address="192.0.2.3")
        usage.put(rows, [earlier])
        assert list(usage.last_uses([key_id])) == [_use(key_id, address="192.0.2.1")]
        usage.put(rows, [later])
        assert list(usage.last_uses([key_id])) == [later]
        usage.put([], [])
        assert counts_in(usage) == {hours[0]: 10, **counts}

    def test_concurrent_adds_of_one_batch_count_once(self, usage: UsageStore) -> None:
        key_id, writer = new_id(), new_id()
        labels = [label_of(key_id, _MIDNIGHT + hour) for hour in range(3)]
        barrier = Barrier(4, timeout=60)

        def send(batches: Sequence[UsageBatch]) -> None:
            for batch in batches:
                barrier.wait()
                usage.add(batch)

        batches = [batch_of(dict.fromkeys(labels, 1), writer=writer, number=number) for number in range(1, 11)]
        with ThreadPoolExecutor(4) as pool:
            for sent in [pool.submit(send, batches) for _ in range(4)]:
                sent.result()
        assert counts_in(usage) == dict.fromkeys(labels, 10)

    def test_fold_loses_no_concurrent_count(self, usage: UsageStore) -> None:
        labels = [label_of(new_id(), _MIDNIGHT + hour) for hour in range(4)]

        def count(writer: str) -> None:
            for number in range(1, 11):
                usage.add(batch_of(dict.fromkeys(labels, 1), writer=writer, number=number))

        def fold(_: object) -> None:
            for _ in range(10):
                usage.fold(before=_MIDNIGHT + DAY)

        with ThreadPoolExecutor(5) as pool:
            work = [pool.submit(count, new_id()) for _ in range(3)] + [pool.submit(fold, None) for _ in range(2)]
            for each in work:
                each.result()
        assert usage.sum(UsageField.KEY, _EVERYTHING) == {label.key_id: 30 for label in labels}
        usage.fold(before=_MIDNIGHT + DAY)
        assert counts_in(usage) == {label._replace(hour=_MIDNIGHT, span=DAY): 30 for label in labels}

    def test_concurrent_processes_count_exactly(self, usage: UsageStore, race: Race) -> None:
        key_ids = [new_id() for _ in range(3)]
        assert race(_count, [(key_ids,)] * _RACERS) == [_ROUNDS] * _RACERS
        assert counts_in(usage) == dict.fromkeys(_labels(key_ids), _RACERS * _ROUNDS)
        uses = {use.key_id: use for use in usage.last_uses(key_ids)}
        assert {use.at for use in uses.values()} == {NOW + timedelta(seconds=_ROUNDS)}
        assert sorted(uses) == sorted(key_ids)

    def test_lost_answers_neither_lose_nor_repeat_counts(
        self, backend: Backend, usage: UsageStore, server_uri: str | None
    ) -> None:
        if server_uri is None:
            pytest.skip("there is no server whose answers could get lost")
        key_id, writer = new_id(), new_id()
        labels = [label_of(key_id, _MIDNIGHT + hour) for hour in range(2)]
        proxy = TCPProxy(server_uri)
        number, lost = 0, 0
        with closing(proxy), closing(type(backend).from_uri(proxy.uri)) as connected:
            remote = usage_of(connected)
            remote.add(batch_of({}))
            while True:
                number += 1
                batch = batch_of(dict.fromkeys(labels, 1), [_use(key_id)], writer=writer, number=number)
                proxy.lose_answer(number)
                with suppress(StorageError):
                    remote.add(batch)
                if not proxy.has_lost_answer:
                    break
                lost += 1
                _add_with_retries(remote, batch)
            proxy.lose_answer(1)
            with suppress(StorageError):
                assert remote.sum(UsageField.KEY, _EVERYTHING) == {key_id: 2 * number}
        # Every answer was lost once before the last batch succeeded.
        assert lost > 0
        assert counts_in(usage) == dict.fromkeys(labels, number)


def _use(key_id: str, **values: Any) -> LastUse:
    return LastUse(**{"secret": 1_700_000_000_000_000, "at": NOW, "address": "192.0.2.7", **values}, key_id=key_id)


def _labels(key_ids: Sequence[str]) -> list[UsageLabel]:
    return [label_of(key_id, _MIDNIGHT + hour) for key_id in key_ids for hour in range(2)]


def _add_with_retries(storage: UsageStore, batch: UsageBatch) -> None:
    for _ in range(5):
        with suppress(StorageError):
            return storage.add(batch)
    raise AssertionError("the storage is reachable but rejects the batch")


def _count(backend: Backend, barrier: Any, key_ids: Sequence[str]) -> int:
    writer = new_id()
    labels = _labels(key_ids)
    # A different order in each process.
    labels.sort(key=hash)
    for number in range(1, _ROUNDS + 1):
        uses = [_use(key_id, at=NOW + timedelta(seconds=number)) for key_id in key_ids]
        barrier.wait()
        usage_of(backend).add(batch_of(dict.fromkeys(labels, 1), uses, writer=writer, number=number))
    return _ROUNDS
