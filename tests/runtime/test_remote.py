"""Folders at URLs: what is local, what is refused, and what a store without renames holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from worldsim.data.record import RecordConfig, record
from worldsim.data.remote import open_dataset
from worldsim.errors import InvalidInputError, NotFoundError
from worldsim.runtime.remote import RemoteFolder, place_of


def test_places(tmp_path: Path) -> None:
    assert place_of("data/walks") == Path("data/walks")
    assert place_of("file:///data/my%20walks") == Path("/data/my walks")
    assert place_of("file://localhost/data") == Path("/data")
    assert place_of("s3://bucket/walks/") == "s3://bucket/walks"
    with pytest.raises(InvalidInputError, match="three slashes"):
        place_of("file://data/walks")
    with pytest.raises(InvalidInputError, match="chains"):
        place_of("zip://walks::s3://bucket/all.zip")
    with pytest.raises(InvalidInputError, match="nothing://walks"):
        RemoteFolder("nothing://walks")


def test_a_recording_at_a_file_url(tmp_path: Path) -> None:
    """It is the folder itself: the same bytes, without copies."""
    given = {"frames": 40, "episode_steps": 20, "min_travel": 0.0, "workers": 0}
    url = (tmp_path / "my walks").as_uri()
    dataset = record(RecordConfig("worldsim/TinyRoom-v0", url, **given))
    plain = record(RecordConfig("worldsim/TinyRoom-v0", tmp_path / "plain", **given))
    assert dataset.path == tmp_path / "my walks" and open_dataset(url).frames == plain.frames
    for path in plain.path.iterdir():
        assert (dataset.path / path.name).read_bytes() == path.read_bytes()
    with pytest.raises(NotFoundError, match="No dataset"):
        open_dataset((tmp_path / "none").as_uri())
