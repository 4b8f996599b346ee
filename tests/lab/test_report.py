"""The report as files: complete, escaped, self-contained, and honest about what is not there."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from tests.lab.synthetic import experiment, known, run, runs
from torchgraft.errors import LabError
from torchgraft.lab.analysis import analyse
from torchgraft.lab.records import Experiment, Row
from torchgraft.lab.report import FORMATS, tell_report, write_report
from torchgraft.lab.report.build import build
from torchgraft.lab.report.latex import escaped as escaped_in_latex
from torchgraft.lab.report.markdown import escaped as escaped_in_markdown
from torchgraft.lab.report.text import plain_text

TEXTS = ("txt", "md", "tex", "json", "csv")
NASTY = r"""a<b>&"c'_1$x$%#{~^\|*`[y]"""


def odd(kind: str) -> tuple[Experiment, list[Row]]:
    """Grids at the edge of what a report may be asked to tell."""
    asked, rows = known()
    broken = run("graft", "a", "b", 0, (1.0,), 0.7, exploded="loss is nan at epoch 1, step 1")
    return {
        "nothing": (asked, []),
        "one seed": (replace(asked, seeds=(0,)), [row for row in rows if row.seed == 0]),
        "no random": (asked, [row for row in rows if row.initialization != "random"]),
        "zero random": (asked, [*runs("random", "", "b", (0.0, 0.0, 0.0)), *rows[6:9]]),
        "exploded": (asked, [*rows[:6], broken]),
        "one pair": (replace(asked, pairs=(("a", "b"),)), [*rows[:3], *rows[6:9]]),
        "random only": (replace(asked, initializations=("random",)), rows[:6]),
        "ablation": (
            replace(asked, initializations=("random", "dpiat", "dpiat:full", "dpiat:random:full")),
            [*rows, *runs("dpiat:full", "a", "b", (10.0, 11.0, 12.0), 0.7)],
        ),
        "nasty names": (
            experiment((NASTY, "b"), title=NASTY, thresholds=(25.0,)),
            [*rows[:3], *runs("graft", NASTY, "b", (30.0, 31.0, 33.0), 0.5)],
        ),
    }[kind]


KINDS = (
    "nothing", "one seed", "no random", "zero random", "exploded", "one pair", "random only", "ablation",
    "nasty names",
)  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "new"
    paths = write_report(*known(), folder)
    assert sorted(paths) == sorted(folder.iterdir())
    return folder


def test_all_files_are_there(written: Path) -> None:
    assert {path.name for path in written.iterdir()} == {
        "report.txt", "report.md", "report.tex", "report.html", "summary.json", "runs.csv", "speed.csv",
        "heat-dpiat.png", "heat-graft.png", "ratio-graft-over-dpiat.png", "similarity.png", "curves.png",
        "curves-by-target.png",
    }  # fmt: skip
    for path in written.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG"), path.name


def test_the_same_rows_give_the_same_bytes(written: Path, tmp_path: Path) -> None:
    write_report(*known(), tmp_path)
    for path in written.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_text_tells_the_figures_and_the_losses_by_name(written: Path) -> None:
    text = " ".join((written / "report.txt").read_text().split())
    assert "graft over dpiat: mean ratio of accuracies 1.252 [0.504, 2.000] over 2 pairs" in text
    assert "graft: mean effectiveness 1.05 [0.50, 1.60], beats random on 1 of 2 cases." in text
    assert "Significantly worse than random: b → a (p < 0.05, uncorrected); after Holm's correction: b → a." in text
    assert "3 seeds are few" in text
    assert "18 of 18 runs are there, none is missing." in text
    assert "1.60 ± 0.10**" in text
    assert "No run exploded." in text


@pytest.mark.parametrize("kind", KINDS)
def test_every_table_is_rectangular_and_says_n_and_where_it_came_from(kind: str) -> None:
    asked, rows = odd(kind)
    document = build(analyse(asked, rows), "torchgraft lab run made-up")
    assert "torchgraft lab run made-up" in document.origin
    for table in (table for section in document.sections for table in section.tables):
        assert {len(row) for row in table.rows} <= {len(table.columns)}, table.title
        if table.title not in ("Setting", "Missing runs"):
            assert re.search(r"\bn\b", table.note), table.title
        if any("±" in cell.text for row in table.rows for cell in row):
            assert "± is the sample standard deviation over" in table.note, table.title
    text = plain_text(document)
    assert text.count("Made by: torchgraft lab run made-up") == sum(len(s.tables) for s in document.sections)


@pytest.mark.parametrize("kind", KINDS)
def test_edges_are_written_in_every_text_format(kind: str, tmp_path: Path) -> None:
    paths = write_report(*odd(kind), tmp_path, formats=TEXTS)
    assert all(path.stat().st_size for path in paths)
    told = json.loads((tmp_path / "summary.json").read_text())
    assert told["experiment"] == "made-up"


@pytest.mark.parametrize("kind", ["nothing", "one seed", "exploded", "nasty names"])
def test_edges_are_drawn(kind: str, tmp_path: Path) -> None:
    paths = write_report(*odd(kind), tmp_path, formats=("png", "html"))
    page = (tmp_path / "report.html").read_text()
    assert page.count("<img ") == len(paths) - 1


def test_what_is_not_there_is_said() -> None:
    def told(kind: str) -> str:
        asked, rows = odd(kind)
        return " ".join(plain_text(build(analyse(asked, rows), "cmd")).split())

    assert "0 of 18 runs are there, 18 are missing" in told("nothing")
    assert "no initialization has a run next to a random baseline" in told("nothing").lower()
    assert "One seed: there is no spread and no test of single pairs" in told("one seed")
    assert "Without a figure, for want of a random baseline above 0 %: b → a, a → b." in told("no random")
    assert "Without a figure, for want of a random baseline above 0 %: a → b." in told("zero random")
    assert "1 run exploded (graft 1)" in told("exploded")
    assert "loss is nan at epoch 1, step 1" in told("exploded")
    assert "0.05† (n=1/3)" in told("exploded")
    assert "Ablation of dpiat" in told("ablation")


class _Page(HTMLParser):
    """Check that tags are closed in order; collect what a browser would load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("kind", ["known", "nasty names"])
def test_the_page_is_well_formed_and_loads_nothing(kind: str, tmp_path: Path) -> None:
    write_report(*(known() if kind == "known" else odd(kind)), tmp_path, formats=("html",))
    text = (tmp_path / "report.html").read_text()
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert all(target.startswith(("data:image/png;base64,", "#")) for target in page.loads)
    assert not page.seen & {"script", "link", "iframe", "b"}, "nor does a name become a tag"
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"url\(|@import|https?:", text)


def test_names_are_escaped_in_markdown(tmp_path: Path) -> None:
    write_report(*odd("nasty names"), tmp_path, formats=("md",))
    width = 0
    for line in (tmp_path / "report.md").read_text().splitlines():
        if not line.startswith("|"):
            width = 0
            continue
        bars = len(re.findall(r"(?<!\\)(?:\\\\)*\|", line))
        assert bars == (width or bars), line
        width = bars
    assert escaped_in_markdown("a|b") == r"a\|b"
    assert escaped_in_markdown("x_1 <b>") == r"x_1 \<b>"


def test_names_are_escaped_in_latex(tmp_path: Path) -> None:
    write_report(*odd("nasty names"), tmp_path, formats=("tex",))
    lines = (tmp_path / "report.tex").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("%"))
    bare = re.sub(r"\\[\\&%$#_{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert not re.search("[#~^%]", bare)
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == text.count(r"\begin{tabular}") > 5
    assert text.isascii(), "every sign of ours has a command"
    for columns, body in re.findall(r"\\begin\{tabular\}\{(.*?)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL):
        expected = len(re.sub(r"p\{.*", "p", columns))
        for line in body.splitlines():
            if line.endswith(r"\\"):
                assert len(re.findall(r"(?<!\\)&", line)) == expected - 1, line
    assert escaped_in_latex("50 % of a_b: -1 ± 2") == r"50 \% of a\_b: $-$1 $\pm$ 2"


def test_a_dollar_in_a_name_is_no_formula(tmp_path: Path) -> None:
    rows = [*runs("random", "", "$x^", (10.0, 11.0, 12.0)), *runs("graft", "$\\frac{", "$x^", (12.0, 12.5, 14.0), 0.5)]
    paths = write_report(experiment(("$x^", "$\\frac{")), rows, tmp_path, formats=("png",))
    assert {path.name for path in paths} == {"heat-graft.png", "similarity.png", "curves.png", "curves-by-target.png"}


def test_summary_holds_the_watched_figure_and_no_nan(written: Path) -> None:
    text = (written / "summary.json").read_text()
    told = json.loads(text)
    assert told["graft_over_dpiat"]["mean"]["value"] == pytest.approx(1.2520833)
    assert told["effectiveness"]["graft"]["wins"] == 1
    assert [pair["target"] for pair in told["effectiveness"]["graft"]["worse"]] == ["a"]
    assert not re.search("NaN|Infinity", text)
    assert told["setting"]["torch"] == {"2.13.0": 18}


def test_the_terminal_gets_the_main_tables_whole() -> None:
    buffer = StringIO()
    tell_report(Console(file=buffer, width=100, color_system=None), *known())
    short = buffer.getvalue()
    assert "Effectiveness of graft" in short and "b → a" in short
    assert "Setting" not in short
    assert "…" not in re.sub(r"\(n=…\)", "", short), "no name is cut"
    tell_report(Console(file=buffer, width=100, color_system=None), *known(), full=True)
    assert "Setting" in buffer.getvalue()
    brackets = StringIO()
    tell_report(Console(file=brackets, width=300, color_system=None), *odd("nasty names"))
    assert NASTY in brackets.getvalue(), "brackets in a name are no markup"


def test_formats_are_checked_and_chosen(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"unknown format 'pdf' .* \(valid: txt, md, tex, png, html, json, csv\)"):
        write_report(*known(), tmp_path, formats=("pdf",))
    assert write_report(*known(), tmp_path, formats=("md",)) == (tmp_path / "report.md",)
    assert "![" not in (tmp_path / "report.md").read_text(), "no link to a picture that is not there"
    assert set(FORMATS) >= set(TEXTS)


def test_a_missing_package_is_named_and_the_old_report_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "report.txt").write_text("old")
    for package, wanted in (("matplotlib.figure", "html"), ("jinja2", "html"), ("pandas", "csv")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            with pytest.raises(
                LabError, match=rf"{package.split('.')[0]}, which is not installed: .*torchgraft\[lab\]"
            ):
                write_report(*known(), tmp_path, formats=("txt", wanted))
    assert (tmp_path / "report.txt").read_text() == "old"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match="file cannot be made"):
        write_report(*known(), tmp_path / "file", formats=("txt",))


def test_what_an_earlier_report_left_goes_and_what_others_made_stays(tmp_path: Path) -> None:
    asked, rows = known()
    write_report(asked, rows, tmp_path)
    theirs = tmp_path / "heat-pump.png"
    theirs.write_bytes(b"\x89PNG of another program")
    (tmp_path / "notes.txt").write_text("mine")
    fewer = replace(asked, initializations=("random", "graft"), thresholds=())
    left = write_report(fewer, [row for row in rows if row.initialization != "dpiat"], tmp_path, formats=("md",))
    assert (tmp_path / "heat-dpiat.png").exists() and left == (tmp_path / "report.md",), "only the format written"
    written = write_report(fewer, [row for row in rows if row.initialization != "dpiat"], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in written} | {theirs.name, "notes.txt"}
    assert not (tmp_path / "speed.csv").exists() and not (tmp_path / "ratio-graft-over-dpiat.png").exists()


def test_a_wide_table_is_told_in_parts_and_no_figure_is_folded() -> None:
    names = ("random", *(f"graft:x=0.{digit}" for digit in range(1, 9)))
    rows = [row for name in names for row in runs(name, "" if name == "random" else "a", "b", (20.0, 21.0, 22.0))]
    buffer = StringIO()
    asked = replace(experiment(("a", "b"), thresholds=(10.0,)), initializations=names, pairs=(("a", "b"),))
    tell_report(Console(file=buffer, width=80, color_system=None), asked, rows, full=True)
    lines = buffer.getvalue().splitlines()
    first = lines.index("Accuracy after the last epoch (random to graft:x=0.6)")
    parts = lines[first : first + 12]
    assert [line.split()[:2] for line in parts if line.startswith(("source", "a "))] == [
        ["source", "target"],
        ["a", "b"],
    ] * 2, "the columns that name a row are repeated"
    assert sum(line.count("21.00 ± 1.00") for line in parts) == 7, "seven figures, each in one piece"
    assert all(len(line.rstrip()) <= 80 for line in parts)


def test_zero_shot_and_time_to_accuracy_stand_in_short() -> None:
    told = " ".join(plain_text(build(analyse(*known()), "command")).split())
    assert "Accuracy before any training, mean over pairs: random 1.0 %, dpiat 1.0 %, graft 1.0 %." in told
    assert "Sooner at 25 % accuracy than random: dpiat on 0 of 2, graft on 1 of 2 cases." in told


def test_runs_on_other_images_are_not_compared_in_silence() -> None:
    asked, rows = known()
    told = plain_text(build(analyse(asked, rows), "command"))
    assert "not comparable" not in told
    seen = [replace(row, setting={**row.setting, "data": "one", "files": {"w.pt": "1"}}) for row in rows]
    seen[-1] = replace(seen[-1], setting={**seen[-1].setting, "data": "two"})
    told = " ".join(plain_text(build(analyse(asked, seen), "command")).split())
    assert "The runs are not comparable: images of digits changed between them." in told
    seen[0] = replace(seen[0], setting={**seen[0].setting, "data": "two", "files": {"w.pt": "2"}})
    told = " ".join(plain_text(build(analyse(asked, seen), "command")).split())
    assert "images of digits, w.pt changed between them." in told and "commits" not in told
    later = replace(rows[0], setting={**rows[0].setting, "commit": "def"})
    told = " ".join(plain_text(build(analyse(asked, [later, *rows[1:]]), "command")).split())
    assert "Runs are of 2 commits of torchgraft (abc: 17, def: 1): what changed" in told


def test_gradients_far_beyond_random_are_told() -> None:
    asked, rows = known()
    told = " ".join(plain_text(build(analyse(asked, _steep(rows, 9.0)), "command")).split())
    assert "No run exploded. graft" not in told and "No run exploded." in told and "times as large" not in told
    told = " ".join(plain_text(build(analyse(asked, _steep(rows, 21.0)), "command")).split())
    assert "In 1 run (graft 1) a gradient was more than 10 times as large as any of the same target" in told
    assert "graft 6 2 21 1 a → b seed 0, then 30.00 %" in told


def _steep(rows: list[Row], most: float) -> list[Row]:
    """Give every run gradients of 2, and the first of graft one of ``most``."""
    first = next(row.key for row in rows if row.initialization == "graft")
    norms = {row.key: most if row.key == first else 2.0 for row in rows}
    return [
        replace(row, curve=(row.curve[0], *(replace(point, gradient=norms[row.key]) for point in row.curve[1:])))
        for row in rows
    ]
