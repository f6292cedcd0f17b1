"""Settings of the stage `impute`."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field, model_validator

from data_contracts.config import Settings


class FillLabels(StrEnum):
    """What becomes of images without a label."""

    drop = "drop"
    keep = "keep"
    neighbours = "neighbours"


class FillColumn(StrEnum):
    """What becomes of a missing text, domain or tag."""

    keep = "keep"
    constant = "constant"
    mode = "mode"
    neighbours = "neighbours"


class FillNumbers(StrEnum):
    """What becomes of a missing number."""

    keep = "keep"
    mean = "mean"
    median = "median"
    constant = "constant"


class ImputeSettings(Settings):
    """Settings of the stage `impute`."""

    labels: FillLabels = Field(
        FillLabels.drop,
        description="Images without a label: drop, keep for self-training (the champion"
        " or a quick fit labels those it is sure of), or fill by neighbours. Training"
        " images alone.",
    )
    min_confidence: float = Field(
        0.9, gt=0, le=1, description="Self-training: least probability of a label."
    )
    min_agreement: float = Field(
        0.6, gt=0, le=1, description="Neighbours: least share that agree on a label."
    )
    voters: int = Field(20, ge=1, le=1_000, description="Neighbours that vote.")
    filled_weight: float = Field(
        1.0, gt=0, le=1, description="What a filled label counts in training."
    )
    text: FillColumn = Field(
        FillColumn.keep, description="Missing texts: keep, constant, mode, neighbours."
    )
    text_value: str | None = Field(None, description="Text that `constant` gives.")
    domain: FillColumn = Field(
        FillColumn.keep,
        description="Missing domains: keep, constant, mode, neighbours.",
    )
    domain_value: str | None = Field(None, description="Domain that `constant` gives.")
    tags: FillColumn = Field(
        FillColumn.keep,
        description="Images without tags: keep, constant, mode, neighbours.",
    )
    tags_value: tuple[str, ...] | None = Field(
        None, description="Tags that `constant` gives."
    )
    numbers: FillNumbers = Field(
        FillNumbers.keep,
        description="Missing numbers: keep, mean, median (of training), constant.",
    )
    numbers_value: float | None = Field(
        None, description="Number that `constant` gives.", allow_inf_nan=False
    )

    @model_validator(mode="after")
    def _constants_have_values(self) -> ImputeSettings:
        for name in ("text", "domain", "tags", "numbers"):
            constant = getattr(self, name) == "constant"
            value = getattr(self, f"{name}_value")
            if constant and value in (None, "", ()):
                raise ValueError(
                    f"impute.{name}=constant needs the value to fill in; say"
                    f" impute.{name}_value=..."
                )
            if value is not None and not constant:
                raise ValueError(
                    f"impute.{name}_value={value} is used by impute.{name}=constant"
                    f" alone, and that is {getattr(self, name)}; change one of them."
                )
        return self

    @property
    def asked(self) -> bool:
        """Whether anything is to be filled."""
        columns = (self.text, self.domain, self.tags, self.numbers)
        return self.labels != FillLabels.drop or set(columns) != {"keep"}

    @property
    def by_embeddings(self) -> bool:
        """Whether filling takes embeddings."""
        return "neighbours" in (self.labels, self.text, self.domain, self.tags)
