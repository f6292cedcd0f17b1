"""What the training report shows, and that nothing in it can break the page."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_contracts.references import (
    CheckResult,
    ContractReport,
    Estimate,
    GateReport,
    RuleResult,
    Verdict,
)
from tasks import report
from tasks.corrupt import Corruption
from tasks.evaluation import CorruptionRow, Robustness
from tasks.figures import Bin, class_counts, confused_pairs, confusion, curves
from tasks.fit_words import judge_fit
from tasks.gallery import (
    Augmented,
    Cleaned,
    Denoised,
    Flip,
    Inpainted,
    Mistake,
    Odd,
    Quarantined,
    Spoiled,
    by_reason,
    data_uri,
)
from tasks.report import gate_table, render_report, summary_markdown, write_report
from tasks.report_content import (
    ClassRow,
    PastCheck,
    Provenance,
    ReportContent,
    SliceRow,
)
from tasks.wording import duration, estimate, interval, metric_name, number, unit

HOSTILE = [
    "<script>alert(1)</script>",
    "\"onmouseover='x' & </style></title>",
    "{{ 7 * 7 }}{% raw %}",
    "$\\frac{1}{$ ünïcödé 猫",
    "name\udcff\x00\u202egpj.exe",
]
HISTORY = [
    {"epoch": e, "train_loss": 2 / e, "val_loss": 3 / e, "train_top1": 0.1 * e}
    | {"val_top1": 0.1 * e, "learning_rate": 1e-3, "images_per_second": 400.0}
    for e in (1, 2, 3)
]
SECTIONS = [
    *("gate", "results", "training", "classes", "slices", "calibration"),
    *("robustness", "mistakes", "flips", "images", "cleaning", "contracts", "run"),
]


def share(value: float, n: int = 100) -> Estimate:
    return Estimate(value=value, low=value - 0.02, high=value + 0.02, n=n)


def pixels(side: int = 8, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (side, side, 3), dtype=np.uint8)


def test_what_an_adversarial_training_withstood_is_shown():
    attacked = [
        line | {"val_robust": 0.1 * line["epoch"], "robust_images": 200}
        for line in HISTORY
    ]
    told = "200 validation images were attacked"
    page = render_report(replace(minimal(), history=attacked, best_epoch=3))
    assert told in page
    assert "30.0 % (24.1 to 36.7) stayed right" in page
    assert "validation under attack" in page
    assert "Val top-1 under attack" in page
    plain = render_report(replace(minimal(), history=HISTORY, best_epoch=3))
    assert told not in plain
    assert "under attack" not in plain


def gate(verdict: str = "pass", **fields) -> GateReport:
    check = CheckResult(
        check="top1_floor",
        verdict=Verdict(verdict),
        value=0.585,
        low=0.566,
        high=0.604,
        limit=0.3,
        n=100,
        detail="Top-1 against its floor.",
    )
    return GateReport(name="pets", verdict=Verdict(verdict), checks=[check], **fields)


def minimal() -> ReportContent:
    return ReportContent(name="pets", gate=gate(), label_names=("cat", "dog"))


def full(names: list[str], *, text: str = "plain", side: int = 8) -> ReportContent:
    """Fill every field, with `names` as classes and `text` wherever text goes."""
    k, image = len(names), pixels(side)
    rng = np.random.default_rng(0)
    matrix = rng.integers(0, 5, (k, k)) + 20 * np.eye(k, dtype=np.int64)
    rows = [
        ClassRow(
            name=n, train=9, val=1, test=5, precision=0.5, recall=share(i / k), f1=0.5
        )
        for i, n in enumerate(names)
    ]
    rule = RuleResult(
        rule=text,
        verdict=Verdict.FAIL,
        severity="critical",
        why=text,
        observed=text,
        value=0.3,
        limit=0.2,
        note=text,
        offenders=[text],
        n_offenders=1,
    )
    return ReportContent(
        name=text,
        version=3,
        title=text,
        run_id=text,
        date=text,
        gate=gate(champion=2, flips={"fixed": [text] * 7}).model_copy(
            update={
                "checks": [CheckResult(check=text, verdict=Verdict.FAIL, detail=text)]
            }
        ),
        metrics={"top1": share(0.585), text: share(0.1)},
        champion_metrics={"top1": share(0.5)},
        notes=[text],
        history=HISTORY,
        best_epoch=3,
        fit=judge_fit(HISTORY, train=share(0.9), val=share(0.6), more=share(0.02)),
        label_names=names,
        confusion=matrix,
        classes=rows,
        slices=[SliceRow(slice=text, value=text, top1=share(0.4))],
        bins=[Bin(low=0, high=0.5, confidence=0.3, accuracy=0.2, n=10)],
        mistakes=[
            Mistake(
                image=image,
                path=text,
                label=text,
                predicted=text,
                probability=0.9,
                why=image,
            )
        ],
        flips=[
            Flip(image=image, path=text, label="a", champion=text, candidate="a"),
            Flip(image=image, path=text, label="a", champion="a", candidate=text),
        ],
        n_images=5421,
        splits={"train": 60, "val": 10, "test": 30, text: 5},
        missing=[text],
        augmented=[
            Augmented(
                original=image, seen=np.stack([image] * 3), label=text, words=[text] * 3
            )
        ],
        views=text,
        cleaned=[
            Cleaned(image=image, path=text, reason="near-duplicate", detail=text)
            if i % 2
            else Cleaned(
                image=image, path=text, reason=text, kept=image, kept_path=text
            )
            for i in range(4)
        ],
        denoised=[Denoised(before=image, after=image, path=text, noise=text)],
        odd=[
            Odd(image=image, path=text, label=text, oddness=9, why=text, left_out=True)
        ],
        n_odd=30,
        robustness=Robustness(
            n=10,
            clean=share(0.6),
            champion_clean=share(0.5),
            rows=[
                CorruptionRow(
                    corruption=Corruption.fog,
                    severity=s,
                    top1=share(0.4),
                    champion=share(0.3),
                )
                for s in (1, 5)
            ],
        ),
        spoiled=[Spoiled(image=image, name=text, top1=(0.4, 0.3), champion=(0.3, 0.2))],
        inpainted=[Inpainted(before=image, after=image, path=text, share=0.2)],
        n_inpainted=14,
        noise_counts={text: 1},
        quarantine=[Quarantined(path=text, reason=text, detail=text)] * 20,
        quarantine_counts={text: 300},
        contracts=[
            ContractReport(
                contract=text,
                version="1.0.0",
                sha256="0" * 64,
                verdict=Verdict.FAIL,
                n_rows=9,
                rules=[rule],
            )
        ],
        checks={
            text: [
                PastCheck(
                    when=text, verdict=verdict, version=text, rows=9, broken=[text]
                )
                for verdict in (Verdict.PASS, Verdict.FAIL)
            ]
        },
        provenance=Provenance(
            source=text,
            dataset_uri=text,
            snapshot=text,
            digests={text: text},
            code_version=text,
            commit=text,
            seed=0,
            device=text,
            versions={text: text},
            settings={text: [text, {"a": 1}]},
        ),
        stage_seconds={text: 0.0, "train": 65.0},
        commands={text: text},
    )


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that tags close in order."""

    VOID = frozenset({"meta", "br", "img", "link", "hr", "input"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def ids(page: Page) -> list[str | None]:
    return [value for name, value in page.attributes if name == "id"]


def test_a_report_of_almost_nothing_renders():
    page = Page(render_report(minimal()))
    assert [i for i in ids(page) if i in SECTIONS] == ["gate", "images", "run"]
    assert "58.5 % (56.6 to 60.4)" in " ".join(page.text.split())


def test_an_empty_gate_says_so():
    content = ReportContent(
        name="pets", gate=GateReport(name="pets", verdict=Verdict.NOT_RUN, checks=[])
    )
    page = Page(render_report(content))
    assert "nothing can pass it" in page.text
    assert "Gate not run: pets" in page.text


def test_a_full_report_shows_every_section_once():
    page = Page(render_report(full(["cat", "dog"])))
    assert [i for i in ids(page) if i in SECTIONS] == SECTIONS
    assert len(set(ids(page))) == len(ids(page))
    links = [
        v
        for n, v in page.attributes
        if n == "href" and v in map("#{}".format, SECTIONS)
    ]
    assert links == [f"#{name}" for name in SECTIONS]


def test_nothing_is_loaded_from_elsewhere():
    page = render_report(full(["cat", "dog"]))
    assert not re.search(r"https?://|@import|<link|<script|<iframe", page)
    sources = [v for n, v in Page(page).attributes if n in ("src", "data", "srcset")]
    assert sources
    assert all(v.startswith("data:image/jpeg;base64,") for v in sources)


def test_every_reference_inside_a_chart_has_its_target():
    page = render_report(full(["cat", "dog"]))
    used = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', page)
    assert {a or b for a, b in used} <= set(ids(Page(page)))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text):
    markup = render_report(full([text, "dog"], text=text))
    page = Page(markup)
    plain = Page(render_report(full(["cat", "dog"])))
    assert page.tags == plain.tags
    assert {n for n, _ in page.attributes} == {n for n, _ in plain.attributes}
    assert report.printable(text).strip() in page.text
    markup.encode("utf-8")


@settings(max_examples=15, deadline=None)
@given(st.text(min_size=1))
def test_any_text_leaves_the_tags_as_they_are(text):
    content = replace(minimal(), name=text, run_id=text, notes=[text], missing=[text])
    expected = Page(
        render_report(replace(minimal(), run_id="a", notes="a", missing="a"))
    )
    assert Page(render_report(content)).tags == expected.tags


def test_two_hundred_classes_show_the_worst_and_fold_the_rest():
    names = [f"class {i:03}" for i in range(200)]
    page = render_report(full(names))
    assert "The 15 classes recognised least" in page
    assert "All 200 classes" in page
    assert page.count('class="matrix"') == 1
    cells = re.search(r'class="matrix".*?</table>', page, re.DOTALL).group()
    assert cells.count("<td") == 16 * 16
    assert len(page) < 500_000


def test_twenty_classes_show_the_whole_matrix():
    page = render_report(full([f"class {i}" for i in range(20)]))
    cells = re.search(r'class="matrix".*?</table>', page, re.DOTALL).group()
    assert cells.count("<td") == 400
    assert "Every class, the least recognised first" in page


def test_many_large_pictures_still_fit(monkeypatch):
    monkeypatch.setattr(report, "MAX_BYTES", 1_000_000)
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (40, 200, 200, 3), dtype=np.uint8)
    mistakes = [
        Mistake(image=i, path="p", label="a", predicted="b", probability=0.9)
        for i in noise
    ]
    cleaned = [
        Cleaned(image=i, path="p", reason=f"r{j % 12}", kept=i)
        for j, i in enumerate([*noise, *noise, *noise, *noise])
    ]
    page = render_report(replace(minimal(), mistakes=mistakes, cleaned=cleaned))
    assert len(page) <= report.MAX_BYTES
    assert page.count("<img") == 40 + 2 * 12 * 12


@pytest.mark.parametrize(
    ("verdict", "promoted", "champion", "title", "reason"),
    [
        ("pass", True, None, "Promoted: pets version 1", "It is the first champion."),
        ("pass", True, 2, "Promoted: pets version 1", "takes over from version 2"),
        ("pass", False, 2, "Passed, not promoted: pets version 1", "Version 2 stays"),
        ("fail", False, 2, "Rejected: pets version 1", "Top-1 against its floor."),
        ("error", False, None, "Rejected: pets version 1", "No version is in use yet."),
        ("inconclusive", False, 2, "Inconclusive: pets version 1", "Version 2 stays"),
    ],
)
def test_the_verdict_is_said_with_its_reason(
    verdict, promoted, champion, title, reason
):
    content = ReportContent(
        name="pets", version=1, gate=gate(verdict, champion=champion), promoted=promoted
    )
    page = Page(render_report(content)).text
    assert title in page
    assert reason in page
    assert summary_markdown(content).startswith(f"# {title}\n")


def test_a_promotion_never_claims_more_checks_than_held():
    checks = [*gate().checks, *gate("inconclusive").checks]
    both = GateReport(name="pets", verdict=Verdict.PASS, checks=checks)
    content = ReportContent(name="pets", gate=both, promoted=True)
    assert report.headline(content)[2].startswith("1 of 2 blocking checks held.")
    passed = replace(content, gate=both.model_copy(update={"checks": checks[:1] * 2}))
    assert report.headline(passed)[2].startswith("All 2 blocking checks held.")


def test_a_failed_check_that_only_advises_is_no_reason():
    checks = [*gate().checks, *gate("fail").checks]
    checks[1] = checks[1].model_copy(update={"blocking": False, "detail": "Advice."})
    content = ReportContent(
        name="pets", gate=GateReport(name="pets", verdict=Verdict.FAIL, checks=checks)
    )
    assert report.headline(content)[2] == "No version is in use yet."


def test_figures_that_are_not_numbers_are_drawn_as_a_dash():
    nan = Estimate(value=math.nan, low=math.nan, high=math.nan, n=0)
    content = replace(
        minimal(),
        metrics={"top1": nan, "ece": nan},
        classes=[ClassRow(name="cat", recall=nan), ClassRow(name="dog")],
        slices=[SliceRow(slice="domain", value="studio", top1=nan)],
        history=[{"epoch": 1, "train_loss": math.nan, "val_loss": None}],
        bins=[Bin(low=0, high=1, confidence=math.nan, accuracy=math.nan, n=0)],
        confusion=np.zeros((2, 2), np.int64),
        stage_seconds={"train": 0.0},
    )
    page = Page(render_report(content))
    assert not re.search(r"\bnan\b|\bNone\b", page.text)
    assert json.dumps(gate_table(content), allow_nan=False)


def test_a_run_without_validation_still_draws_its_curve():
    history = [{"epoch": 1, "train_loss": 2.0}]
    assert curves(history, ("val_loss", "train_loss"), title="Loss").startswith("<svg")
    assert curves(history, ("val_top1",), title="Top-1") == ""
    assert class_counts(np.zeros((0, 3), np.int64)) == ""


def test_charts_follow_the_theme_and_name_no_address():
    svg = curves([{"epoch": 1, "a": 1.0}, {"epoch": 2, "a": 2.0}], ("a",), title="A")
    assert "var(--first)" in svg
    assert "http" not in svg
    assert "#0102" not in svg


def test_charts_are_the_same_when_drawn_again():
    content = full(["cat", "dog"])
    assert render_report(content) == render_report(content)


def test_the_report_replaces_the_old_one_whole(tmp_path):
    path = tmp_path / "runs" / "report.html"
    write_report(minimal(), path)
    assert write_report(full(["cat", "dog"], text=HOSTILE[-1]), path) == path
    assert path.read_text("utf-8").rstrip().endswith("</html>")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_a_failed_write_keeps_the_old_report(tmp_path, monkeypatch):
    path = write_report(minimal(), tmp_path / "report.html")
    before = path.read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_report(full(["cat", "dog"]), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_summary_keeps_hostile_text_inside_its_cell():
    content = full(["cat"], text="a|b\n<script>`x`[l](http://e)")
    text = summary_markdown(content)
    assert "<script>" not in text
    assert "[l](" not in text.replace("\\[l\\](", "")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 4 for row in rows)


def test_the_gate_table_is_rows_of_plain_values():
    assert gate_table(minimal()) == [
        {
            "check": "Top-1 floor",
            "verdict": "pass",
            "blocking": "yes",
            "value": "58.5 %",
            "interval": "(56.6 to 60.4)",
            "limit": "30.0 %",
            "images": 100,
            "detail": "Top-1 against its floor.",
        }
    ]


def test_figures_are_written_as_people_write_them():
    assert estimate(Estimate(value=0.585, low=0.566, high=0.604, n=9)) == (
        "58.5 % (56.6 to 60.4)"
    )
    assert number(-0.0123, "points", signed=True) == "−1.2 points"
    assert number(0.08349, unit("ece")) == "0.083"
    assert interval(-0.01, 0.02) == "(−1.0 to 2.0)"
    assert interval(None, 0.02) == ""
    assert number(math.inf) == number(None) == "–"
    assert unit("top1_non_inferiority") == "points"
    assert metric_name("macro_f1") == "Macro F1"
    assert metric_name("macro_f1_floor") == "Macro F1 floor"
    assert metric_name("coarse_label") == "Coarse label"
    assert [duration(s) for s in (4.24, 59.96, 192, 3840)] == [
        "4.2 s",
        "1 min 0 s",
        "3 min 12 s",
        "1 h 4 min",
    ]


def test_confused_pairs_come_most_frequent_first():
    matrix = np.array([[9, 2, 0], [5, 1, 0], [0, 2, 2]])
    pairs = confused_pairs(matrix, ["a", "b", "c"])
    assert [(p.label, p.predicted, p.n) for p in pairs] == [
        ("b", "a", 5),
        ("c", "b", 2),
        ("a", "b", 2),
    ]
    assert pairs[0].share == 5 / 6


def test_a_large_matrix_keeps_the_classes_that_are_confused():
    matrix = np.diag(np.full(1000, 10))
    matrix[7, 990] = 6
    small = confusion(matrix, [str(i) for i in range(1000)])
    assert set(small.names[:2]) == {"7", "990"}
    assert len(small.names) == 16
    assert small.shares[small.names.index("7")][small.names.index("990")] == 6 / 16


def test_a_matrix_that_does_not_fit_its_names_is_refused():
    with pytest.raises(ValueError, match=r"\(3, 3\).*received \(2, 2\)"):
        confusion(np.zeros((2, 2), np.int64), ["a", "b", "c"])


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
    ],
)
def test_what_is_no_picture_is_refused(image):
    with pytest.raises(ValueError, match="uint8 of shape"):
        data_uri(image)


def test_pictures_keep_their_colours_and_shape():
    import base64

    import cv2

    image = np.zeros((50, 200, 3), np.uint8)
    image[..., 0] = 250
    raw = base64.b64decode(data_uri(image, side=96).split(",")[1])
    back = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert back.shape == (24, 96, 3)
    assert back[..., 0].min() > 240
    assert back[..., 1:].max() < 15


def test_reasons_are_counted_beyond_the_pictures_at_hand():
    items = [Cleaned(image=pixels(), path=str(i), reason="dark") for i in range(20)]
    groups = by_reason(items, {"blank": 40, "dark": 25})
    assert [(reason, n, len(shown)) for reason, n, shown in groups] == [
        ("blank", 40, 0),
        ("dark", 25, 12),
    ]


def test_the_page_says_what_happened_to_a_view():
    words = ["30% pear", "", "posterize"]
    three = np.stack([pixels()] * 3)
    seen = Augmented(original=pixels(), seen=three, label="apple", words=words)
    page = render_report(
        replace(minimal(), augmented=[seen], views="turn ±15°", n_images=1)
    )
    assert "30% pear" in page
    assert "posterize" in page
    assert "Asked for: turn ±15°" in page


def test_whether_it_over_or_underfits_is_said_beside_the_curves():
    page = render_report(full(["cat", "dog"]))
    training = page[page.index('id="training"') : page.index('id="classes"')]
    assert "Does it over- or underfit?" in training
    assert "a gap of 30.0 points (27.2 to 32.8)" in training
    assert "twice as many would bring about +2.0 points" in training
    assert "Does it over- or underfit?" not in render_report(minimal())
