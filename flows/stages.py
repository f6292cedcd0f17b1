"""The stages that `train` and `update` share, in their order."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from data_contracts.config import Settings
from data_contracts.references import ContractReport, DatasetRef, ModelRef
from flows import workspace
from flows.ensembles import train_networks
from flows.result import Clock, RunResult
from flows.waiver import ask_to_waive, must_be_askable
from tasks.anomaly import (
    AnomalyPolicy,
    AnomalySettings,
    find_dataset_anomalies,
)
from tasks.clean import CleanSettings, clean_dataset
from tasks.decode import DecodeSettings
from tasks.denoise import DenoiseSettings, denoise_dataset
from tasks.embed import EmbedSettings, embed_dataset
from tasks.evaluate import evaluate_model
from tasks.evaluation import EvaluateSettings
from tasks.gate import GateSettings
from tasks.gate_settings import attacks_of, check_plan
from tasks.impute import impute_dataset
from tasks.impute_settings import ImputeSettings
from tasks.ingest import IngestSettings, ingest_dataset
from tasks.inpaint import InpaintSettings, inpaint_dataset, wanted_detector
from tasks.label_audit import (
    AuditSettings,
    asks_for_audit,
    audit_dataset,
    audit_limits,
)
from tasks.label_policy import WrongLabels
from tasks.listing import SourceSettings
from tasks.register import (
    champion_datasets,
    find_result,
    judged_run,
    keep_result,
    next_version,
    register_model,
    rival_of,
)
from tasks.split import SplitSettings, has_given_splits, split_dataset
from tasks.summary import report_run, summarise
from tasks.train_settings import TrainSettings
from tasks.validate import (
    ContractSettings,
    own_contracts,
    validate_dataset,
    validate_drift,
    validate_predictions,
)
from tasks.views import MaterialiseSettings, store_views, stored_views


class StageSettings(Settings):
    """Settings of every stage."""

    source: SourceSettings = Field(SourceSettings(), description="What to list.")
    decode: DecodeSettings = Field(DecodeSettings(), description="How to decode.")
    contracts: ContractSettings = Field(
        ContractSettings(), description="What to put up with."
    )
    clean: CleanSettings = Field(CleanSettings(), description="What to leave out.")
    denoise: DenoiseSettings = Field(DenoiseSettings(), description="What to filter.")
    inpaint: InpaintSettings = Field(
        InpaintSettings(), description="What to paint over."
    )
    split: SplitSettings = Field(SplitSettings(), description="How to divide.")
    materialise: MaterialiseSettings = Field(
        MaterialiseSettings(), description="Which views to store."
    )
    embed: EmbedSettings = Field(EmbedSettings(), description="How to embed.")
    impute: ImputeSettings = Field(
        ImputeSettings(), description="How to fill what is missing."
    )
    anomaly: AnomalySettings = Field(
        AnomalySettings(), description="How to judge images that do not belong."
    )
    audit: AuditSettings = Field(AuditSettings(), description="How to judge labels.")
    train: TrainSettings = Field(TrainSettings(), description="How to train.")
    evaluate: EvaluateSettings = Field(
        EvaluateSettings(), description="How to measure."
    )
    gate: GateSettings = Field(GateSettings(), description="What a version must reach.")


def prepare(
    place: str,
    settings: StageSettings,
    *,
    uri: str,
    clock: Clock,
    parent: DatasetRef | None = None,
    settled: DatasetRef | None = None,
    without_labels: bool = False,
) -> tuple[dict[str, DatasetRef], list[ContractReport]]:
    """Ingest, validate, clean, denoise, inpaint, split; return each snapshot.

    Args:
        place: Where the images are.
        settings: Settings of the stages.
        uri: Folder of the dataset.
        clock: Where seconds add up.
        parent: Ingest snapshot that the images are added to.
        settled: Snapshot whose splits stay.
        without_labels: Whether a lack of labels only warns.

    Raises:
        ContractError: A critical rule is broken; nothing is trained.
    """
    contracts: list[ContractReport] = []
    check_plan(settings.gate, robustness=settings.evaluate.robustness)
    must_be_askable(settings.gate)
    own = own_contracts(settings.contracts)
    eased = {"without_labels": without_labels} if without_labels else {}
    detector = wanted_detector(
        settings.inpaint,
        size=settings.decode.image_size,
        detectors=str(workspace.detectors_root()),
    )
    with clock.stage("ingest"):
        ingested = ingest_dataset(
            place,
            IngestSettings(source=settings.source, decode=settings.decode),
            uri=uri,
            parent=parent,
            settled=settled,
        )
    with clock.stage("validate"):
        limit = {"max_bad_share": settings.contracts.max_bad_share} | eased
        contracts.append(validate_dataset(ingested, "ingested", parameters=limit))
        contracts += [validate_dataset(ingested, file) for file in own["ingest"]]
        drift = validate_drift(ingested, tolerated=settings.contracts.tolerate_drift)
        contracts += [drift] if drift else []
    with clock.stage("clean"):
        cleaned = clean_dataset(ingested, settings.clean)
    with clock.stage("denoise"):
        denoised = denoise_dataset(cleaned, settings.denoise)
    datasets = {"ingest": ingested, "clean": cleaned, "denoise": denoised}
    if detector is not None:
        with clock.stage("inpaint"):
            datasets["inpaint"] = inpaint_dataset(
                denoised, settings.inpaint, found=detector
            )
    repaired = last(datasets)
    with clock.stage("validate"):
        limit = {"min_kept_share": settings.contracts.min_kept_share} | eased
        contracts.append(validate_dataset(repaired, "cleaned", parameters=limit))
        contracts += [validate_dataset(repaired, file) for file in own["denoise"]]
    with clock.stage("split"):
        divided = split_dataset(repaired, settings.split)
    with clock.stage("validate"):
        given = {"given_splits": has_given_splits(divided)} | eased
        contracts.append(validate_dataset(divided, "split", parameters=given))
        contracts += [validate_dataset(divided, file) for file in own["split"]]
    return datasets | {"split": divided}, contracts


def curate(
    datasets: dict[str, DatasetRef],
    settings: StageSettings,
    *,
    name: str,
    clock: Clock,
    champion: ModelRef | None = None,
) -> dict[str, DatasetRef]:
    """Embed the images and judge labels and pixels by it; return all snapshots.

    Args:
        datasets: Snapshots by stage, up to `split`.
        settings: Settings of the stages.
        name: Name of the model.
        clock: Where seconds add up.
        champion: The version that an update starts from.
    """
    runs, done = str(workspace.runs_root()), dict(datasets)
    if needs_embeddings(settings):
        with clock.stage("embed"):
            done["embed"] = embed_dataset(
                done["split"], settings.embed, name=name, runs=runs, champion=champion
            )
    if settings.anomaly.anomalies != AnomalyPolicy.off:
        with clock.stage("anomaly"):
            done["anomaly"] = find_dataset_anomalies(last(done), settings.anomaly)
    known = champion_datasets(str(workspace.models_root()), name) if champion else {}
    if settings.impute.asked:
        with clock.stage("impute"):
            done["impute"] = impute_dataset(
                last(done),
                settings.impute,
                encoder=settings.embed,
                split=done["split"],
                name=name,
                runs=runs,
                champion=champion,
                start=known.get("impute"),
            )
    if asks_for_audit(settings.audit) or "audit" in known:
        with clock.stage("audit"):
            done["audit"] = audit_dataset(
                last(done), settings.audit, runs=runs, before=known.get("audit")
            )
    return done


def needs_embeddings(settings: StageSettings) -> bool:
    """Whether a stage is asked for that works on embeddings."""
    audits = settings.audit.wrong_labels != WrongLabels.off
    odd = settings.anomaly.anomalies != AnomalyPolicy.off
    return settings.impute.by_embeddings or audits or odd


def last(datasets: dict[str, DatasetRef]) -> DatasetRef:
    """Return the snapshot of the last stage that ran: the one to learn from."""
    return [*datasets.values()][-1]


def materialise(
    datasets: dict[str, DatasetRef], settings: StageSettings, *, clock: Clock
) -> tuple[dict[str, DatasetRef], list[ContractReport], TrainSettings]:
    """Store views of the training images where that is asked for.

    Returns:
        All snapshots, the views' contract, and how to train on them.
    """
    if not settings.materialise.views:
        return datasets, [], settings.train
    with clock.stage("views"):
        wanted, train = stored_views(
            last(datasets), settings.materialise, settings.train
        )
        views = store_views(last(datasets), wanted)
    with clock.stage("validate"):
        found = validate_dataset(views, "views")
    return {**datasets, "views": views}, [found], train


def learn(
    datasets: dict[str, DatasetRef],
    contracts: list[ContractReport],
    settings: StageSettings,
    *,
    name: str,
    clock: Clock,
    config: dict[str, Any],
    start: ModelRef | None = None,
    commands: dict[str, str],
) -> RunResult:
    """Train, evaluate, gate, register and report.

    Args:
        datasets: Snapshots by stage.
        contracts: What validation found so far.
        settings: Settings of the stages.
        name: Name of the model.
        clock: Where seconds add up.
        config: All settings, for the record.
        start: Version to start training from.
        commands: Command lines to show in the report.
    """
    if "audit" in datasets:
        with clock.stage("validate"):
            limits = audit_limits(datasets["audit"], settings.audit)
            audited = validate_dataset(datasets["audit"], "audited", parameters=limits)
        contracts = [*contracts, audited]
    datasets, found, train = materialise(datasets, settings, clock=clock)
    source, models = last(datasets), str(workspace.models_root())
    runs = str(workspace.runs_root())
    with clock.stage("train"):
        trained = train_networks(source, train, name=name, runs=runs, start=start)
    run = judged_run(trained, settings.evaluate, settings.gate)
    before = find_result(trained, run)
    if before is not None:
        return RunResult.model_validate_json(before)
    champion = rival_of(models, name, run=run)
    with clock.stage("evaluate"):
        evaluated = evaluate_model(
            source,
            trained,
            settings.evaluate,
            champion=champion,
            attacks=attacks_of(settings.gate),
        )
    with clock.stage("validate"):
        version = next_version(models, name, run=run)
        answers = validate_predictions(source, trained, evaluated, version=version)
    contracts = [*contracts, *found, answers]
    with clock.stage("gate"):
        registered = register_model(
            source,
            trained,
            evaluated,
            settings.gate,
            run=run,
            name=name,
            models=models,
            champion=champion,
            config=config,
            datasets=datasets,
        )
        registered = ask_to_waive(registered, settings.gate, models=models)
    with clock.stage("report"):
        report = report_run(
            source,
            trained,
            evaluated,
            registered,
            datasets=datasets,
            settings=train,
            contracts=contracts,
            seconds=clock.seconds,
            config=config,
            commands=commands,
        )
    result = RunResult(
        run=run,
        verdict=registered.gate.verdict,
        promoted=registered.promoted,
        model=registered.model,
        dataset=source,
        gate=registered.gate,
        contracts=contracts,
        seconds=clock.seconds,
        report=report,
        **summarise(source, trained, evaluated),
    )
    keep_result(trained, run, result.model_dump_json(indent=1))
    return result
