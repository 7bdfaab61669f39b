"""Symbols: those that exchanges use are accepted and written as folders reversibly; hostile ones are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlkit.errors import ConfigError
from mlkit.market.symbols import check_symbol, folder_symbol, symbol_folder

FOLDERS = {
    "BTCUSDT": "BTCUSDT",
    "a": "a",
    "BRK.B": "BRK.B",
    "ES_F-2024": "ES_F-2024",
    "0700.HK": "0700.HK",
    "x" * 32: "x" * 32,
    "BTC/USDT": "BTC%2FUSDT",
    "BTC/USDT:USDT": "BTC%2FUSDT%3AUSDT",
    "BTC/USD:BTC-241227-50000-C": "BTC%2FUSD%3ABTC-241227-50000-C",
    "^GSPC": "%5EGSPC",
    "EURUSD=X": "EURUSD%3DX",
    "M&M.NS": "M%26M.NS",
}
REFUSED = [
    "",
    "..",
    "a..b",
    "../x",
    "/etc",
    "a/../b",
    "a b",
    "-a",
    ".a",
    "a\n",
    "a\0b",
    "ä",
    "\u0661",
    "%2e%2e",
    "a\\b",
]
REFUSED += ["~a", "a*", "<b>", "x" * 33, "x" * 500, None, 7, b"A"]


@pytest.mark.parametrize("symbol", FOLDERS)
def test_symbols_that_are_accepted_have_one_folder(symbol: str) -> None:
    assert check_symbol(symbol) == symbol
    assert symbol_folder(symbol) == FOLDERS[symbol]
    assert folder_symbol(FOLDERS[symbol]) == symbol


@pytest.mark.parametrize("symbol", REFUSED)
def test_symbols_that_are_refused(symbol: object) -> None:
    for function in (check_symbol, symbol_folder):
        with pytest.raises(ConfigError, match="symbol") as caught:
            function(symbol)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("folder", ["%42TCUSDT", "BTC%2fUSDT", "BTC/USDT", "%2E%2E", "a%0A", "", "a%2F..%2Fb"])
def test_a_folder_that_no_symbol_has_is_refused(folder: str) -> None:
    with pytest.raises(ConfigError):
        folder_symbol(folder)


@given(st.text(alphabet=st.characters(max_codepoint=0x700), max_size=40))
def test_every_symbol_comes_back_from_one_safe_folder_name(text: str) -> None:
    try:
        folder = symbol_folder(text)
    except ConfigError:
        return
    assert folder_symbol(folder) == text
    assert folder.isascii() and not set(folder) & set('/\\:*?"<>|\0 ') and folder not in (".", "..")
