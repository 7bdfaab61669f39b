"""The guides: links lead somewhere, and every command and snippet in them exists; test_guides.py runs them."""

import ast
import importlib.util
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

import mlkit
from mlkit import cli
from mlkit.errors import ConfigError

ROOT = Path(__file__).parents[1]
OTHERS = (".venv", ".pytest_cache", "build", "data/bars", "data/models", "reports/")
GUIDES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not str(path.relative_to(ROOT)).startswith(OTHERS) or path == ROOT / "reports" / "README.md"
)
SHELL = ("", "sh", "bash", "shell", "console")


def blocks(path: Path) -> Iterator[tuple[str, str]]:
    """(language, text) of every fenced block."""
    yield from re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def commands() -> list[tuple[str, str]]:
    """(guide, command line) of every line in a shell block that calls mlkit, python or make."""
    found = []
    for path in GUIDES:
        for language, text in blocks(path):
            if language not in SHELL:
                continue
            for line in text.replace("\\\n", " ").splitlines():
                line = line.split("  #")[0].strip().removeprefix("$ ")
                words = line.split()
                if words and Path(words[0]).name in ("mlkit", "make", "python", "pytest"):
                    found.append((str(path.relative_to(ROOT)), line))
    return found


def spans() -> list[tuple[str, str]]:
    """(guide, command line) of every call of mlkit that stands within a sentence."""
    found = []
    for path in GUIDES:
        prose = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
        found += [
            (str(path.relative_to(ROOT)), line) for line in re.findall(r"`((?:\.venv/bin/)?mlkit [a-z][^`\n]*)`", prose)
        ]
    return found


def test_there_are_guides_and_commands_in_them() -> None:
    assert ROOT / "README.md" in GUIDES and len(GUIDES) >= 7
    assert len(commands()) >= 15


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_a_guide_lead_somewhere(guide: Path) -> None:
    assert broken(guide.read_text(), guide.parent) == []


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_links_of_a_notebook_lead_somewhere(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert broken(text, path.parent) == []


def broken(text: str, folder: Path) -> list[str]:
    """Relative links, and anchors of them, that lead nowhere."""
    prose = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    found = []
    for link in re.findall(r"\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)", prose):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (folder / name) if name else None
        if target is not None and not target.exists():
            found.append(link)
        elif anchor and (target is None or target.suffix == ".md"):
            source = text if target is None else target.read_text()
            slugs = {slug(heading) for heading in re.findall(r"^#+\s+(.*)$", source, flags=re.MULTILINE)}
            found += [] if anchor in slugs else [link]
    return found


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# A heading, here\n")
    text = "[a](there.md) [b](there.md#a-heading-here) [c](gone.md) [d](there.md#gone) [e](https://example.org)"
    assert broken(text, tmp_path) == ["gone.md", "there.md#gone"]


# --- commands -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("guide", "line"), [c for c in commands() if c[1].startswith("make")])
def test_make_knows_every_target_that_a_guide_names(guide: str, line: str) -> None:
    done = subprocess.run(["make", "--dry-run", *shlex.split(line)[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("guide", "line"), [c for c in spans() if "..." not in c[1] and "<" not in c[1]])
def test_every_mlkit_command_within_a_sentence_is_one(guide: str, line: str) -> None:
    words = shlex.split(line)[1:]
    try:
        cli._parser().parse_args(words)
    except ConfigError as error:  # named without what it needs, such as `mlkit import`
        assert "required" in str(error), error


def test_every_script_and_module_of_a_guide_exists() -> None:
    for _, line in commands():
        words = shlex.split(line)
        if Path(words[0]).name != "python":
            continue
        there = importlib.util.find_spec(words[2]) if words[1] == "-m" else (ROOT / words[1]).is_file()
        assert there, line


# --- Python ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_of_a_guide_parses_and_names_what_mlkit_has(guide: Path) -> None:
    for language, text in blocks(guide):
        if language not in ("python", "py"):
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "mlkit":
                assert hasattr(mlkit, node.attr), node.attr
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mlkit"):
                module = __import__(node.module or "", fromlist=["_"])
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
