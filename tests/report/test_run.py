"""Reports from tiny notebooks: parameters, receipts, one self-contained page, failures that leave no mess."""

import base64
import hashlib
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from mlkit import load_bars
from mlkit.errors import ConfigError, MlkitError, ReportError
from mlkit.market.bars import fingerprint
from mlkit.report import HEADLINE_MIME, ReportRequest, headline, run_report, summarise_report
from mlkit.report.headlines import collect_headlines, headline_digest, shown_value
from mlkit.report.parameters import convert_parameters
from mlkit.report.story import Story, formula

PARAMETERS = 'symbol: str = "SP500"\nseed: int = 7\nlabel: str = "x"\nhorizons: tuple[int, ...] = (1, 5)'
DRAWN = "import numpy as np\nrng = np.random.default_rng(seed)\nfrom mlkit.report import headline, show_insight\n"
INSIGHT = """
class Face:
    def model_dump(self, *, mode): return {"symbol": symbol, "draw": float(rng.normal())}
    def model_copy(self, *, update): return self
    def panel(self, bars=None): return self
    def _repr_mimebundle_(self): return {}, {}
    def card(self, bars=None): return "<div class='card'>CARD</div>"
    def __str__(self): return "SP500 in a few lines"
show_insight(Face())
"""
PICTURE = "from IPython.display import Image\nImage(data=b'\\x89PNG', format='png')"


def write_notebook(path: Path, *cells: Any, parameters: str = PARAMETERS) -> Path:
    tagged = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=[new_markdown_cell(f"# About {path.stem}"), tagged, *cells]), path)
    return path


class Page(HTMLParser):
    """Every tag of a page with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], bytes]:
    """A report that replaced an earlier one of the same seed, and the earlier one's receipt and insight."""
    root = tmp_path_factory.mktemp("project")
    text = new_markdown_cell(
        "## Drawn\n\nSee [the next](01_next.ipynb), $x^2$, <img src='https://example.org/a.png' alt='logo'>"
    )
    numbers = new_code_cell(
        DRAWN + 'headline("Draws", first=rng.normal(), n=44613, none=float("nan"), label=label, h=str(horizons))'
    )
    foreign = new_code_cell(
        "from IPython.display import HTML\n"
        "HTML(\"<script src='https://example.org/x.js'></script><table><tr><td>kept</td></tr></table>\")"
    )
    write_notebook(root / "nb/00_first.ipynb", text, numbers, foreign, new_code_cell(PICTURE))
    verdict = new_code_cell(DRAWN + 'headline("60 bars", verdict="no edge")' + INSIGHT)
    write_notebook(root / "nb/01_next.ipynb", verdict, parameters='symbol: str = "SP500"\nseed: int = 7')
    options: dict[str, Any] = {"notebooks": root / "nb", "reports": root / "reports", "progress": False}
    first = run_report(ReportRequest(parameters={"label": "007", "horizons": "[2, 3]"}), **options)
    earlier = json.loads((first / "receipt.json").read_bytes()), (first / "insight.json").read_bytes()
    (first / "stale.txt").write_text("of the earlier report")
    again = run_report(ReportRequest(parameters={"label": "007", "horizons": "[2, 3]"}), force=True, **options)
    return again, *earlier


def receipt_of(report: Path) -> dict[str, Any]:
    receipt: dict[str, Any] = json.loads((report / "receipt.json").read_bytes())
    return receipt


# --- a finished report ----------------------------------------------------------------------------


def test_same_seed_gives_the_same_insight_and_headline_digest(reports: Any) -> None:
    report, earlier, insight = reports
    assert (report / "insight.json").read_bytes() == insight
    assert receipt_of(report)["headlines"] == earlier["headlines"]
    assert receipt_of(report)["headline_digest"] == earlier["headline_digest"]


def test_a_new_report_replaces_the_whole_folder_and_leaves_nothing_beside_it(reports: Any) -> None:
    report = reports[0]
    names = ["00_first.ipynb", "01_next.ipynb", "index.html", "insight.json", "receipt.json"]
    assert sorted(path.name for path in report.iterdir()) == names
    assert sorted(path.name for path in report.parent.iterdir()) == [".kept", "SP500-1d"]


def test_values_arrive_as_annotated_and_only_where_declared(reports: Any) -> None:
    receipt = receipt_of(reports[0])
    assert receipt["parameters"]["00_first.ipynb"]["label"] == "007"
    assert receipt["parameters"]["01_next.ipynb"] == {"symbol": "SP500", "seed": 7}
    shown = {entry["name"]: entry["value"] for entry in receipt["headlines"]}
    assert (shown["label"], shown["h"]) == ("007", "[2, 3]")


def test_headline_numbers_reach_the_receipt_rounded_in_order_with_their_cell(reports: Any) -> None:
    report = reports[0]
    draw = np.random.default_rng(7).normal()
    entries = receipt_of(report)["headlines"]
    assert [entry["name"] for entry in entries] == ["first", "n", "none", "label", "h", "verdict"]
    assert [entry["value"] for entry in entries[:3]] == [float(f"{draw:.4g}"), 44613, None]
    cells = nbformat.read(report / "00_first.ipynb", as_version=4).cells
    assert HEADLINE_MIME in cells[entries[0]["cell"]].outputs[0].data


def test_receipt_says_what_went_in(reports: Any) -> None:
    receipt = receipt_of(reports[0])
    assert (receipt["data"]["bars"], receipt["seed"], receipt["profile"]) == (5031, 7, "smoke")
    assert len(receipt["data"]["sha256"]) == 64
    assert all(receipt["threads"].values())
    assert {"python", "numpy", "papermill"} <= set(receipt["versions"])


def test_a_span_reaches_the_bars_that_the_cells_see(tmp_path: Path) -> None:
    cell = new_code_cell(
        "import mlkit\nfrom mlkit.report import headline\n"
        "bars = mlkit.load_bars(symbol, '1d', since=since, until=until)\n"
        "headline('Span', bars=len(bars), first=str(bars.index[0]), last=str(bars.index[-1]))"
    )
    spanned = 'symbol: str = "SP500"\nsince: str | None = None\nuntil: str | None = None'
    write_notebook(tmp_path / "nb/00_first.ipynb", cell, parameters=spanned)
    options: dict[str, Any] = {"notebooks": tmp_path / "nb", "reports": tmp_path, "progress": False}
    span = {"since": "2005-01-01", "until": "2010-01-04"}
    receipt = receipt_of(run_report(ReportRequest(parameters=span), **options))
    bars = load_bars("SP500", "1d").loc["2005-01-01":"2010-01-03"]
    first, last = (bars.index[k].isoformat() for k in (0, -1))
    assert receipt["data"] == {
        "sha256": fingerprint(bars), "bars": len(bars), "first": first, "last": last, **span
    }  # fmt: skip
    assert [entry["value"] for entry in receipt["headlines"]] == [len(bars), str(bars.index[0]), str(bars.index[-1])]


def test_page_loads_nothing_and_runs_nothing_but_its_own_script(reports: Any) -> None:
    html = (reports[0] / "index.html").read_text()
    page = Page(html)
    names = {tag for tag, _ in page.tags}
    assert not names & {"link", "iframe", "object", "embed", "base"}
    sources = [value or "" for _, attrs in page.tags for name, value in attrs.items() if name in ("src", "srcset")]
    assert sources
    assert all(source.startswith("data:") for source in sources)
    assert "@import" not in html and "url(http" not in html
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv"))
    assert policy is not None and policy.startswith("default-src 'none'")
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert len(digests) == 1 and f"script-src 'sha256-{digests[0]}'" in policy and html.count("<script") == 1
    assert len(html) < 5_000_000


def test_page_tells_the_story(reports: Any) -> None:
    html = (reports[0] / "index.html").read_text()
    anchors = {attrs["id"] for _, attrs in Page(html).tags if "id" in attrs}
    links = [attrs["href"] or "" for tag, attrs in Page(html).tags if tag == "a"]
    assert all(link[1:] in anchors for link in links if link.startswith("#"))
    assert "#01_next" in links  # the link between notebooks stays in the page
    order = [html.index(text) for text in ("<b>no edge", "CARD", ">About 00_first</h2>", ">About 01_next</h2>")]
    assert order == sorted(order)
    assert "kept" in html and "[logo]" in html
    assert 'src="data:image/png;base64,' in html


def test_summary_is_the_insight_the_verdict_and_the_page(reports: Any) -> None:
    lines = summarise_report(reports[0]).splitlines()
    assert lines[:2] == ["SP500 in a few lines", "60 bars: no edge"]
    assert lines[-1] == str(reports[0] / "index.html")


# --- what is refused before anything runs ---------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"parameters": {"sed": "8"}},
            "unknown parameter 'sed'; the notebooks know horizons, label, seed, symbol",
        ),
        ({"parameters": {"seed": "7.5"}}, "parameter seed='7.5' is not of type int"),
        ({"parameters": {"horizons": "five"}}, r"parameter horizons='five' is not of type tuple\[int, ...\]"),
        ({"parameters": {"symbol": "../etc"}}, "symbol '../etc' is not accepted"),
        ({"symbol": "NOSUCH"}, "NOSUCH"),
        ({"timeframe": "7d"}, "timeframe '7d' is unknown"),
        ({"profile": "fast"}, "profile 'fast' is unknown; use one of smoke, full"),
        ({"seed": -1}, "seed '-1' is not a whole number"),
    ],
)
def test_bad_input_is_one_line_and_nothing_runs(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_notebook(tmp_path / "nb/00_first.ipynb")
    with pytest.raises(MlkitError, match=message) as caught:
        run_report(ReportRequest(**arguments), notebooks=tmp_path / "nb", reports=tmp_path / "reports", progress=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "reports").exists()


def test_a_folder_without_notebooks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no notebook"):
        run_report(notebooks=tmp_path, reports=tmp_path / "reports")


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        ("str", "007", "007"),
        ("str", "None", "None"),
        ("int", "007", 7),
        ("float", "1e-3", 0.001),
        ("bool", "true", True),
        ("int | None", "None", None),
        ("int | None", "5", 5),
        ("list[int]", "[1, 5]", [1, 5]),
        ("tuple[int, ...]", "[1, 5]", [1, 5]),
        ("dict[str, float]", '{"a": 1}', {"a": 1.0}),
        ('Literal["smoke", "full"]', "full", "full"),
    ],
)
def test_text_is_converted_by_the_annotation(annotation: str, text: str, value: object, tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "00_a.ipynb", parameters=f"x: {annotation} = ...  # what it is")
    assert convert_parameters([notebook], {"x": text}, {}) == {"00_a.ipynb": {"x": value}}


@pytest.mark.parametrize(("annotation", "text"), [("int", "x"), ("float", "nan"), ("bool", "7"), ("list[int]", "1")])
def test_text_of_another_type_is_refused(annotation: str, text: str, tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "00_a.ipynb", parameters=f"x: {annotation} = ...")
    with pytest.raises(ConfigError, match=f"parameter x={text!r} is not of type"):
        convert_parameters([notebook], {"x": text}, {})


def test_an_annotation_that_is_not_understood_names_the_notebook(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "00_a.ipynb", parameters="x: DataFrame = None")
    with pytest.raises(ConfigError, match=r"00_a\.ipynb: parameter x has the annotation DataFrame"):
        convert_parameters([notebook], {}, {})


# --- runs that do not finish ----------------------------------------------------------------------


def test_a_failing_cell_goes_to_failed_and_an_earlier_report_stays(tmp_path: Path) -> None:
    write_notebook(tmp_path / "nb/00_first.ipynb", new_code_cell("raise ValueError('bad\\nvalue')"))
    earlier = tmp_path / "reports/SP500-1d"
    earlier.mkdir(parents=True)
    (earlier / "index.html").write_text("the last good one")
    with pytest.raises(ReportError) as caught:
        run_report(notebooks=tmp_path / "nb", reports=tmp_path / "reports", progress=False)
    failed = tmp_path / "reports/failed/SP500-1d"
    line = f"00_first.ipynb, cell 4 (In [3]): ValueError: bad value (see {failed})"
    assert str(caught.value) == line
    assert (earlier / "index.html").read_text() == "the last good one"
    assert sorted(path.name for path in (tmp_path / "reports").iterdir()) == ["SP500-1d", "failed"]
    assert "ValueError: bad value" in (failed / "index.html").read_text()
    assert receipt_of(failed)["failure"].startswith("00_first.ipynb, cell 4")
    cells = nbformat.read(failed / "00_first.ipynb", as_version=4).cells
    assert cells[3].outputs[0].ename == "ValueError"  # the fourth, as the line says


def test_ctrl_c_leaves_no_half_report_and_no_kernel(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = f"import os, time\nopen({str(pid_file)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)"
    write_notebook(tmp_path / "nb/00_first.ipynb", new_code_cell(code))
    threading.Thread(target=press_ctrl_c_when, args=(lambda: pid_file.exists() and pid_file.read_text(),)).start()
    with pytest.raises(KeyboardInterrupt):
        run_report(notebooks=tmp_path / "nb", reports=tmp_path / "reports", progress=False)
    assert list((tmp_path / "reports").iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


def press_ctrl_c_when(ready: Callable[[], object]) -> None:
    for _ in range(600):
        if ready():
            os.kill(os.getpid(), signal.SIGINT)
            return
        time.sleep(0.1)


def test_what_a_killed_run_left_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_notebook(tmp_path / "nb/00_first.ipynb")
    left, alive = (tmp_path / f"reports/.SP500-1d.{pid}.tmp" for pid in (2**22 + 1, os.getppid()))
    aside = tmp_path / f"reports/.SP500-1d.{2**22 + 2}.old"  # killed between two renames
    for folder in (left, alive, aside):
        folder.mkdir(parents=True)

    def stopped(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("papermill.execute_notebook", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_report(notebooks=tmp_path / "nb", reports=tmp_path / "reports", progress=False)
    assert sorted((tmp_path / "reports").iterdir()) == [alive, tmp_path / "reports/SP500-1d"]


def test_the_callers_environment_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MLKIT_N_THREADS", "3")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    write_notebook(tmp_path / "nb/00_first.ipynb")
    seen: dict[str, str] = {}

    def look(*args: object, **kwargs: object) -> None:
        seen.update(os.environ)
        raise RuntimeError("enough")

    monkeypatch.setattr("papermill.execute_notebook", look)
    before = dict(os.environ)
    with pytest.raises(ReportError, match=r"00_first\.ipynb: RuntimeError: enough"):
        run_report(notebooks=tmp_path / "nb", reports=tmp_path / "reports", progress=False)
    assert dict(os.environ) == before
    assert (seen["OMP_NUM_THREADS"], seen["NUMBA_NUM_THREADS"], seen["PYTHONHASHSEED"]) == ("1", "3", "0")
    assert seen["MPLBACKEND"] != "Agg"  # it would drop every figure


# --- the pieces -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0123456, "0.01235"), (43250.5, "43,250"), (0.31, "0.3100"), (-0.0, "0"), (1.5e-7, "1.500e-07")],
)
def test_floats_are_shown_with_their_digits(value: float, text: str) -> None:
    assert shown_value(float(f"{value:.4g}"), 4) == text


def test_headline_outside_a_notebook_prints_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    headline("Market", n_bars=np.int64(44613), r2=np.float32(0.5), edge=np.bool_(False))
    assert capsys.readouterr().out.splitlines() == [
        "Market",
        "n bars  44,613",
        "r2      0.5000",
        "edge        no",
    ]


def test_headline_refuses_what_is_no_number() -> None:
    with pytest.raises(ConfigError, match="headline 'table' is a list"):
        headline(table=[1, 2])


def test_digest_does_not_depend_on_the_order_of_keys_but_on_every_value() -> None:
    entry = {"notebook": "a", "cell": 1, "title": None, "name": "x", "value": 0.1, "digits": 4}
    assert headline_digest([entry]) == headline_digest([dict(reversed(entry.items()))])
    assert headline_digest([entry]) != headline_digest([{**entry, "value": 0.2}])
    assert collect_headlines({}) == []


def test_formulas_are_drawn_or_shown_as_written() -> None:
    assert formula(r"\sigma^2", display=False).startswith("<svg")
    assert formula(r"\begin{cases} a \end{cases}", display=False).startswith("<code>")


def test_equal_headings_get_different_anchors(tmp_path: Path) -> None:
    cells = [new_markdown_cell("## Twice"), new_markdown_cell("## Twice\n\n```python\nx = 1\n```")]
    story = Story("00_a.ipynb", new_notebook(cells=cells), tmp_path, ())
    assert [heading.anchor for heading in story.headings] == ["00_a-twice", "00_a-twice-2"]
    assert "highlight" in story.html
