"""The catalog of papers."""

import json
import shutil
import subprocess
import sys

import pytest

from abreast.core import AbreastError, paper, papers
from abreast.core.catalog import PATH, record


def test_199_papers():
    rows = papers()
    assert [row.number for row in rows] == list(range(1, 200))
    assert len({row.slug for row in rows}) == 199 and all(row.title and row.room and row.group for row in rows)
    assert sum(len(papers(room=room)) for room in {row.room for row in rows}) == 199
    assert sum(len(papers(state=state)) for state in ("planned", "holds", "short")) == 199


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(AbreastError, match="no paper is called 'lookahed': did you mean lookahead"):
        paper("lookahed")
    with pytest.raises(AbreastError, match="no paper is in a room 'decod': did you mean decode"):
        papers(room="decod")
    with pytest.raises(AbreastError, match="one of planned, holds, short"):
        papers(state="done")


def test_record_changes_one_row_and_nothing_else(tmp_path):
    path = tmp_path / "papers.toml"
    shutil.copy(PATH, path)
    before = path.read_text().splitlines()
    for state, measured in [("short", 'span "0.4"\nand \\ more'), ("holds", "span: 0.28 (at most 0.5)")]:
        record("medusa", state, measured, path)
        row = paper("medusa", path)
        assert (row.state, row.measured) == (state, measured)
    after = path.read_text().splitlines()
    changed = [line for line in after if line not in before]
    assert set(changed) <= {'state = "holds"', f"measured = {json.dumps(measured)}"}
    assert len(after) - len(before) <= 1
    others = [row for row in papers(path=path) if row.slug != "medusa"]
    assert others == [row for row in papers() if row.slug != "medusa"]
    with pytest.raises(AbreastError, match="one of planned, holds, short"):
        record("medusa", "done", "", path)


def test_a_field_that_is_unknown_is_named(tmp_path):
    path = tmp_path / "papers.toml"
    path.write_text('[[paper]]\nnumber = 1\nslug = "a"\ntitle = "A"\nroom = "solve"\ngroup = "g"\nclam = "x"\n')
    with pytest.raises(AbreastError, match="clam"):
        papers(path=path)


def test_importing_loads_no_torch():
    code = (
        "import sys, time; t = time.perf_counter(); import abreast; s = time.perf_counter() - t; assert s < 0.3, s; "
        "assert 'numpy' not in sys.modules; abreast.run, abreast.Machine, abreast.World, dir(abreast); "
        "assert all(hasattr(abreast, name) for name in abreast.__all__); "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
