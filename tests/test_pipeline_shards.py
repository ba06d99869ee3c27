"""Shards of one run in one folder."""

import pytest
from support.run_folders import SETTINGS, add, listed, names, open_run

from ccella.imaging.errors import InputError
from ccella.pipeline.errors import RunFolderError
from ccella.pipeline.seeds import Shard


def test_shards_write_side_by_side_and_read_as_one(tmp_path):
    items = [f"i{n:02}" for n in range(7)]
    runs = [open_run(tmp_path, shard=Shard(i, 3)) for i in (3, 1, 2)]
    with pytest.raises(RunFolderError, match="Another process is writing"):
        open_run(tmp_path, shard=Shard(2, 3))
    with pytest.raises(RunFolderError, match="Another process is writing"):
        open_run(tmp_path, resume=True)
    for run in runs:
        for item in run.shard.select(items):
            add(run, item)
        run.__exit__(None, None, None)
    assert listed(tmp_path) == names(items)
    assert runs[0].named("preview.png").name == "preview-3-of-3.png"


def test_a_shard_leaves_the_temporary_files_of_living_shards(tmp_path):
    with open_run(tmp_path, shard=Shard(1, 2)) as first:
        add(first, "p")
        part = tmp_path / "p/.p_c.bin.0123abcd.part"
        part.write_bytes(b"being written")
        with open_run(tmp_path, shard=Shard(2, 2)) as second:
            add(second, "q")
        assert part.exists()
    open_run(tmp_path, shard=Shard(2, 2), resume=True).__exit__(None, None, None)
    assert not part.exists()


def test_shards_agree_on_settings_and_number(tmp_path):
    with open_run(tmp_path, shard=Shard(1, 2)) as run:
        add(run, "p")
    with pytest.raises(RunFolderError, match="steps = 3, but this one has 4"):
        open_run(tmp_path, shard=Shard(2, 2), settings={**SETTINGS, "steps": 4})
    with pytest.raises(RunFolderError, match="has 2 shards, but this one has 3"):
        open_run(tmp_path, shard=Shard(2, 3))
    with pytest.raises(InputError, match="lacks the manifest of shard 2/2"):
        listed(tmp_path)


def test_a_run_without_shards_finishes_what_shards_began(tmp_path):
    with open_run(tmp_path, shard=Shard(1, 2)) as run:
        add(run, "p")
    with open_run(tmp_path, resume=True) as run:
        assert [add(run, item) for item in "pq"] == [False, True]
    assert listed(tmp_path) == names("pq")
    assert not list(tmp_path.glob("manifest-*"))


def test_overwriting_shards_spare_each_other(tmp_path):
    for index, item in ((1, "p"), (2, "q")):
        with open_run(tmp_path, shard=Shard(index, 2)) as run:
            add(run, item)
    for index, item in ((1, "p"), (2, "q")):
        with open_run(tmp_path, shard=Shard(index, 2), overwrite=True, settings={"steps": 9}) as run:
            assert add(run, item)
    assert listed(tmp_path) == names("pq")


def test_shards_may_overwrite_a_run_without_shards(tmp_path):
    for settings in ({"steps": 3}, {"steps": 9}):
        with open_run(tmp_path, overwrite=True, settings={"steps": 3}) as run:
            add(run, "old")
        for index, item in ((1, "p"), (2, "q")):
            with open_run(tmp_path, shard=Shard(index, 2), overwrite=True, settings=settings) as run:
                assert add(run, item)
        assert listed(tmp_path) == names("pq")
        assert not (tmp_path / "old").exists()
