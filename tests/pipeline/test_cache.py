"""The cache keeps to its bound, never loses what is needed, and its ledger tells what is there."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections import Counter
from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.cache import PART_LIFE_S, PARTS, Cache
from pipeline.cachecheck import cache_problems, describe_cache
from pipeline.errors import ArchiveError
from pipeline.ledger import Key, Ledger, Origin
from pipeline.partial import Begun

SIZE = 100


def key(number: int, archive: str = "das") -> Key:
    return Key(archive, f"a/{number}.bin")


def begun_at(url: str, total: int) -> Begun:
    return Begun(url, '"1"', "", total, validator='"1"')


def put(cache: Cache, where: Key, content: bytes | None = None) -> Origin:
    """What a download leaves: a whole part, moved to its place."""
    content = content or where.path.encode().ljust(SIZE)
    part = cache.part(where)
    begun = part.begin(begun_at(f"http://das/{where.path}", len(content)))
    with part.open(begun) as file:
        file.write(content)
    origin = Origin(begun.url, hashlib.sha256(content).hexdigest(), len(content), '"1"')
    with cache.lock(where):
        cache.keep(where, part, origin)
    return origin


def there(cache: Cache) -> set[Key]:
    return {Key("das", f"a/{path.name}") for path in cache.folder.glob("das/a/*")}


def test_the_least_recently_used_make_room(tmp_path):
    cache = Cache(tmp_path, max_bytes=3 * SIZE, grace_s=0)
    for number in range(3):
        put(cache, key(number))
    assert cache.find(key(0))
    put(cache, key(3))
    assert key(0) in there(cache), "it was used after the others"
    assert key(1) not in there(cache)
    assert cache.ledger.cached_bytes() <= 3 * SIZE
    assert cache.ledger.origin(key(1)), "what it was stays known"
    assert cache.find(key(1)) is None
    cache.close()


def test_without_room_for_any_file_each_goes_once_it_is_used_so_often_as_it_was_needed(tmp_path):
    cache = Cache(tmp_path, max_bytes=0)
    with cache.needing({key(1): 2, key(2): 1}) as used, cache.needing({key(2): 1}) as used_elsewhere:
        put(cache, key(1))
        put(cache, key(2))
        used(key(1))
        assert key(1) in there(cache)
        used(key(1))
        assert key(1) not in there(cache)
        used(key(2))
        assert key(2) in there(cache), "another cell needs it"
        used_elsewhere(key(2))
        assert there(cache) == set()
    put(cache, key(3))
    assert there(cache) == {key(3)}, "nobody said what it is for: it stays a while"
    cache.close()
    assert there(cache) == set()


def test_a_process_that_closes_leaves_what_another_has_just_used(tmp_path):
    """`s82 plan` beside a running build."""
    build, plan = Cache(tmp_path, max_bytes=0), Cache(tmp_path, max_bytes=0)
    with build.needing({key(1): 1}):
        put(build, key(1))
        plan.close()
        assert there(build) == {key(1)}
    build.close()


def test_what_a_finished_cell_needed_makes_room_like_everything_else(tmp_path):
    """Whether each of its uses was told or not."""
    cache = Cache(tmp_path, max_bytes=SIZE, grace_s=0)
    with cache.needing({key(1): 1, key(2): 1}) as used:
        put(cache, key(1))
        put(cache, key(2))
        used(key(1))
    put(cache, key(3))
    assert there(cache) <= {key(3)}
    cache.close()


def test_tables_and_pages_neither_count_nor_go(tmp_path):
    cache = Cache(tmp_path, max_bytes=0, grace_s=0)
    put(cache, Key("", "master.dat2"))
    assert cache.ledger.cached_bytes() == 0
    cache.close()
    assert (tmp_path / "master.dat2").is_file()


operations = st.lists(
    st.tuples(st.sampled_from(["put", "need", "use", "leave", "find"]), st.integers(0, 6)), max_size=40
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=operations, room=st.integers(1, 4))
def test_whatever_happens_the_bound_holds_and_what_is_needed_stays(tmp_path_factory, operations, room):
    cache = Cache(tmp_path_factory.mktemp("cache"), max_bytes=room * SIZE, grace_s=0)
    with ExitStack() as at_last:
        needs: Counter[Key] = Counter()
        used, cells = {}, {}
        for what, number in operations:
            where = key(number)
            if what == "put" and cache.find(where) is None:
                put(cache, where)
                needed = {one for one, times in needs.items() if times > 0}
                size = len(there(cache)) * SIZE
                assert size == cache.ledger.cached_bytes()
                assert size <= room * SIZE or there(cache) <= needed | {where}
            elif what == "need" and where not in used:
                cells[where] = at_last.enter_context(ExitStack())
                used[where] = cells[where].enter_context(cache.needing({where: 2}))
                needs[where] = 2
            elif what == "leave" and where in used:
                cells.pop(where).close()
                del used[where], needs[where]
            elif what == "use" and where in used:
                used[where](where)
                needs[where] = max(needs[where] - 1, 0)
            elif what == "find":
                assert (cache.find(where) is not None) == (where in there(cache))
            assert all(cache.find(one) for one in there(cache))
    cache.close()
    assert len(there(cache)) <= room


def test_needed_files_may_exceed_the_bound_for_a_while(tmp_path):
    cache = Cache(tmp_path, max_bytes=SIZE, grace_s=0)
    with cache.needing({key(number): 1 for number in range(3)}) as used:
        for number in range(3):
            put(cache, key(number))
        assert len(there(cache)) == 3
        used(key(0))
        put(cache, key(4))
        assert key(0) not in there(cache)
    cache.close()
    assert len(there(cache)) <= 1


def test_a_file_killed_between_ledger_and_place_is_there_next_time(tmp_path):
    cache = Cache(tmp_path)
    content = b"x" * SIZE
    part = cache.part(key(1))
    begun = part.begin(begun_at("http://das/a/1.bin", SIZE))
    with part.open(begun) as file:
        file.write(content)
    cache.ledger.record(key(1), Origin(begun.url, hashlib.sha256(content).hexdigest(), SIZE, '"1"'))
    assert cache.find(key(1)) is None, "the ledger alone is not believed"
    again = cache.part(key(1)).begun(begun.url)
    assert again is not None
    assert again.is_whole
    cache.close()


def test_what_was_begun_long_ago_is_swept_up(tmp_path):
    for name, age_s in (("old.part", PART_LIFE_S + 60), ("new.part", 60)):
        file = tmp_path / PARTS / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"x")
        os.utime(file, (time.time() - age_s,) * 2)
    Cache(tmp_path).close()
    assert [path.name for path in (tmp_path / PARTS).iterdir()] == ["new.part"]


@pytest.mark.parametrize("content", [b"no database at all" * 100, b""], ids=["foreign", "empty"])
def test_a_damaged_ledger_is_one_clear_error_and_an_empty_one_a_new_one(tmp_path, content):
    (tmp_path / "ledger.sqlite").write_bytes(content)
    if content:
        with pytest.raises(ArchiveError, match=r"ledger\.sqlite.*move it away"):
            Ledger(tmp_path / "ledger.sqlite")
    else:
        Ledger(tmp_path / "ledger.sqlite").close()


def test_a_ledger_of_newer_software_is_refused(tmp_path):
    Ledger(tmp_path / "ledger.sqlite").close()
    with sqlite3.connect(tmp_path / "ledger.sqlite") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(ArchiveError, match="newer software"):
        Ledger(tmp_path / "ledger.sqlite")


def test_the_contents_are_told_and_every_doubtful_file_is_named(tmp_path):
    cache = Cache(tmp_path)
    for number in range(3):
        put(cache, key(number))
    put(cache, Key("", "list.csv"))
    cache.ledger.remember_missing(key(9), ["http://das/a/9.bin"], "does not exist")
    cache.close()
    contents = describe_cache(tmp_path)
    assert contents.files == {"das": 3, "": 1}
    assert [missing["path"] for missing in contents.missing] == ["a/9.bin"]
    assert cache_problems(tmp_path) == []
    place = tmp_path / "das" / "a"
    (place / "0.bin").write_bytes(b"?" * SIZE)
    (place / "1.bin").unlink()
    (place / "stranger").write_bytes(b"")
    problems = cache_problems(tmp_path)
    assert len(problems) == 3
    assert all(name in problem for name, problem in zip(("0.bin", "1.bin", "stranger"), problems, strict=True))
    with pytest.raises(ArchiveError, match="not a cache"):
        describe_cache(tmp_path / "nowhere")
