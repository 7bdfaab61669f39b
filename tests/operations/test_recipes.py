"""The recipes of the guide: cron, systemd and CI read them, and every command in them is one of mlkit's."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mlkit import cli

GUIDE = (Path(__file__).parents[2] / "mlkit" / "operations" / "README.md").read_text()
SECTION = GUIDE.partition("## Retraining\n")[2].partition("\n## ")[0]
FIELDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))  # minute, hour, day, month, weekday


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", SECTION, flags=re.MULTILINE | re.DOTALL)


def understood(command: str) -> str:
    """The mlkit command of a line, once its parser has accepted the options."""
    words = shlex.split(command)
    assert words[0].endswith(".venv/bin/mlkit"), command
    return str(cli._parser().parse_args(words[1:]).command)


def cron_fields(line: str) -> list[str]:
    """The five times of a line of a crontab, each within its range."""
    times = line.split()[:5]
    for text, (low, high) in zip(times, FIELDS, strict=True):
        assert re.fullmatch(r"(\*|\d+(-\d+)?)(/\d+)?(,(\*|\d+(-\d+)?)(/\d+)?)*", text), text
        assert all(low <= int(number) <= high for number in re.findall(r"(?<!/)\b\d+", text)), text
    return times


def test_the_line_of_cron() -> None:
    (line,) = (block.strip() for block in blocks("cron"))
    assert cron_fields(line) == ["10", "*/6", "*", "*", "*"]
    assert "%" not in line and "\n" not in line  # cron ends a line at the first %
    folder, command = (part.strip() for part in line.split(maxsplit=5)[5].split("&&"))
    assert folder == "cd /srv/mlkit"
    assert understood(command.partition(" >>")[0]) == "retrain" and command.endswith(" >> data/retrain.log 2>&1")
    with pytest.raises(AssertionError):
        cron_fields("61 * * * * true")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="without systemd")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    service, timer, loop = blocks("ini")
    (command,) = re.findall(r"^ExecStart=(.*)$", service, flags=re.MULTILINE)
    (going_on,) = re.findall(r"^ExecStart=(.*)$", loop, flags=re.MULTILINE)
    assert understood(command) == understood(going_on) == "retrain" and "--every 6h" in going_on
    here = str(Path(sys.executable).with_name("mlkit"))
    for name, text in (("mlkit-retrain.service", service), ("mlkit-retrain.timer", timer), ("loop.service", loop)):
        (tmp_path / name).write_text(text.replace("/srv/mlkit/.venv/bin/mlkit", here).replace("/srv/mlkit", "/"))
    assert verified(tmp_path / "mlkit-retrain.timer") == verified(tmp_path / "loop.service") == ""
    (calendar,) = re.findall(r"^OnCalendar=(.*)$", timer, flags=re.MULTILINE)
    said = subprocess.run(["systemd-analyze", "calendar", calendar], capture_output=True, text=True, check=True)
    assert "Normalized form: *-*-* 00/6:10:00" in said.stdout
    (tmp_path / "loop.service").write_text(loop.replace("Restart=on-failure", "Restart=sometimes"))
    assert "Failed to parse" in verified(tmp_path / "loop.service")


def verified(unit: Path) -> str:
    """What systemd has to say against a unit."""
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    return "\n".join(line for line in done.stderr.splitlines() if unit.stem in line or unit.name in line)


def test_the_workflow_of_ci() -> None:
    (block,) = blocks("yaml")
    workflow = yaml.safe_load(block)
    when = workflow.get("on", workflow.get(True))  # YAML 1.1 reads `on` as a truth
    assert [cron_fields(each["cron"] + " command") for each in when["schedule"]] == [["10", "*/6", "*", "*", "*"]]
    job = workflow["jobs"]["retrain"]
    assert job["runs-on"] == "self-hosted" and workflow["concurrency"]
    assert [understood(step["run"]) for step in job["steps"]] == ["retrain", "rollback"]
