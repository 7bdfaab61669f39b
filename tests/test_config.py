"""Settings: a value that would change nothing is refused in one line."""

import pytest

from mlkit.cli.arguments import settings_from
from mlkit.config import Settings
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
