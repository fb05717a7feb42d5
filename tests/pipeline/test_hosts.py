"""When downloads from a server pause, for how long, and when they give up; no network in here."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from pipeline.hosts import Host, PausePolicy

POLICY = PausePolicy(failures=3, first_s=0.05, longest_s=0.2, give_up_s=60)


def out_of_order(policy: PausePolicy = POLICY) -> Host:
    host = Host("das", 4, policy)
    host.worked("http://das/good")
    for _ in range(policy.failures):
        host.failed("503")
    return host


def test_failures_in_a_row_pause_a_server_that_has_worked():
    host = Host("das", 4, POLICY)
    host.worked("http://das/good")
    for _ in range(2):
        host.failed("503")
    assert host.answers
    host.worked()
    host.failed("503")
    assert host.answers, "an answer in between starts the count anew"
    assert not out_of_order().answers


def test_a_server_that_never_worked_is_no_outage_but_a_wrong_address():
    host = Host("das", 4, POLICY)
    for _ in range(10):
        host.failed("refused")
    assert host.answers
    assert host.patience_s == 0


def waits(host: Host, probe: Callable[[str], bool]) -> bool:
    """As downloads do: look again when it makes sense; False once it is lost."""
    while not host.revive(probe):
        if host.is_lost:
            return False
        time.sleep(min(max(host.due_s, 0.005), 0.05))
    return True


def test_one_download_probes_and_all_go_on_when_it_works():
    host, lock = out_of_order(), threading.Lock()
    probed: list[str] = []

    def probe(url: str) -> bool:
        with lock:
            probed.append(url)
            time.sleep(0.05)
            return len(probed) == 3

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(lambda _: waits(host, probe), range(8)))
    assert probed == ["http://das/good"] * 3
    assert host.outages == 1
    assert host.answers


def test_pauses_double_up_to_the_longest():
    host, moments = out_of_order(), [time.monotonic()]

    def probe(_url: str) -> bool:
        moments.append(time.monotonic())
        return len(moments) == 6

    assert waits(host, probe)
    pauses = [later - earlier for earlier, later in pairwise(moments)]
    assert all(pause >= expected for pause, expected in zip(pauses, (0.05, 0.1, 0.2, 0.2, 0.2), strict=True))
    assert sum(pauses) < 2


def test_after_the_longest_outage_it_is_given_up():
    host = out_of_order(PausePolicy(failures=2, first_s=0.05, longest_s=0.05, give_up_s=0.2))
    started = time.monotonic()
    assert not waits(host, lambda _url: False)
    assert 0.2 <= time.monotonic() - started < 2


def test_a_probe_that_breaks_lets_the_next_one_try():
    host = out_of_order()

    def broken(_url: str) -> bool:
        raise ZeroDivisionError

    with ThreadPoolExecutor(1) as threads:
        assert isinstance(threads.submit(waits, host, broken).exception(), ZeroDivisionError)
    assert waits(host, lambda _url: True)


def test_retry_after_holds_even_when_another_answer_comes_in_between():
    host = Host("das", 4, POLICY)
    host.leave_alone(0.3)
    host.worked("http://das/good")
    started = time.monotonic()
    assert not host.answers
    assert host.wish_s > 0.2
    assert waits(host, lambda _url: True)
    assert time.monotonic() - started >= 0.25


def test_a_server_that_is_out_of_order_is_not_even_probed_before_the_time_it_named():
    host, probed = out_of_order(), []
    host.leave_alone(0.4)
    started = time.monotonic()

    def probe(_url: str) -> bool:
        probed.append(time.monotonic() - started)
        return True

    assert waits(host, probe)
    assert len(probed) == 1
    assert probed[0] >= 0.35
