"""`model.json`: round trips, and errors that name invalid values."""

import copy
import dataclasses
import json
import re

import jax.numpy as jnp
import pytest

import dcpt_jax
from dcpt_jax import models, weights
from dcpt_jax.labels import Labels
from dcpt_jax.weights.description import parse_description, read_description, write_description

NETWORK = dcpt_jax.create_model("nafnet", width=4, encoder_blocks=(1,), decoder_blocks=(1,))
CLASSIFIER = dcpt_jax.create_classifier(NETWORK.feature_dims, 2, num_blocks=1)
RUN = {"mode": "pretrain", "steps": 9}
FULL = weights.describe(
    NETWORK,
    CLASSIFIER,
    labels=Labels(("rain", "haze"), "multi_hot"),
    task_set="rain,haze,rain+haze",
    classes=("rain", "haze", "rain+haze"),
    mode="classify",
    steps=7,
    crop_size=16,
    averaged=("network", "classifier"),
    source={
        "init_from": "a",
        **RUN,
        "classifier_from": {"path": "b", **RUN},
        "file": "f.pth",
        "entry": "params",
        "layout": "maskdcpt",
    },
    metrics={"loss": 0.5, "gradient_norm": float("inf")},
    best={"step": 4, "metrics": {"psnr": 20.0}},
    guide=weights.ClassifierDescription(
        {"feature_dims": (4,), "num_classes": 2, "num_blocks": 1, "resize_features": False},
        Labels(("rain", "haze")),
    ),
).with_checksums({"network/intro/kernel": 5})


def test_a_file_gives_the_same_description(tmp_path):
    write_description(tmp_path / "model.json", FULL)
    assert read_description(tmp_path / "model.json") == FULL
    assert FULL.network() == NETWORK and FULL.classifier.module() == CLASSIFIER
    plain = weights.describe(NETWORK)
    assert parse_description(plain.to_json(), "f") == plain
    assert len((tmp_path / "model.json").read_text().splitlines()) == len(FULL.to_json()) + 2


def places(content, within=()):
    """Keys of every value in nested objects."""
    for key, value in content.items():
        yield (*within, key)
        if isinstance(value, dict):
            yield from places(value, (*within, key))


def changed(place, change):
    """The content of a `model.json` without checksums, after `change(object, key)`."""
    content = copy.deepcopy(dataclasses.replace(FULL, checksums=None).to_json())
    if place[0] == "checksums":
        content = copy.deepcopy(FULL.to_json())
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    change(inner, place[-1])
    return content


ODD = (None, True, -1, 0, 1.5, 10**30, "odd", "a\0b", [], [0], ["a", "a"], {}, {"odd": 1}, [[1]])


@pytest.mark.parametrize("place", list(places(FULL.to_json())), ids="/".join)
def test_every_odd_value_is_read_or_named(place):
    """Any value of a key is valid, or the error names the key and the file."""
    named = re.escape(place[0])
    refused = 0
    for value in ODD:
        content = changed(place, lambda inner, key, value=value: inner.__setitem__(key, value))
        try:
            found = parse_description(content, "W/model.json")
        except weights.WeightsError as error:
            refused += 1
            # Counts and names are compared with each other.
            assert re.search(rf"^W/model\.json .*({named}|num_classes|checksum)", str(error)), error
        else:
            assert parse_description(found.to_json(), "again") == found
            found.network()
    assert refused >= 6, "almost everything is accepted here"


@pytest.mark.parametrize("place", list(places(FULL.to_json())), ids="/".join)
def test_every_unknown_key_is_named(place):
    def misspell(inner, key):
        inner[key + "s"] = inner.pop(key)

    if place[:-1] in {("metrics",), ("best", "metrics"), ("checksums", "arrays")}:
        return  # of any names
    with pytest.raises(weights.WeightsError, match=rf"W .*the key .*{place[-1]}s is .*allowed"):
        parse_description(changed(place, misspell), "W")


@pytest.mark.parametrize(
    "key", ["format", "architecture", "arguments", "classifier", "task_set", "classes"]
)
def test_missing_keys_are_named(key):
    with pytest.raises(weights.WeightsError, match=f"{key} is missing"):
        parse_description(changed((key,), lambda inner, key: inner.pop(key)), "W")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("architecture",), "unet", 'architecture is "unet"; allowed: nafnet, restormer'),
        (("arguments", "width"), 10**9, "arguments.width is 1000000000; allowed: an integer"),
        (("arguments", "tlc_size"), "big", 'arguments.tlc_size is "big"'),
        (("label",), "hot", 'label is "hot"; allowed: flat, multi_hot'),
        (("components",), ["rain"], "num_classes is 2; allowed: 1, the number of components"),
        (("steps",), -1, "steps is -1; allowed: an integer from 0"),
        (("metrics", "loss"), "low", 'metrics.loss is "low"; allowed: a number'),
        (
            ("source", "classifier_from"),
            "b",
            'source.classifier_from is "b"; allowed: a JSON object',
        ),
    ],
)
def test_error_messages(place, value, message):
    content = changed(place, lambda inner, key: inner.__setitem__(key, value))
    with pytest.raises(weights.WeightsError, match=re.escape(message)):
        parse_description(content, "W")


@pytest.mark.parametrize("content", ["", "[]", "3", "null", '{"format": 1', "[" * 100_000, "\xff"])
def test_files_that_are_not_descriptions(tmp_path, content):
    file = tmp_path / "model.json"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(
        weights.WeightsError, match=r"model\.json (is damaged|is not a valid description)"
    ):
        read_description(file)


def test_the_checksum_detects_a_changed_value(tmp_path):
    file = tmp_path / "model.json"
    write_description(file, FULL)
    content = json.loads(file.read_text()) | {"steps": 8}
    file.write_text(json.dumps(content))
    with pytest.raises(weights.WeightsError, match=r"model\.json .*checksum .*edited on purpose"):
        read_description(file)
    del content["checksums"]
    file.write_text(json.dumps(content))
    assert read_description(file) == dataclasses.replace(FULL, steps=8, checksums=None)


def test_a_network_of_a_user_s_own(monkeypatch):
    """Found by its name once it is registered, even if its arguments have no defaults."""

    class Plain(models.RestorationNetwork):
        channels: int
        scale: float
        dtype: jnp.dtype = jnp.float32
        architecture = "plain"

        def arguments(self):
            return {"channels": self.channels, "scale": self.scale}

    content = weights.describe(Plain(0, -0.5)).to_json()
    with pytest.raises(weights.WeightsError, match=r'architecture is "plain"; .*registers it'):
        parse_description(content, "W")
    monkeypatch.setitem(models.BACKBONES, "plain", Plain)
    assert parse_description(content, "W").network() == Plain(0, -0.5)
    content["arguments"] = {"channels": 1}
    with pytest.raises(weights.WeightsError, match=r"arguments is .*missing 1 required"):
        parse_description(content, "W")
