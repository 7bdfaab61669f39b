"""Settings: a value that would change nothing is refused in one line."""

from pathlib import Path

import pytest

from mlkit.cli.arguments import settings_from
from mlkit.config import Settings, project_root
from mlkit.errors import ConfigError
from mlkit.models.patterns import pretrained


@pytest.mark.parametrize(("name", "built"), [("pattern_sequence_length", 20), ("pattern_num_classes", 15)])
def test_a_shape_that_the_cnn_does_not_have_is_refused(name: str, built: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"MLKIT_{name.upper()}", str(built))
    assert getattr(Settings(), name) == built
    monkeypatch.setenv(f"MLKIT_{name.upper()}", "30")
    with pytest.raises(ConfigError, match=f"MLKIT_{name.upper()}='30': .*the pattern CNN is built for {built}; leave"):
        settings_from()


def test_the_settings_hold_the_shape_of_the_cnn() -> None:
    meta = pretrained("classic").meta
    assert Settings().pattern_sequence_length == meta.sequence_length
    assert Settings().pattern_num_classes == len(meta.patterns)


@pytest.mark.parametrize(
    ("text", "horizons"),
    [("1,5", (1, 5)), ("[1, 5]", (1, 5)), (" 3 ", (3,)), ("(1,5,15,60)", (1, 5, 15, 60)), ("7", (7,))],
)
def test_horizons_are_read_from_text(text: str, horizons: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLKIT_PREDICTION_HORIZONS", text)
    assert settings_from().prediction_horizons == horizons


@pytest.mark.parametrize("text", ["[]", "", "0", "0,1", "5,1", "1,1", "1.5", "1;5", "a", "-1", "1,,5", "1,5,"])
def test_other_horizons_are_refused_in_one_line(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLKIT_PREDICTION_HORIZONS", text)
    with pytest.raises(ConfigError, match=r"MLKIT_PREDICTION_HORIZONS=.*want whole numbers of bars") as caught:
        settings_from()
    assert "\n" not in str(caught.value)


def test_a_setting_that_is_no_json_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLKIT_LEARNER_WEIGHTS", "ridge=1")
    with pytest.raises(ConfigError, match="learner_weights") as caught:
        settings_from()
    assert "\n" not in str(caught.value)


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("MODEL_STORAGE_PATH", "TRAINING_DATA_PATH", "LEDGER_PATH", "PATTERN_WEIGHTS_PATH"):
        monkeypatch.setenv(f"MLKIT_{name}", f"~/{name}")
    settings = Settings()
    assert settings.models == tmp_path / "MODEL_STORAGE_PATH" and settings.ledger == tmp_path / "LEDGER_PATH"
    assert settings.lake == tmp_path / "TRAINING_DATA_PATH"
    assert settings.pattern_weights == tmp_path / "PATTERN_WEIGHTS_PATH"
    monkeypatch.setenv("MLKIT_HOME", "~/lab")
    assert project_root() == tmp_path / "lab"
