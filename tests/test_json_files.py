"""JSON files: missing, broken, or of another type."""

from pathlib import Path

import pytest

from backends.json_files import read_json, read_optional_json
from errors import ModelFolderError


def test_a_missing_file_is_an_empty_object_only_where_it_may_be_missing(tmp_path: Path) -> None:
    assert read_optional_json(tmp_path / "none.json") == {}
    with pytest.raises(ModelFolderError, match=r"none\.json is missing"):
        read_json(tmp_path / "none.json", dict)


@pytest.mark.parametrize(
    ("content", "message"), [("{", "is broken: "), ("[]", "is broken: it holds no JSON object")]
)
def test_a_broken_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "some.json").write_text(content)

    with pytest.raises(ModelFolderError, match=rf"some\.json {message}"):
        read_optional_json(tmp_path / "some.json")


def test_an_array_is_read_where_one_is_expected(tmp_path: Path) -> None:
    array, some_object = tmp_path / "array.json", tmp_path / "object.json"
    array.write_text("[1]")
    some_object.write_text("{}")

    assert read_json(array, list) == [1]
    with pytest.raises(ModelFolderError, match="it holds no JSON array"):
        read_json(some_object, list)
