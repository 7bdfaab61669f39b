"""A universe file: its order kept, its faults named with their line."""

from pathlib import Path

import pytest

from mlkit.errors import ConfigError
from mlkit.market.universe import read_universe


def test_symbols_come_in_the_order_of_the_file_without_comments(tmp_path: Path) -> None:
    path = tmp_path / "universe.txt"
    path.write_text("\ufeff# majors\nBTCUSDT\n\n  BTC/USDT:USDT  # a perpetual\r\n^GSPC\n", encoding="utf-8")
    assert read_universe(path) == ("BTCUSDT", "BTC/USDT:USDT", "^GSPC")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"BTCUSDT\n../x\n", "line 2: symbol '../x' is not accepted"),
        (b"A\n# B\nA\n", "line 3: A stands in line 1 already"),
        (b"# nothing\n\n", "no symbol in it"),
        (b"\xff\xfe\x00", "not UTF-8 text"),
    ],
)
def test_a_fault_is_told_with_its_place(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "universe.txt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"universe {path}.*{words}"):
        read_universe(path)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_universe(tmp_path / "none.txt")
