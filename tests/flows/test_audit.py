"""The verb `audit` on a small champion, tiny budgets."""

from __future__ import annotations

from pathlib import Path

from flows.audit import AuditConfig, run
from tasks.audit_settings import ResilienceSettings
from tasks.corrupt import Corruption

TINY = ResilienceSettings(
    steps=2,
    targets=1,
    queries=5,
    curve=(2, 128),
    corruptions=(Corruption.brightness,),
    severities=(1,),
    covered=(0.3,),
    adaptive_steps=2,
    views=2,
    choose=8,
    certify=16,
    smoothed=8,
)


def config(**changes) -> AuditConfig:
    return AuditConfig(**({"name": "shop", "limit": 40, "audit": TINY} | changes))


def test_a_champion_is_audited_once_and_its_page_says_what_was_found(trained):
    made = run(config())
    found = made.found
    assert found.model.version == trained.model.version
    left = {row.attack: row.accuracy.value for row in found.attacks}
    names = ["clean", "pgd", "fgsm", "pgd_l2", "apgd", "standard", "worst"]
    assert list(left) == names
    assert left["worst"] <= left["standard"] <= left["apgd"] <= left["clean"]
    assert [point.levels for point in found.curve] == [2, 128]
    assert found.curve[1].accuracy.value <= found.curve[0].accuracy.value
    assert all(row.is_evidence for row in found.detectors if row.verdict == "pass")
    assert {row.detector for row in found.detectors} >= {"squeezing", "mahalanobis"}
    assert len(found.hardening) == 4
    assert all(row.adaptive is not None for row in found.hardening[1:])
    assert found.smoothed is not None
    assert found.wear is not None
    assert len(found.covered) == 6
    page = Path(made.report).read_text("utf-8")
    assert found.findings[0] in page.replace("&#39;", "'")
    assert page.count('alt="attacked"') == len(found.fragile) > 0
    before = sorted(Path(made.folder).rglob("*.npz"))
    again = run(config())
    assert again.found == found
    assert sorted(Path(made.folder).rglob("*.npz")) == before
