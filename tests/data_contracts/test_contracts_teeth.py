"""Every shipped rule passes good data and bites on data that breaks it."""

import numpy as np
import pytest
import yaml

from data_contracts import contracts
from data_contracts.arrays import check_arrays
from data_contracts.references import Verdict
from data_contracts.verdicts import check_table, describe
from tests.data_contracts.contract_tables import (
    STAGES,
    N,
    add_row,
    check_one,
    drop,
    good,
    good_arrays,
    parameters,
    put,
    repeat,
    shipped_contract,
)

FIRST_60 = range(60)
NAMED = put("path", None)
# For every shipped rule a change to the good table that breaks it.
BREAKS = {
    "ingested": {
        "the table has its columns": drop("coarse"),
        "every row names its image": NAMED,
        "no path is listed twice in one source": repeat("path"),
        "every row says whether it was read": put("ok", None),
        "broken files stay within the budget": put("ok", False, range(30)),
        "broken files stay within the budget in each source": put(
            "ok", False, range(30)
        ),
        "there are enough readable images": put("ok", False, range(N - 5)),
        "every rejected file says why": put("problem", "", [0]),
        "a readable file has no problem": put("problem", "truncated"),
        "every image has a digest": put("sha256", None),
        "digests are SHA-256": put("sha256", "d41d8cd98f00b204e9800998ecf8427e"),
        "every image has a width": put("width", np.nan),
        "widths are possible": put("width", 0),
        "every image has a height": put("height", np.nan),
        "heights are possible": put("height", -480),
        "every image has a file size": put("bytes", np.nan),
        "file sizes are possible": put("bytes", 3),
        "every image has a file kind": put("kind", None),
        "file kinds are known": put("kind", "heic"),
        "mean grey levels are there": put("mean", np.nan),
        "mean grey levels are grey levels": put("mean", 256.0),
        "spreads of grey are there": put("std", np.nan),
        "spreads of grey are possible": put("std", np.inf),
        "sharpness is there": put("sharpness", np.nan),
        "sharpness is a variance": put("sharpness", -1.0),
        "noise estimates are there": put("sigma", np.nan),
        "noise estimates are possible": put("sigma", np.inf),
        "impulse shares are there": put("impulse", np.nan),
        "impulse shares are shares": put("impulse", 1.5),
        "noise of the originals is there": put("sensor_sigma", np.nan),
        "noise of the originals is possible": put("sensor_sigma", 256.0),
        "lone points of the originals are there": put("sensor_impulse", np.nan),
        "lone points of the originals are possible": put("sensor_impulse", 1.5),
        "blockiness of the originals is there": put("blockiness", np.nan),
        "blockiness of the originals is possible": put("blockiness", -1.0),
        "noise left in the pixels is there": put("left_sigma", np.nan),
        "noise left in the pixels is possible": put("left_sigma", np.inf),
        "there are at least two classes": put("label", "apple", range(N)),
        "given splits are known": put("split", "dev"),
        "a label belongs to one coarse label": put(
            "coarse", ["food", "drink"], [7, 10]
        ),
        "most images have a label": put("label", None, range(20)),
        "most images are one of a kind": put("sha256", "0" * 64, range(20)),
        "most images are bright enough": put("mean", 2.0, range(20)),
        "most images show something": put("std", 0.5, range(20)),
    },
    "drift": {
        "classes come in their usual shares": put("label", "apple", FIRST_60),
        "domains come in their usual shares": put("domain", "street", FIRST_60),
        "file kinds come in their usual shares": put("kind", "webp", FIRST_60),
        "brightness is as usual": put("mean", 20.0, FIRST_60),
        "contrast is as usual": put("std", 20.0, FIRST_60),
        "colours are as usual": put("saturation", 5.0, FIRST_60),
        "sharpness is as usual": put("sharpness", 30.0, FIRST_60),
        "noise is as usual": put("sigma", 20.0, FIRST_60),
        "widths are as usual": put("width", 320, FIRST_60),
        "heights are as usual": put("height", 320, FIRST_60),
        "file sizes are as usual": put("bytes", 900, FIRST_60),
    },
    "cleaned": {
        "the table has its columns": drop("noise"),
        "every row names its image": NAMED,
        "cleaning repeats no image": repeat("path"),
        "every image is kept or dropped": put("keep", None),
        "every dropped image has a reason": put("keep", False),
        "reasons are known": put("reason", "ugly"),
        "only readable images are kept": put("ok", False),
        "only labelled images are kept": put("label", None),
        "cleaning leaves enough images": put("keep", False, range(70)),
        "cleaning leaves enough of each class": put("keep", False, range(0, 75, 3)),
        "at least two classes are left": put("label", "apple", range(N)),
        "copies with different labels are all dropped": repeat("sha256"),
        "look-alikes with different labels are all dropped": repeat("group"),
        "every kept image has a duplicate group": put("group", np.nan),
        "noise is judged for every kept image": put("noise", None),
        "kinds of noise are known": put("noise", "speckle"),
        "cleaning loses no class": put("keep", False, range(0, N, 3)),
        "kept images are one of a kind": repeat("sha256"),
    },
    "split": {
        "the table has its columns": drop("keep"),
        "every row names its image": NAMED,
        "splitting repeats no image": repeat("path"),
        "every image has a use": put("use", None),
        "uses are known": put("use", "dev"),
        "dropped images are not used": put("keep", False),
        "every used image has a label": put("label", None),
        "every used image has a duplicate group": put("group", np.nan),
        "look-alikes stay in one split": put("group", 7, [7, 100]),
        "there are training images": put("use", "unused", FIRST_60),
        "there are validation images": put("use", "train", FIRST_60),
        "there are test images": put("use", "train", range(60, N)),
        "training sees at least two classes": put("label", "apple", FIRST_60),
        "every class has a training image": put("label", "quince", [100]),
        "every tested class was trained": put("label", "quince", [100]),
        "classes have enough training images": put("label", "quince", [7]),
        "the test is large enough to decide on": put("use", "unused", range(90, N)),
    },
    "views": {
        "the table has its columns": drop("origin"),
        "every view has a name of its own": repeat("path"),
        "every row says which view it is": put("view", np.nan),
        "validation and test hold no views": put("view", 1, [100]),
        "a view is used as its image is": put("origin", 7, [100]),
        "a view has the label of its image": put("origin", 7, [8]),
    },
    "audited": {
        "the table has its columns": drop("verdict"),
        "every image has a verdict": put("verdict", None),
        "every image has a suspicion": put("suspicion", np.nan),
        "verdicts are known": put("verdict", "doomed"),
        "suspicion is a share": put("suspicion", 1.5),
        "validation and test labels are only flagged": put(
            "verdict", "relabelled", [90]
        ),
        "dropped images are not used": put("verdict", "dropped"),
        "a person stands behind each review": put("verdict", "corrected"),
        "used images have a label to learn": put("target", None),
        "what is acted on stays within the budget": put(
            "verdict", "weighted", range(1, 60)
        ),
        "no class is judged far harder than the others": put(
            "verdict", "weighted", range(1, N, 3)
        ),
    },
    "predictions": {
        "the table has its columns": drop("nll"),
        "every image has its prediction": add_row,
        "every prediction names its image": NAMED,
        "an image is predicted once": repeat("path"),
        "every prediction names a class": put("predicted", None),
        "predicted classes are known": put("predicted", "2"),
        "true classes are known": put("label", "quince"),
        "every prediction has a probability": put("probability", np.nan),
        "probabilities lie within 0 and 1": put("probability", 1.01),
        "every prediction has five runners-up or all classes": put("top5", None),
        "losses are finite": put("nll", np.inf),
        "every prediction names its model version": put("version", np.nan),
        "model versions are counted from one": put("version", 0),
        "more than one class is predicted": put("predicted", "apple", range(N)),
    },
}
# For every shipped array rule, values that break it.
BREAKS_ARRAYS = {
    "ingested": {
        "pixels are RGB bytes": {"images": np.zeros((N, 4, 4, 1), np.uint8)},
        "perceptual hashes have 64 bits": {"phash": np.zeros(N, np.int64)},
        "labels are positions": {"label": np.full(N, -2, np.int32)},
    },
    "cleaned": {
        "pixels are RGB bytes": {"images": np.zeros((N, 4, 4, 3), np.float32)},
        "kept images are not one colour": {
            "images": np.full((N, 4, 4, 3), 9, np.uint8)
        },
        "duplicate groups are positions": {"group": np.full(N, -1)},
    },
    "split": {
        "uses are positions": {"use": np.full(N, 3, np.int8)},
        "used images have a label position": {"label": np.full(N, -1, np.int32)},
        "used images are RGB bytes": {"images": np.zeros((N, 4, 3), np.uint8)},
    },
    "views": {
        "origins are positions": {"origin": np.full(N, -1)},
        "views are RGB bytes": {"images": np.zeros((N, 4, 4), np.uint8)},
    },
    "audited": {
        "suspicions are finite": {"suspicion": np.full(N, np.nan, np.float32)},
    },
    "predictions": {
        "probabilities are whole": {"probs": np.full((N, 3), 0.5, np.float32)},
    },
}


def shipped(part):
    """Return (stage, name) of every shipped rule, read from the files themselves."""
    found = []
    for stage in STAGES:
        text = (contracts.SHIPPED / f"{stage}.yaml").read_text()
        for item in yaml.safe_load(text).get(part, []):
            found.append((stage, item["name"]))
    return found


@pytest.fixture(scope="module")
def reports():
    """The report on good data, by stage."""
    out = {}
    for stage in STAGES:
        contract = shipped_contract(stage)
        arrays, names = good_arrays(stage), list(good(stage)["path"])
        out[stage] = check_table(
            contract,
            good(stage),
            parameters=parameters(stage),
            arrays=check_arrays(contract.arrays, arrays, names),
        )
    return out


def test_every_contract_file_is_tested():
    assert {path.stem for path in contracts.SHIPPED.glob("*.yaml")} == set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_good_data_passes_every_rule_in_the_order_of_the_file(stage, reports):
    report = reports[stage]
    version = shipped_contract(stage).version
    assert describe(report).startswith(f"Contract {stage} {version} holds (")
    assert {rule.verdict for rule in report.rules} == {Verdict.PASS}
    in_file = [rule.name for rule in shipped_contract(stage).rules]
    in_file += [rule.name for rule in shipped_contract(stage).arrays]
    assert [rule.rule for rule in report.rules] == in_file


@pytest.mark.parametrize(("stage", "name"), shipped("rules"))
def test_every_shipped_rule_has_teeth(stage, name):
    frame = good(stage)
    BREAKS[stage][name](frame)
    result = check_one(stage, name, frame)
    bites = {"critical": Verdict.FAIL, "warning": Verdict.WARN}
    assert result.verdict == bites[result.severity], result.observed


@pytest.mark.parametrize(("stage", "name"), shipped("arrays"))
def test_every_shipped_array_rule_has_teeth(stage, name):
    rules = [rule for rule in shipped_contract(stage).arrays if rule.name == name]
    contract = shipped_contract(stage).model_copy(update={"rules": [], "arrays": rules})
    arrays = good_arrays(stage) | BREAKS_ARRAYS[stage][name]
    found = check_arrays(rules, arrays, list(good(stage)["path"]))
    values = parameters(stage)
    report = check_table(contract, good(stage), parameters=values, arrays=found)
    bites = {"critical": Verdict.FAIL, "warning": Verdict.WARN}
    assert report.rules[0].verdict == bites[rules[0].severity]
    assert report.rules[0].n_offenders > 0
