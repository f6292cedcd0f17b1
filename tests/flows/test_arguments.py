"""Settings from `key=value` words and YAML files, and what bad ones are told."""

from __future__ import annotations

import string
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, model_validator

from data_contracts.config import Settings
from data_contracts.errors import UsageError
from flows.arguments import parse, words
from flows.leaves import leaves
from flows.train import TrainConfig
from flows.usage import help_text
from flows.values import read
from tasks.augment_settings import AugmentSettings
from tasks.train_settings import TrainSettings


class Noise(StrEnum):
    NONE = "none"
    IMPULSE = "impulse"
    GAUSSIAN = "gaussian"


class Fit(Settings):
    epochs: int = Field(30, ge=1, le=1000, description="Passes over the images.")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="Peak learning rate.")
    preset: Literal["small", "resnet18"] = Field("small", description="Backbone.")
    ema: bool = Field(True, description="Average the weights.")
    sizes: list[int] = Field([32, 64], description="Image sizes.")


class Mix(Settings):
    alpha: float = Field(0.2, ge=0, description="Mixup strength.")


class Job(Settings):
    """Train something."""

    data: str = Field(description="Images to learn from.")
    limit: int | None = Field(None, ge=1, description="Use at most so many images.")
    columns: dict[str, int] = Field({}, description="Our name to theirs.")
    note: str | None = Field(None, description="Free text.")
    noise: Noise = Field(Noise.NONE, description="Noise to treat.")
    train: Fit = Fit()
    quick: Fit = Fit(epochs=2)
    mix: Mix | None = Mix()

    @model_validator(mode="after")
    def check(self):
        if self.data == "nowhere":
            raise ValueError("data is nowhere. Give a folder")
        return self


def job(*tokens: str) -> Job:
    return parse(Job, tokens, environ={"HOME": "/home/ann"}, verb="train")


def problems(*tokens: str) -> list[str]:
    with pytest.raises(UsageError) as caught:
        job(*tokens)
    first, *rest = str(caught.value).splitlines()
    assert not rest or first == f"{len(rest)} settings to put right:"
    return [line.strip() for line in rest] or [first]


@pytest.mark.parametrize(
    ("token", "value"),
    [
        ("limit=1e4", 10_000),
        ("limit=10_000", 10_000),
        ("limit=none", None),
        ("limit=null", None),
        ("limit=", None),
        ("note=none", None),
        ("note=a=b", "a=b"),
        ("note=~/a", "/home/ann/a"),
        ("noise=gaussian", Noise.GAUSSIAN),
        ("noise=none", Noise.NONE),
        ("train.ema=off", False),
        ("train.ema=Yes", True),
        ("train.learning_rate=3e-4", 3e-4),
        ("train.preset=resnet18", "resnet18"),
        ("train.sizes=16, 24", [16, 24]),
        ("train.sizes=[8]", [8]),
        ("train.sizes=", []),
        ("mix=none", None),
        ("mix.alpha=0", 0.0),
        ("columns.label=3", 3),
    ],
)
def test_a_value_is_read_by_the_type_of_its_field(token, value):
    found = job("data=x", token)
    for name in token.partition("=")[0].split("."):
        found = found[name] if isinstance(found, dict) else getattr(found, name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (
            "trian.epochs=3",
            "unknown setting 'trian.epochs' (did you mean 'train.epochs'?); "
            "settings are listed by `sightline train --help`",
        ),
        ("epochs=3", "(did you mean 'train.epochs' or 'quick.epochs'?)"),
        ("lerning_rate=3", "(did you mean 'train.learning_rate'?)"),
        ("zzzz=3", "unknown setting 'zzzz'; settings are listed"),
        ("train.epochs=0", "train.epochs=0: expected a whole number, 1 to 1000"),
        ("train.epochs=1.5", "train.epochs=1.5: expected a whole number, 1 to 1000"),
        ("train.epochs=1e999", "train.epochs=1e999: expected a whole number"),
        ("train.learning_rate=nan", "expected a number, above 0, at most 1"),
        ("train.learning_rate=0", "expected a number, above 0, at most 1"),
        ("limit=many", "limit=many: expected a whole number, at least 1, or none"),
        ("noise=gausian", "one of none, impulse, gaussian (did you mean 'gaussian'?)"),
        ("train.preset=big", "train.preset=big: expected one of small, resnet18"),
        ("train.ema=maybe", "train.ema=maybe: expected yes or no"),
        ("train.sizes=1,x", "a list (a,b,c), each a whole number"),
        ("train=3", "'train' is a section; set what is in it, such as train.epochs"),
        ("mix=3", "mix=3: 'mix' is a section; switch it off with mix=none"),
        ("columns=3", "(give one item at a time: columns.KEY=VALUE)"),
        ("columns.a=x", "columns.a=x: expected a whole number for each KEY"),
        ("column.a=3", "unknown setting 'column.a'"),
        ("f" * 300, "expected key=value, got 'fff"),
        ("foo", "expected key=value, got 'foo'"),
        ("pictures/cats", "got 'pictures/cats'; did you mean data=pictures/cats?"),
        ("epochs", "got 'epochs'; did you mean train.epochs=VALUE?"),
        ("--epochs=3", "unknown option '--epochs=3'; settings are given as key=value"),
        ("--learning-rate=3", "write train.learning_rate=3"),
        ("=3", "expected key=value, got '=3'"),
        ("data=y", "'data' is given twice; keep one"),
        ("config=no.yaml", "config='no.yaml' cannot be read: No such file"),
    ],
)
def test_a_bad_word_names_the_key_the_value_and_what_is_allowed(token, said):
    (line,) = problems("data=x", token)
    assert said in line


def test_the_last_part_of_a_key_will_do_if_there_is_only_one_such():
    assert job("data=x", "alpha=0.5").mix.alpha == 0.5
    assert problems("data=x", "alpha=0.5", "mix.alpha=0.6") == [
        "'mix.alpha' is given twice; keep one"
    ]


def test_settings_of_training_are_known_by_their_last_part():
    keys = [setting.key for setting in leaves(TrainConfig)]
    shared = [key.rsplit(".", 1)[-1] for key in keys]
    train = [key for key in keys if key.startswith("train.") and key != "train.seed"]
    doubled = [key for key in train if shared.count(key.rsplit(".", 1)[-1]) > 1]
    assert doubled == []


def test_a_setting_answers_to_what_people_call_it():
    asked = ["data=x", "name=y", "model=resnet18", "optimiser=sgd"]
    train = parse(TrainConfig, asked, environ={}).train
    assert (train.preset, train.optimizer) == ("resnet18", "sgd")
    with pytest.raises(UsageError, match=r"'train\.preset' is given twice"):
        parse(TrainConfig, [*asked, "preset=small"], environ={})


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (["balance=effective", "head=post_hoc"], "twice"),
        (["balance=logit_adjusted", "label_smoothing=0.1"], "rare classes twice"),
        (["balance=ldam", "loss=focal"], "margins into cross-entropy"),
        (["balance=ldam", "thresholds=yes"], "head of angles"),
        (["loss=generalised", "label_smoothing=0.1"], "part of cross-entropy"),
    ],
)
def test_combinations_that_cannot_work_are_refused_with_the_reason(tokens, said):
    with pytest.raises(UsageError, match=said):
        parse(TrainConfig, ["data=x", "name=y", *tokens], environ={})


def test_every_error_is_listed_at_once():
    lines = problems("trian=1", "noise=x", "train.epochs=0", "limit=a")
    assert len(lines) == 5
    assert "'data' is missing: give data=VALUE (Images to learn from)" in lines


def test_a_rule_between_settings_speaks_for_itself():
    assert problems("data=nowhere") == ["data is nowhere. Give a folder"]


def test_a_section_keeps_its_own_defaults_when_one_of_its_settings_is_given():
    assert job("data=x", "quick.ema=no").quick == Fit(epochs=2, ema=False)


def test_a_file_sets_what_the_command_line_does_not(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(
        "data: x\nnoise: none\ntrain: {epochs: 5, ema: no, sizes: [1, 2]}\n"
    )
    found = job(f"config={path}", "train.epochs=7")
    assert found == Job(data="x", train=Fit(epochs=7, ema=False, sizes=[1, 2]))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data: x\ntrain:\n  epochs: 0\n", "job.yaml:3: train.epochs=0: expected a"),
        ("data: x\nepoch: 0\n", "job.yaml:2: unknown setting 'epoch'"),
        ("data: x\ndata: y\n", "job.yaml:2: 'data' is given twice"),
        ("data: [x\n", "job.yaml:2:1: not valid YAML: "),
        ("data: x\n\ttrain: 1\n", "job.yaml:2:1: not valid YAML: "),
        ("data: x\n---\ndata: y\n", "job.yaml:2:1: not valid YAML: "),
        ("- a\n", "job.yaml:1: expected 'key: value' lines"),
        ("data: {a: b}\n", "data={...}: expected text (a mapping came where"),
        ("data: [a]\n", "data=a: expected text"),
        ("data: x\nlimit: &a [*a]\n", "limit="),
        ("data: x\ntrain: yes\n", "'train' is a section"),
    ],
)
def test_an_error_in_a_file_says_the_line(tmp_path, text, said):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    assert said in "\n".join(problems(f"config={path}"))


def test_an_empty_file_sets_nothing_and_a_binary_one_is_refused(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("# nothing yet\n")
    assert job("data=x", f"config={path}") == Job(data="x")
    path.write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in problems("data=x", f"config={path}")[0]


def test_help_lists_every_setting_with_default_choices_and_meaning():
    text = help_text(Job, "train", about="Train something")
    assert "\nTrain something.\n" in text
    for setting in leaves(Job):
        assert setting.key in text
        assert setting.field.description.rstrip(".") in text
    assert "usage: sightline train data=DATA" in text
    assert "quick.epochs=2" in text
    assert "[a whole number, 1 to 1000]" in text
    assert "noise=none" in text
    assert "[one of none, impulse, gaussian]" in text
    assert max(len(line) for line in text.splitlines()) <= 100


def test_help_of_long_keys_and_defaults_fits_the_columns():
    class Wide(Settings):
        a_very_long_name_for_a_setting_indeed: str = Field(
            "x" * 200, description="y " * 99
        )

    assert max(len(line) for line in help_text(Wide, "up").splitlines()) <= 100


@given(
    st.builds(
        Job,
        data=st.text(string.ascii_letters + " =/,.-[]", min_size=1),
        mix=st.none() | st.builds(Mix, alpha=st.floats(0, 1e300)),
        limit=st.none() | st.integers(1, 10**12),
        noise=st.sampled_from(Noise),
        train=st.builds(
            Fit,
            epochs=st.integers(1, 1000),
            ema=st.booleans(),
            sizes=st.lists(st.integers()),
        ),
    )
)
def test_the_words_of_settings_give_the_settings(settings):
    assert parse(Job, words(settings), environ={}) == settings


def test_the_words_of_settings_leave_out_defaults():
    assert words(Job(data="x")) == ["data=x"]
    assert words(Job(data="x", columns={"a": 1}, mix=None, train=Fit(ema=False))) == [
        "data=x",
        "columns.a=1",
        "train.ema=no",
        "mix=none",
    ]


@given(st.lists(st.text(max_size=20), max_size=5))
def test_any_words_give_settings_or_a_usage_error(tokens):
    with suppress(UsageError):
        assert isinstance(parse(Job, tokens, environ={}), Job)


def test_a_union_tries_text_last():
    assert read("3", int | str) == 3
    assert read("a", str | int) == "a"
    assert read("3", str | int) == 3


def test_a_path_stays_a_path():
    assert read("a/b", Path) == Path("a/b")


def test_an_item_of_a_mapping_goes_by_the_mapping_s_last_part():
    found = parse(
        TrainConfig,
        ["data=x", "name=y", "columns.path=photo"],
        environ={},
        verb="train",
    )
    assert found.source.columns == {"path": "photo"}


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("decode.background=-1,0,0", "decode.background"),
        ("decode.background=300,0,0", "decode.background"),
        ("decode.background=255,255", "decode.background=255,255"),
        ("train.augment.zoom=1,0.4", "from small to large"),
        ("train.augment.zoom=0,0", "zoom"),
    ],
)
def test_tuples_have_bounds(word, said):
    with pytest.raises(UsageError) as caught:
        parse(TrainConfig, ["data=x", "name=y", word], environ={}, verb="train")
    assert said in str(caught.value)
    assert "missing" not in str(caught.value)


def test_a_section_that_is_off_by_default_is_said_whole():
    settings = TrainConfig(
        data="x", name="y", train=TrainSettings(augment=AugmentSettings())
    )
    again = parse(TrainConfig, words(settings), environ={}, verb="train")
    assert again == settings
    assert again.train.augment == AugmentSettings()


OWN_CHECKS = """
gate:
  margin: 0.02
  checks:
    - check: superior
      blocks: no
    - {check: slices, by: [era, size], margin: 0.1}
"""


def train_config(*tokens: str) -> TrainConfig:
    return parse(TrainConfig, ["data=x", "name=y", *tokens], environ={}, verb="train")


def test_checks_of_a_gate_are_read_from_a_file_and_from_words(tmp_path):
    path = tmp_path / "gate.yaml"
    path.write_text(OWN_CHECKS)
    config = train_config(f"config={path}", "gate.margin=.03")
    superior, slices = config.gate.checks
    assert (superior.check, superior.blocks) == ("superior", "no")
    assert (slices.by, slices.margin) == (("era", "size"), 0.1)
    assert config.gate.margin == 0.03
    assert parse(TrainConfig, words(config), environ={}) == config
    one = train_config("checks={check: size, limit: 1.1}").gate.checks
    assert [check.limit for check in one] == [1.1]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("[{check: superio}]", "each one of floor, non_inferior, superior"),
        ("[superior]", "each item stands in braces"),
        ("[{check: size", "not valid YAML"),
        ("[{check: size, limit: -1}]", "gate.checks.size.limit: .*greater than 0"),
        ("[{check: size, limt: 1}]", "gate.checks.size.limt: Extra"),
        ("[{check: size}, {check: size}]", "given twice"),
    ],
)
def test_a_check_that_cannot_be_read_is_said(given, said):
    with pytest.raises(UsageError, match=said):
        train_config(f"gate.checks={given}")
