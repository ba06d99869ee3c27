"""Writing behind the device: the same files in the same order, bounded, and whole after a failure."""

import threading
import time

import pytest
import torch

from ccella.pipeline.errors import ItemsFailedError, RunFolderError
from ccella.pipeline.overlap import choose_writers, run_ahead, run_behind
from ccella.pipeline.prompts import PromptItem
from ccella.pipeline.sampler_settings import choose_settings
from ccella.zoo.runs import read_run


def test_results_come_in_order_and_few_wait():
    made, running, lock = [], [], threading.Lock()

    def task(number):
        with lock:
            running.append(number)
        # The first ones take longest.
        time.sleep(0.02 * (5 - number % 5))
        return number

    def tasks():
        for number in range(12):
            made.append(number)
            yield number, lambda number=number: task(number)

    for handed, (key, result) in enumerate(run_behind(tasks(), 3)):
        assert key == result() == handed
        # At most three are under way or wait while the next is made.
        assert len(made) - handed <= 3 + 1
    assert sorted(running) == list(range(12))


def test_one_thread_works_beside_the_producer():
    """The producer makes the second task while the first runs: that one waits for it, and would wait for ever."""
    going_on = threading.Event()

    def tasks():
        yield 0, lambda: going_on.wait(10)
        going_on.set()
        yield 1, lambda: True

    assert [result() for _, result in run_behind(tasks(), 1)] == [True, True]


def test_what_is_ahead_is_made_in_a_thread_and_one_at_most():
    made, threads = [], set()

    def produce():
        for number in range(6):
            made.append(number)
            threads.add(threading.current_thread())
            yield number

    for taken, number in enumerate(run_ahead(produce(), True)):
        assert number == taken
        assert len(made) <= taken + 2
    assert taken == 5
    assert threading.main_thread() not in threads
    assert list(run_ahead(iter("abc"), False)) == ["a", "b", "c"]


def test_what_fails_ahead_fails_where_it_is_asked_for():
    def produce():
        yield 1
        raise RunFolderError("full", "make room")

    ahead = run_ahead(produce(), True)
    assert next(ahead) == 1
    with pytest.raises(RunFolderError, match="full"):
        next(ahead)


def test_without_threads_a_task_runs_when_its_result_is_asked_for():
    seen = []
    tasks = ((i, lambda i=i: seen.append((i, threading.current_thread()))) for i in range(3))
    for key, result in run_behind(tasks, 0):
        assert len(seen) == key
        result()
    assert {thread for _, thread in seen} == {threading.main_thread()}


def test_a_task_that_fails_fails_where_its_result_is_asked_for():
    def fail():
        raise RunFolderError("full", "make room")

    (_, first), (_, second) = run_behind([(0, lambda: 7), (1, fail)], 2)
    assert first() == 7
    with pytest.raises(RunFolderError, match="full"):
        second()


def test_what_has_not_begun_is_dropped_when_the_reader_stops():
    release, begun = threading.Event(), []

    def task(number):
        begun.append(number)
        release.wait(10)

    results = run_behind(((i, lambda i=i: task(i)) for i in range(9)), 2)
    threading.Timer(0.05, release.set).start()
    next(results)
    results.close()
    assert len(begun) <= 3


def test_only_a_gpu_is_written_behind():
    assert choose_writers(torch.device("cpu")) == 0
    assert 1 <= choose_writers(torch.device("cuda")) <= 8


@pytest.mark.parametrize("batch_size", [1, 2])
def test_files_manifest_and_records_do_not_depend_on_the_writers(stages, prompts, tmp_path, read_files, batch_size):
    runs = {}
    for writers in (0, 1, 4):
        out = tmp_path / str(writers)
        records = sample_all(stages, prompts, out, writers=writers, batch_size=batch_size)
        assert [record.path for record in records] == [record.path for record in read_run(out)]
        runs[writers] = read_files(out)
    assert runs[0] == runs[1] == runs[4]


def test_a_failed_item_and_a_resumed_run_keep_their_order(stages, prompts, tmp_path):
    # A spacing beyond what float32 holds once it is scaled: the network answers with NaN.
    items = [prompts[0], PromptItem("huge", "x", spacing_mm=(1e37, 1e37, 1e37)), *prompts[1:4]]
    seen = []
    with pytest.raises(ItemsFailedError, match="1 of 5 items failed: huge"):
        sample_all(stages, items, tmp_path / "o", writers=3, on_item=lambda i, e: seen.append((i, e is None)))
    assert seen == [("a", True), ("huge", False), ("b", True), ("c", True), ("d", True)]
    assert [r.id for r in read_run(tmp_path / "o")] == [i for i in "abcd" for _ in range(3)]
    for path in (tmp_path / "o/b").glob("*"):
        path.unlink()
    records = sample_all(stages, prompts[:4], tmp_path / "o", writers=3, run={"resume": True})
    assert [r.id for r in records] == [r.id for r in read_run(tmp_path / "o")] == [i for i in "abcd" for _ in range(3)]


def test_a_folder_that_fills_up_ends_the_run_with_what_was_listed(stages, prompts, tmp_path, monkeypatch):
    from ccella.pipeline.run_folder import RunFolder

    store = RunFolder.store_artefact

    def fill_up(self, record, write):
        if record.id == "c":
            raise RunFolderError("The disk is full.", "Make room.")
        return store(self, record, write)

    monkeypatch.setattr(RunFolder, "store_artefact", fill_up)
    with pytest.raises(RunFolderError, match="disk is full"):
        sample_all(stages, prompts, tmp_path / "o", writers=2)
    assert [r.id for r in read_run(tmp_path / "o")] == ["a"] * 3 + ["b"] * 3
    assert not list((tmp_path / "o").rglob("*.part"))
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("ahead", "write"))]
    monkeypatch.undo()
    sample_all(stages, prompts, tmp_path / "o", writers=2, run={"resume": True})
    assert [r.id for r in read_run(tmp_path / "o")] == [i for i in "abcde" for _ in range(3)]


def sample_all(stages, items, out, *, writers, run=None, on_item=None, **options):
    """As `Stages.sample`, with writers."""
    from ccella.pipeline.prompts import expand_seeds
    from ccella.pipeline.run_folder import RunFolder
    from ccella.pipeline.sample import sample

    settings = choose_settings(stages.card, **options)
    with RunFolder(out, command="sample", **(run or {})) as folder:
        return list(
            sample(
                expand_seeds(items, None), stages.card, text_encoder=stages.text_encoder, denoiser=stages.denoiser,
                autoencoder=stages.autoencoder, run=folder, runtime=stages.runtime, settings=settings,
                on_item=on_item, writers=writers,
            )
        )  # fmt: skip
