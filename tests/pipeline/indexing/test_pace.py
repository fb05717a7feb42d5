"""A database is not asked more often than its rule allows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.indexing.pace import Pace


@given(st.lists(st.floats(0, 30), min_size=1, max_size=60), st.integers(1, 5))
def test_no_minute_has_more_queries_than_allowed(pauses, per_minute):
    now, sent = [0.0], []

    def sleep(seconds: float) -> None:
        now[0] += seconds

    pace = Pace(per_minute, clock=lambda: now[0], sleep=sleep)
    for pause in pauses:
        now[0] += pause
        pace.wait()
        sent.append(now[0])
    for first, later in zip(sent, sent[per_minute:], strict=False):
        assert later - first >= 60 - 1e-9
    assert sent[:per_minute] == [sum(pauses[: n + 1]) for n in range(len(sent[:per_minute]))], (
        "the first ones do not wait"
    )
