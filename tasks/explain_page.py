"""The page of an explanation: each image beside its map, and what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from data_contracts.references import ModelRef
from models.explain.how import SIGNED, Method
from tasks.explain_figures import ClassInBox, Worth
from tasks.explain_picture import SIDE, bar
from tasks.explain_settings import ExplainSettings
from tasks.gallery import data_uri
from tasks.pages import render_page

if TYPE_CHECKING:
    from tasks.explain import Story
    from tasks.explain_choose import Answers

ABOUT = {
    Method.gradcam: "Grad-CAM weighs the network's last map by how the class's logit"
    " follows it. It is coarse: the last map has few places.",
    Method.gradcam_pp: "Grad-CAM++ is Grad-CAM with places weighed apart, for images"
    " that show a thing several times.",
    Method.rollout: "Attention rollout multiplies the attention of all layers. It shows"
    " what reaches the answer, whatever the class.",
    Method.saliency: "Saliency is the size of the logit's gradient by each pixel:"
    " where a small change of the pixel moves the answer.",
    Method.smoothgrad: "SmoothGrad is the size of the mean gradient over noisy copies"
    " of the image.",
    Method.integrated_gradients: "Integrated gradients share out the change of the"
    " logit from an image of nothing to this one.",
    Method.expected_gradients: "Expected gradients share out the change of the logit"
    " from usual training images to this one.",
    Method.occlusion: "Occlusion hides a window at a time: how far the logit falls.",
    Method.rise: "RISE shows random parts of the image, and sees which pixels go with a"
    " high logit.",
    Method.lime: "LIME hides random segments, and fits a line to what the logit"
    " does near the image.",
    Method.kernel_shap: "KernelSHAP gives each segment its Shapley value: its mean"
    " worth over all orders in which segments might be shown.",
}


def render(
    model: ModelRef,
    settings: ExplainSettings,
    stories: Sequence[Story],
    answers: Answers,
    worth: Sequence[Worth],
    by_class: Sequence[ClassInBox],
    figures: dict[str, float],
    lack: str,
    meta: dict[str, Any],
) -> str:
    """Return the page as one HTML file that loads nothing else.

    Args:
        model: The version.
        settings: How it was explained.
        stories: The explained images.
        answers: What the version says to all images.
        worth: Deletion and insertion of maps and controls.
        by_class: Where the maps of each class lie, if there are boxes.
        figures: What the method says of itself, medians.
        lack: Why there are no nearest training images.
        meta: What the model keeps of its training.
    """
    signed = settings.method in SIGNED

    def uri(image: Any) -> str:
        return data_uri(image, side=SIDE, quality=88)

    return render_page(
        "explain.html",
        model=model,
        settings=settings,
        about=ABOUT[settings.method],
        stories=stories,
        total=int(answers.good.sum()),
        labelled=int((answers.good & (answers.given >= 0)).sum()),
        wrong=int(answers.wrong.sum()),
        worth=worth,
        verdict=verdict(worth),
        by_class=by_class,
        figures=figures,
        lack=lack,
        repaired=[name for name in ("denoise", "inpaint") if meta.get(name)],
        signed=signed,
        uri=uri,
        legend=data_uri(bar(signed=signed), side=SIDE, quality=95),
    )


def verdict(worth: Sequence[Worth]) -> str:
    """Say in a sentence whether maps beat what knows nothing of the network."""
    lost = " or ".join(f"the {row.name}" for row in worth if not row.beaten)
    if not lost:
        return "On these images the maps mark what counts better than both controls do."
    return (
        f"On these images the maps do not clearly beat {lost}. Read them with doubt,"
        " try another method, or explain more images."
    )
