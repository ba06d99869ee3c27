"""What the Dockerfile promises, read from its text; `make docker-check` builds it and tries it."""

import re
from pathlib import Path

import ccella

TEXT = (Path(__file__).resolve().parents[1] / "Dockerfile").read_text(encoding="utf-8")
STAGES = re.split(r"^FROM ", TEXT, flags=re.MULTILINE)[1:]


def test_the_label_states_the_programs_version():
    assert re.findall(r"^ARG VERSION=(.+)$", TEXT, re.MULTILINE) == [ccella.__version__]


def test_what_runs_is_a_user_by_number_and_the_last_target_is_runtime():
    names = [stage.split("\n")[0].split(" AS ")[1] for stage in STAGES]
    assert names[-1] == "runtime" and "train" in names
    for stage in STAGES:
        if " AS runtime" in stage or " AS train\n" in stage:
            assert re.findall(r"^USER (\d+):(\d+)$", stage, re.MULTILINE) == [("10001", "10001")]
            assert "RUN" not in stage.split()


def test_nothing_of_the_place_where_it_is_built_is_kept():
    assert "://" not in TEXT
    assert "pip.conf" not in TEXT
    assert "HEALTHCHECK NONE" in TEXT
    assert 'ENTRYPOINT ["ccella"]' in TEXT
