"""Setting a server up twice is as setting it up once, and says what is missing."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("bare_server")
ADDRESS = "https://hooks.example.org/services/T000/very-secret"


@pytest.fixture(autouse=True)
def nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("S82_ALERT_URL", "S82_ALERT_URL_FILE"):
        monkeypatch.delenv(name, raising=False)


def names() -> list[str]:
    from prefect.client.orchestration import get_client

    from flows.operation.setup import automations_of

    with get_client(sync_client=True) as client:
        return [one.name for one in automations_of(client)]


def test_twice_is_as_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.client.orchestration import get_client

    from flows.operation.setup import set_up

    first = set_up()
    assert set(first.done) >= {"work pool cpu", "work pool gpu", "limit sdss-archive", "automation s82: silent run"}
    assert "S82_ALERT_URL" in first.notes[0]
    assert not any("tell" in name for name in names())
    assert set(set_up().done.values()) == {"as it was"}
    monkeypatch.setenv("S82_ALERT_URL", ADDRESS)
    told = set_up()
    assert told.notes == ()
    assert "very-secret" not in told.model_dump_json()
    before = names()
    assert sum("tell" in name for name in before) == 4
    assert set(set_up().done.values()) == {"as it was"}
    assert names() == before
    with get_client(sync_client=True) as client:
        assert [pool.type for pool in client.read_work_pools() if pool.name in ("cpu", "gpu")] == ["process"] * 2
        assert client.read_global_concurrency_limit_by_name("sdss-archive").limit == 8


def test_what_changed_is_changed_and_what_a_person_decided_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.automations import AutomationCore, DoNothing, EventTrigger
    from prefect.client.orchestration import get_client

    from flows.operation.setup import automations_of, set_up

    monkeypatch.setenv("S82_ALERT_URL", ADDRESS)
    set_up()
    stranger = AutomationCore(name="mine", trigger=EventTrigger(expect={"x.y"}), actions=[DoNothing()])
    with get_client(sync_client=True) as client:
        client.create_automation(stranger)
        client.create_automation(stranger.model_copy(update={"name": "s82: of an older version"}))
        (off,) = [one for one in automations_of(client) if one.name == "s82: tell of failed runs"]
        client.pause_automation(off.id)
        client.create_automation(AutomationCore(name=off.name, trigger=off.trigger, actions=off.actions))
        done = set_up(silent_s=1200, refresh_within_h=0, archive_slots=4).done
        assert {name: how for name, how in done.items() if how != "as it was"} == {
            "limit sdss-archive": "changed",
            "automation s82: silent run": "changed",
            "automation s82: tell of an overdue refresh": "removed",
            "automation s82: of an older version": "removed",
        }
        found = {one.name: one for one in automations_of(client)}
        assert len(found) == len(automations_of(client))
        assert "mine" in found
        assert found["s82: silent run"].trigger.within == timedelta(seconds=1200)
        assert set_up(archive_slots=8).done["limit sdss-archive"] == "changed"
        # Without the address, alerts go on to the one that the server knows already.
        monkeypatch.delenv("S82_ALERT_URL")
        assert set_up().notes == ()


def test_a_doubled_automation_loses_its_younger_copy() -> None:
    """Two people may set up at the same moment; either copy is as good, one must go."""
    from prefect.client.orchestration import get_client

    from flows.operation.automations import crash_detection
    from flows.operation.setup import automations_of, set_up

    with get_client(sync_client=True) as client:
        for _ in range(2):
            client.create_automation(crash_detection(300))
        set_up()
        assert sum(one.name == "s82: silent run" for one in automations_of(client)) == 1


def test_the_address_may_lie_in_a_file_and_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.operation.setup import alert_address
    from pipeline.errors import ConfigError

    file = tmp_path / "address"
    monkeypatch.setenv("S82_ALERT_URL_FILE", str(file))
    with pytest.raises(ConfigError, match=r"cannot read.*S82_ALERT_URL_FILE"):
        alert_address()
    file.write_text(f"{ADDRESS}\n")
    address = alert_address()
    assert address is not None
    assert address.get_secret_value() == ADDRESS
    for nonsense in ("ftp://x", "just-a-token", "https:///path", "https://a b", "http://[", "https://x\nhttps://y"):
        monkeypatch.setenv("S82_ALERT_URL", nonsense)
        with pytest.raises(ConfigError, match=r"S82_ALERT_URL holds no web address") as caught:
            alert_address()
        assert nonsense not in str(caught.value)


def test_without_a_server_one_line_says_so() -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.operation.setup import set_up
    from pipeline.errors import ConfigError

    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(ConfigError, match="answers at"),
    ):
        set_up()
    with temporary_settings({PREFECT_API_URL: None}), pytest.raises(ConfigError, match="s82 server start"):
        set_up()
