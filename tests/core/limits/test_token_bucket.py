"""Token buckets."""

from flask_apikey.core.limits.token_bucket import TokenBucket


def test_rate_and_capacity():
    now = [100.0]
    bucket = TokenBucket(2, 3, lambda: now[0])
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    assert not bucket.has()
    now[0] += 0.5
    assert bucket.has()
    assert [bucket.take(), bucket.take()] == [True, False]
    now[0] += 1000
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]


def test_parts_of_tokens():
    now = [0.0]
    bucket = TokenBucket(0.5, 1, lambda: now[0])
    assert [bucket.take(0.75), bucket.take(0.75), bucket.take(0.25)] == [True, False, True]
    now[0] += 1
    assert [bucket.take(0.75), bucket.take(0.5)] == [False, True]
