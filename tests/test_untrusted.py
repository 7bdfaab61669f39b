"""Files, texts and addresses of others, at the lowest level."""

import os
from pathlib import Path

import pytest

from mlkit.untrusted import one_line, printable, read_regular, without_password


@pytest.mark.parametrize("kind", ["a pipe", "a device", "a link", "a folder", "nothing", "a long file"])
def test_only_a_regular_file_of_bounded_size_is_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a long file":
        path.write_bytes(b"12345")
    elif kind != "nothing":
        path.symlink_to("/dev/zero" if kind == "a device" else __file__)
    with pytest.raises(OSError) as caught:
        read_regular(path, 4)
    assert caught.value.filename == str(path) and caught.value.strerror
    (tmp_path / "whole").write_bytes(b"1234")
    assert read_regular(tmp_path / "whole", 4) == b"1234"


def test_a_file_that_grows_while_it_is_read_is_not_read_for_ever() -> None:
    with pytest.raises(OSError, match=r"not a regular file|too long"):
        read_regular(Path("/proc/self/mountinfo"), 16)  # of size 0 to the system


def test_text_is_shown_without_control_characters() -> None:
    assert printable("a\x1b[31mb\nc\u202ed\x00é") == "a?[31mb?c?d?é"
    assert printable("x" * 400) == "x" * 300


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://user:secret@host/db", "postgresql://host/db"),
        ("https://user:se@cret@host:1/a?token=secret", "https://host:1/a"),
        ("s3://key:secret@bucket/bars", "s3://bucket/bars"),
        ("sqlite:////home/a/b.db", "sqlite:////home/a/b.db"),
        ("data/bars", "data/bars"),
        ("https://secret@host", "https://host"),
    ],
)
def test_addresses_are_shown_without_passwords(url: str, shown: str) -> None:
    assert without_password(url) == shown
    assert "secret" not in one_line(f"cannot open {url}\nnow") or url == shown
