"""Speech families: the conformance suite, padding of recordings, and recordings through a saved model's own processor."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click.testing
import numpy as np
import pytest
import torch
import transformers
from datasets import Audio, ClassLabel, Dataset, Features, List, Value
from torchmetrics.functional.text import word_error_rate

import fastprune
from fastprune import testing
from fastprune.cli.main import main
from fastprune.data import outputs_of
from fastprune.errors import DataError, RowError
from fastprune.models import checkpoint
from fastprune.registry import loading
from fastprune.units import Mask, resolve_groups
from fastprune_tasks.ctc import CTC
from fastprune_tasks.recordings import waveforms

POST: dict[str, Any] = {"do_stable_layer_norm": False, "feat_extract_norm": "group"}
PRE: dict[str, Any] = {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}
FAMILIES: list[tuple[str, str, dict[str, Any]]] = [
    ("wav2vec2", "ForCTC", POST),
    ("wav2vec2", "ForCTC", PRE),
    ("wav2vec2", "ForCTC", {**PRE, "adapter_attn_dim": 16}),
    ("wav2vec2", "ForAudioClassification", PRE),
    ("hubert", "ForCTC", {**PRE, "do_stable_layer_norm": False}),
    ("hubert", "ForAudioClassification", PRE),
    ("unispeech", "ForCTC", PRE),
    ("unispeech-sat", "ForAudioClassification", PRE),
    ("whisper", "ForSpeechSeq2Seq", {}),
    ("whisper", "ForAudioClassification", {}),
]
IDS = ["-".join([name, head, *map(str, config.values())]) for name, head, config in FAMILIES]
LETTERS = "abcdefghijklmnopqrstuvwxyz'"
WORDS = {"word_error_rate", "character_error_rate"}
RATE = 3840
"""Readings a second: the tiny Whisper hears one second, 24 frames of its spectrum."""


@pytest.mark.parametrize(("model_type", "head", "config"), FAMILIES, ids=IDS)
def test_family(model_type: str, head: str, config: dict[str, Any]) -> None:
    model = testing.tiny_model(model_type, head, **config)
    testing.check_architecture(fastprune.architecture_for(model), model)
    for cost in ("macs", "params"):
        testing.check_cost_model(fastprune.strategy("cost", cost), model=model)
    testing.check_tuner(fastprune.strategy("tuner", "weights"), model=model)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("model_type", "head", "config"), FAMILIES, ids=IDS)
def test_recordings_take_the_data_type_of_the_model(
    model_type: str, head: str, config: dict[str, Any], dtype: torch.dtype
) -> None:
    model = testing.tiny_model(model_type, head, **config).to(dtype)
    batches = testing.tiny_batches(model)
    result = fastprune.prune(model, batches, budget=0.7, recipe="paper", searcher="knapsack")
    assert result.latency["speedup"] > 0
    assert outputs_of(result.model, batches.batches[0], batches.task)[0].dtype == dtype


def test_every_claimed_model_type_is_checked() -> None:
    registry = loading.installed().architecture
    found = [registry[name] for name in registry if registry.entry(name).plugin == "speech" or name == "whisper"]
    assert {kind for architecture in found for kind in architecture.model_types} == {name for name, _, _ in FAMILIES}


@pytest.mark.parametrize("scorer", ["fisher", "taylor", "activation", "fluctuation", "obs"])
def test_padding_of_recordings_counts_for_nothing(scorer: str) -> None:
    model = testing.tiny_model("wav2vec2", "ForCTC", **PRE)
    testing.check_scorer(fastprune.strategy("scorer", scorer), model=model)


def test_frames_that_are_not_heard_are_no_rows() -> None:
    """As many rows as the model's own mask leaves, padding half as long as the recordings or not."""
    model = testing.tiny_model("hubert", "ForCTC", **PRE)
    groups = resolve_groups(fastprune.architecture_for(model), model)
    batches = testing.tiny_batches(model)
    for each in (batches, testing.tiny.pad_further(model, batches)):
        batch = each.batches[0]
        seen: list[torch.Tensor] = []
        with fastprune.calibration.consumer_inputs(model, groups, lambda _, features, seen=seen: seen.append(features)):
            frames = model(**fastprune.data.model_inputs(batch, each.task)).logits.shape[1]
        expected = model._get_feature_vector_attention_mask(frames, batch["attention_mask"])
        rows = fastprune.calibration.real_rows(seen[0], groups.items[0], batch)
        assert torch.equal(rows, seen[0][expected])
        assert len(rows) < seen[0][..., 0].numel()


def test_ctc_by_task_conformance() -> None:
    testing.check_task(CTC, model=testing.tiny_model("wav2vec2", "ForCTC", **PRE))


def test_ctc_loss_is_that_of_the_model() -> None:
    model = testing.tiny_model("wav2vec2", "ForCTC", **PRE, ctc_loss_reduction="sum")
    batches = testing.tiny_batches(model)
    batch, task = batches.batches[0], batches.task
    with torch.no_grad():
        ours = task.loss(model(**fastprune.data.model_inputs(batch, task)), batch)
        theirs = model(**batch).loss
    assert torch.allclose(ours.sum(), theirs, rtol=1e-5)


def test_drawn_texts_have_the_frequencies_that_ctc_says() -> None:
    """Over all texts of three frames and two tokens beside the blank, each drawn about as often as its loss says."""
    task = CTC(blank=0, convolutions=())
    logits = torch.randn(1, 3, 3, generator=torch.Generator().manual_seed(0))

    @dataclasses.dataclass
    class Outputs:
        logits: torch.Tensor

    count = 20_000
    many = Outputs(logits.expand(count, -1, -1))
    drawn = task.draw_labels(many, {}, torch.Generator().manual_seed(1))["labels"]
    texts, often = drawn.unique(dim=0, return_counts=True)
    losses = task.loss(Outputs(logits.expand(len(texts), -1, -1)), {"labels": texts})
    assert torch.allclose(often / count, torch.exp(-losses), atol=0.015)
    assert float(torch.exp(-losses).sum()) == pytest.approx(1.0, abs=0.01)


def recorded(rows: int = 12) -> list[list[float]]:
    generator = np.random.default_rng(0)
    return [generator.normal(size=900 + 150 * row).tolist() for row in range(rows)]


@pytest.fixture
def spoken(tmp_path: Path) -> Path:
    """A saved data set of recordings, texts and labels."""
    said = [" ".join("ab"[row % 2] * (1 + row % 3) for _ in range(2)) for row in range(12)]
    kinds = ClassLabel(names=["LABEL_0", "LABEL_1"])
    features = Features({"audio": List(Value("float32")), "text": Value("string"), "label": kinds})
    rows = {"audio": recorded(), "text": said, "label": [row % 2 for row in range(12)]}
    Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "spoken")
    return tmp_path / "spoken"


@pytest.fixture
def ctc_model(tmp_path: Path) -> Path:
    folder = tmp_path / "ctc"
    folder.mkdir()
    tokens = ["<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS]
    (folder / "vocab.json").write_text(json.dumps({token: at for at, token in enumerate(tokens)}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True, sampling_rate=RATE)
    transformers.Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(folder)
    model = testing.tiny_model("wav2vec2", "ForCTC", **PRE, vocab_size=len(tokens), conv_stride=(12, 8))
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def whisper(tmp_path: Path) -> Path:
    folder = tmp_path / "whisper"
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"]
    vocabulary = {token: at for at, token in enumerate([*LETTERS, "Ġ", *special])}
    ends = dict.fromkeys(["unk_token", "bos_token", "eos_token", "pad_token"], special[0])
    tokenizer = transformers.WhisperTokenizer(vocab=vocabulary, merges=[], **ends)
    extractor = transformers.WhisperFeatureExtractor(feature_size=4, sampling_rate=RATE, chunk_length=1)
    transformers.WhisperProcessor(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(folder)
    places = {"eos_token_id": 28, "bos_token_id": 28, "pad_token_id": 28, "decoder_start_token_id": 29}
    sizes = {"vocab_size": len(vocabulary), "num_mel_bins": 4}
    testing.tiny_model("whisper", "ForSpeechSeq2Seq", **sizes, **places).save_pretrained(folder)
    return folder


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    folder = tmp_path / "classifier"
    testing.tiny_model("hubert", "ForAudioClassification", **PRE).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True, sampling_rate=RATE).save_pretrained(folder)
    return folder


def run(*arguments: object) -> click.testing.Result:
    result = click.testing.CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.filterwarnings("ignore:At least one mel filter")
@pytest.mark.parametrize(
    ("fixture", "auto", "metrics"),
    [
        ("ctc_model", "AutoModelForCTC", WORDS),
        ("whisper", "AutoModelForSpeechSeq2Seq", WORDS | {"perplexity", "token_accuracy"}),
        ("classifier", "AutoModelForAudioClassification", {"accuracy", "f1", "matthews"}),
    ],
)
def test_recordings_from_the_command_line(
    fixture: str, auto: str, metrics: set[str], spoken: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Prune, evaluate, inspect and check, all from directories; what is saved opens with transformers alone as well."""
    dense, small = request.getfixturevalue(fixture), tmp_path / "small"
    pruned = run(
        *("prune", dense, "--data", spoken, "--budget", 0.7, "--output", small, "--eval-data", spoken),
        *("--batch-size", 4, "--json"),
    )
    summary = json.loads(pruned.stdout)
    assert summary["cost"]["after"] <= 0.7 * summary["cost"]["before"]
    assert set(summary["metrics"]["pruned"]) == metrics
    evaluated = run("evaluate", small, "--data", spoken, "--json")
    assert json.loads(evaluated.stdout)["metrics"] == pytest.approx(summary["metrics"]["pruned"], nan_ok=True)
    run("inspect", small)
    run("check-architecture", dense)
    opened = fastprune.open_pretrained(small)
    batches = fastprune.make_batches(str(spoken), opened.task, opened.tokenizer, batch_size=4)
    inputs = fastprune.data.model_inputs(batches.batches[-1], opened.task)
    alone = getattr(transformers, auto).from_pretrained(small, trust_remote_code=True).eval()
    with torch.no_grad():
        assert torch.equal(alone(**inputs).logits, opened.model(**inputs).logits)


@pytest.mark.filterwarnings("ignore:At least one mel filter")
def test_word_errors_of_whisper_are_those_of_what_it_writes(whisper: Path, spoken: Path) -> None:
    opened = fastprune.open_pretrained(whisper)
    batches = fastprune.make_batches(str(spoken), opened.task, opened.tokenizer, batch_size=5)
    text, heard = opened.tokenizer.tokenizer, []
    for batch in batches:
        ids = opened.model.generate(input_features=batch["input_features"], max_length=opened.task.longest)
        heard += text.batch_decode(ids, skip_special_tokens=True)
    said = [sample["transcript"] for sample in batches.samples]
    metrics = fastprune.evaluate(opened.model, batches)
    expected = word_error_rate([each.lower() for each in heard], said)
    assert metrics["word_error_rate"] == pytest.approx(float(expected))
    assert {"word_error_rate", "character_error_rate"} <= opened.task.lower_is_better


@pytest.mark.filterwarnings("ignore:At least one mel filter")
@pytest.mark.parametrize("kind", ["ctc_model", "whisper"])
def test_many_recordings_are_encoded_when_they_are_read(
    kind: str, spoken: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    opened = fastprune.open_pretrained(request.getfixturevalue(kind))
    kept = fastprune.make_batches(str(spoken), opened.task, opened.tokenizer, batch_size=5)
    monkeypatch.setattr("fastprune_tasks.recordings.KEPT", 11)
    later = fastprune.make_batches(str(spoken), opened.task, opened.tokenizer, batch_size=5)
    name = "input_values" if kind == "ctc_model" else "input_features"
    assert later.batches[0][name] is not later.batches[0][name], "recordings are not kept"
    assert (later.sizes, later.has_labels, later.n_tokens) == (kept.sizes, True, kept.n_tokens)
    for one, other in zip(later, kept, strict=True):
        assert set(one) == set(other)
        assert all(torch.equal(one[each], other[each]) for each in other)
    assert fastprune.evaluate(opened.model, later) == fastprune.evaluate(opened.model, kept)
    results = [fastprune.prune(opened, each, budget=0.6, bench=False, recipe="fast") for each in (later, kept)]
    assert results[0].kept() == results[1].kept()


@pytest.mark.filterwarnings("ignore:At least one mel filter")
def test_generating_transcripts_warns_of_no_missing_mask(
    whisper: Path, spoken: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers.utils.logging.get_logger("transformers"), "propagate", True)
    fastprune.evaluate(whisper, spoken)
    assert not [record for record in caplog.records if "attention mask" in record.getMessage()]


def test_a_missing_package_is_not_a_fault_of_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(DataError, match="^Sound files need the package soundfile"):
        list(waveforms(Dataset.from_dict({"audio": [str(tmp_path / "a.wav")]}), "audio", 16000))


def test_readings_that_are_no_numbers_are_named() -> None:
    rows = Dataset.from_dict({"audio": [[0.0, 1.0], [0.5, float("nan")]]})
    with pytest.raises(RowError, match="Row 2 of the data: 'audio' has readings that are infinite or no numbers"):
        list(waveforms(rows, "audio", 16000))


@pytest.mark.filterwarnings("ignore:At least one mel filter")
def test_transcripts_are_compared_without_case_and_punctuation(whisper: Path) -> None:
    """As Whisper's own tokenizer normalises them."""
    opened = fastprune.open_pretrained(whisper)
    text = opened.tokenizer.tokenizer
    samples = [{"transcript": "A, B!", "tokenizer": text}]
    ids = torch.tensor([text.convert_tokens_to_ids(["a", "\u0120", "b"])])
    batch = {"sample": torch.tensor([0]), "sequences": ids, "labels": torch.zeros(1, 1).long()}
    results = [(SimpleNamespace(logits=torch.zeros(1, 1, 3)), batch)]
    assert opened.task.metrics(results, samples)["word_error_rate"] == 0.0


@pytest.mark.filterwarnings("ignore:At least one mel filter")
def test_a_pruned_whisper_writes_what_the_pruned_model_in_memory_writes(
    whisper: Path, spoken: Path, tmp_path: Path
) -> None:
    result = fastprune.prune(whisper, spoken, budget=0.7, bench=False)
    result.save(tmp_path / "small")
    features = torch.randn(2, 4, 24, generator=torch.Generator().manual_seed(0))
    said = {"max_new_tokens": 5, "do_sample": False}
    expected = result.model.generate(input_features=features, **said)
    assert torch.equal(fastprune.load(tmp_path / "small").generate(input_features=features, **said), expected)


@pytest.mark.filterwarnings("ignore:At least one mel filter")
def test_decoder_sees_the_text_one_token_later(whisper: Path, spoken: Path) -> None:
    opened = fastprune.open_pretrained(whisper)
    batches = fastprune.make_batches(str(spoken), opened.task, opened.tokenizer, batch_size=5)
    batch = batches.batches[0]
    assert (batch["decoder_input_ids"][:, 0] == 29).all()
    assert batch["labels"][:, 0].tolist() == [30] * 5
    there = batch["labels"][:, :-1] != -100
    assert torch.equal(batch["decoder_input_ids"][:, 1:][there], batch["labels"][:, :-1][there])
    assert batches.n_tokens == sum(int(each["decoder_attention_mask"].sum()) for each in batches)
    assert batch["input_features"].shape == (5, 4, 24)


def test_word_errors_are_those_of_what_is_heard(ctc_model: Path, spoken: Path) -> None:
    opened = fastprune.open_pretrained(ctc_model)
    batches = fastprune.make_batches(str(spoken), opened.task, opened.tokenizer, batch_size=5)

    @dataclasses.dataclass
    class Outputs:
        logits: torch.Tensor

    def outputs(ids: list[int], frames: int) -> Outputs:
        path = [token for one in ids for token in (one, 0)]  # a blank behind every token keeps doubled letters apart
        path += [0] * (frames - len(path))
        return Outputs(torch.nn.functional.one_hot(torch.tensor([path]), 32).float())

    results = []
    for index, sample in enumerate(batches.samples):
        wrong = sample["labels"][:-1] if index == 0 else sample["labels"]
        mark = torch.ones(1, 5000, dtype=torch.long)
        one = {"labels": torch.tensor([sample["labels"]]), "attention_mask": mark, "sample": torch.tensor([index])}
        results.append((outputs(wrong, 51), one))
    metrics = opened.task.metrics(results, batches.samples)
    words = sum(len(sample["transcript"].split()) for sample in batches.samples)
    assert metrics["word_error_rate"] == pytest.approx(1 / words)


def test_recordings_of_other_rates_and_channels(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile", reason="sound files need soundfile")
    times = np.arange(8000) / 8000
    tone = np.sin(2 * np.pi * 100 * times).astype(np.float32)
    soundfile.write(tmp_path / "tone.wav", np.stack([tone, tone], 1), 8000, subtype="FLOAT")
    paths = Dataset.from_dict({"audio": [str(tmp_path / "tone.wav")]})
    arrays = Dataset.from_dict({"audio": [{"array": tone.tolist(), "sampling_rate": 8000}]})
    expected = np.sin(2 * np.pi * 100 * np.arange(16000) / 16000)
    for data in (paths, paths.cast_column("audio", Audio()), arrays):
        (wave,) = waveforms(data, "audio", 16000)
        assert wave.dtype == np.float32
        assert np.abs(wave - expected)[200:-200].max() < 1e-2


def test_a_directory_of_sound_files(ctc_model: Path, classifier: Path, tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile", reason="sound files need soundfile")
    for row, wave in enumerate(recorded(8)):
        folder = tmp_path / "sounds" / f"LABEL_{row % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"{row}.wav", wave, RATE)
    opened = fastprune.open_pretrained(classifier)
    batches = fastprune.make_batches(str(tmp_path / "sounds"), opened.task, opened.tokenizer)
    assert batches.has_labels
    assert sorted(label for batch in batches for label in batch["labels"].tolist()) == [0] * 4 + [1] * 4
    lines = [f"LABEL_{row % 2}/{row}.wav,ab ba" for row in range(8)]
    (tmp_path / "sounds" / "metadata.csv").write_text("\n".join(["file_name,transcription", *lines]) + "\n")
    opened = fastprune.open_pretrained(ctc_model)
    batches = fastprune.make_batches(str(tmp_path / "sounds"), opened.task, opened.tokenizer)
    assert batches.has_labels
    assert {sample["transcript"] for sample in batches.samples} == {"ab ba"}


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ({"text": ["a"]}, "no column of recordings; the data has text"),
        ({"audio": [[]], "text": ["a"]}, "must have the readings of one channel"),
        ({"audio": [[0.1] * 2000], "text": ["A B"]}, "2 of the 3 tokens of the transcripts are not in the vocabulary"),
    ],
)
def test_bad_recordings_are_refused(rows: dict[str, Any], complaint: str, ctc_model: Path) -> None:
    opened = fastprune.open_pretrained(ctc_model)
    with pytest.raises(fastprune.errors.DataError, match=complaint):
        fastprune.make_batches(Dataset.from_dict(rows), opened.task, opened.tokenizer)


def test_encoder_and_decoder_are_stacks_of_their_own() -> None:
    model = testing.tiny_model("whisper", "ForSpeechSeq2Seq")
    groups = resolve_groups(fastprune.architecture_for(model), model)
    assert [len(stack) for stack in groups.stacks()] == [4, 6]
    kept = Mask({g.name: torch.arange(g.units) < (0 if "cross" in g.name else g.units) for g in groups})
    deaf = fastprune.materialize(model, groups, kept)
    batch = testing.tiny_batches(model, labels=False).batches[0]
    other = {**batch, "input_features": batch["input_features"] + 1.0}
    with torch.no_grad():
        assert torch.equal(deaf(**batch).logits, deaf(**other).logits)


def word_times(model: Any, features: torch.Tensor) -> torch.Tensor:
    mask = torch.ones(len(features), features.shape[-1], dtype=torch.long)
    said = model.generate(
        features,
        attention_mask=mask,
        return_token_timestamps=True,
        return_timestamps=True,
        min_new_tokens=5,
        max_new_tokens=5,
    )
    return said["token_timestamps"]


def whisper_with_alignment_heads(pairs: list[list[int]]) -> Any:
    model = testing.tiny_model("whisper", "ForSpeechSeq2Seq", vocab_size=64)
    model.set_attn_implementation("eager")
    settings = {"no_timestamps_token_id": 20, "is_multilingual": False, "decoder_start_token_id": 1, "eos_token_id": 2}
    for name, value in {**settings, "alignment_heads": pairs, "_from_model_config": False}.items():
        setattr(model.generation_config, name, value)
    return model


@pytest.mark.parametrize("emptied", [False, True])
def test_alignment_heads_follow_the_heads_that_word_times_are_read_from(emptied: bool, tmp_path: Path) -> None:
    model = whisper_with_alignment_heads([[0, 1], [0, 3], [1, 0], [1, 2]])
    groups = resolve_groups(fastprune.architecture_for(model), model)
    kept = {group.name: torch.ones(group.units, dtype=torch.bool) for group in groups}
    kept["decoder.layers.0.cross-attention"] = torch.tensor([False, False, not emptied, not emptied])
    kept["decoder.layers.1.cross-attention"] = torch.tensor([False, False, True, True])
    pruned = fastprune.materialize(model, groups, Mask(kept))
    expected = [[1, 0]] if emptied else [[0, 1], [1, 0]]
    assert pruned.generation_config.alignment_heads == expected
    assert len(model.generation_config.alignment_heads) == 4
    features = testing.tiny_batches(model, samples=2).batches[0]["input_features"]
    times = word_times(pruned, features)
    model.generation_config.alignment_heads = [[1, 2]] if emptied else [[0, 3], [1, 2]]
    with fastprune.masked(model, groups, Mask(kept)):
        torch.testing.assert_close(times, word_times(model, features))
    checkpoint.save(pruned, tmp_path / "small", architecture=fastprune.architecture_for(pruned), details={})
    loaded = fastprune.load(tmp_path / "small")
    assert loaded.generation_config.alignment_heads == expected


def test_word_times_are_refused_without_alignment_heads() -> None:
    model = whisper_with_alignment_heads([[0, 1]])
    groups = resolve_groups(fastprune.architecture_for(model), model)
    pruned = fastprune.materialize(model, groups, Mask({g.name: torch.arange(g.units) != 1 for g in groups}))
    features = testing.tiny_batches(model, samples=2).batches[0]["input_features"]
    with pytest.raises(ValueError, match="token-level timestamps not available"):
        word_times(pruned, features)
