import numpy as np
import pytest

from dcpt_jax.convert.recognise import recognise, state_dict_of
from dcpt_jax.convert.state_shapes import count_numbered, expansion_factor, size_of
from dcpt_jax.models import create_model
from tests.golden import read_json

# The reference's keyword arguments in the recordings, and ours.
RENAMED = {
    "enc_blk_nums": "encoder_blocks",
    "middle_blk_num": "middle_blocks",
    "dec_blk_nums": "decoder_blocks",
    "ffn_expansion_factor": "ffn_expansion",
    "LayerNorm_type": "norm",
    "num_res_blocks": "num_blocks",
}
NOT_TOLD = {"upscale", "downsample"}  # by names and shapes
ARCHITECTURES = {
    "NAFNetBaseline": "nafnet",
    "Restormer": "restormer",
    "Restormer_origin": "restormer",
    "PromptIR": "promptir",
    "PromptIRFree": "promptir",
    "SwinIR": "swinir",
    "PromptIR_NoImg_DC": "classifier",
    "PromptIR_DC": "classifier",
}


def without_memory(names_and_shapes):
    """Arrays of stride 0: any shape without memory."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in names_and_shapes}


def expected_arguments(recorded):
    """Arguments of a recorded network by our names, if names and shapes determine them."""
    arguments = dict(recorded["kwargs"])
    if recorded["arch"] != "SwinIR":
        arguments.pop("window_size", None)
    if "LayerNorm_type" in arguments:
        arguments["LayerNorm_type"] = {"WithBias": "with_bias"}[arguments["LayerNorm_type"]]
    arguments = {
        RENAMED.get(key, key): tuple(value) if isinstance(value, list) else value
        for key, value in arguments.items()
        if key not in NOT_TOLD
    }
    if recorded["arch"] == "Restormer_origin":
        arguments.setdefault("norm", "with_bias")
    if recorded["arch"] == "PromptIR_DC":
        arguments["image_input"] = True
    return arguments


CASES = [
    *(f"models/{name}/config.json" for name in (
        "nafnet_multiblock", "nafnet_small", "promptir_min", "promptir_tiny",
        "restormer_origin_small", "restormer_small", "restormer_withbias",
        "swinir_small", "swinir_ws8_3conv",
    )),
    *(f"classifiers/{name}/config.json" for name in (
        "dc_nafnet", "dc_restormer", "dc_swinir", "dc_promptir_tiny", "dc_img_promptir_tiny",
    )),
    *(f"full/{name}.json" for name in (
        "NAFNet_5d", "PromptIR_5d", "Restormer_5d", "Restormer_origin_default", "SwinIR_5d",
    )),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_recorded_networks_are_recognised_by_names_and_shapes(case):
    recorded = read_json(case)
    expected = expected_arguments(recorded)
    known = {}
    if recorded["arch"] == "SwinIR":
        known = {key: expected[key] for key in ("window_size", "num_heads")}
    if recorded["arch"] == "Restormer_origin":
        known = {"attention": "relu"}
    found = recognise(without_memory(recorded["params"]), **known)
    assert found.architecture == ARCHITECTURES[recorded["arch"]]
    if found.architecture == "classifier":
        assert found.arguments == {"num_blocks": 2, **expected}
    else:
        # What the recording does not state is the default: the paper's.
        model = create_model(found.architecture, **found.arguments)
        assert model == create_model(found.architecture, **{**expected, **known})
    assert found.state.keys() == dict(recorded["params"]).keys()


def test_recorded_classifiers_of_the_full_networks_are_recognised():
    for name in ("NAFNet_5d", "PromptIR_5d", "Restormer_5d", "SwinIR_5d"):
        recorded = read_json(f"full/{name}.json")
        recorded = recorded["classifier"]
        found = recognise(without_memory(recorded["params"]))
        assert found.arguments == {
            "feature_dims": tuple(recorded["kwargs"]["feature_dims"]),
            "num_classes": 5,
            "num_blocks": 2,
        }


def block(prefix, channels, hidden, *, heads=1, norm_bias=False, conv_bias=False):
    """Names and shapes of one transformer block of Restormer."""
    shapes = {
        "norm1.body.weight": (channels,),
        "norm2.body.weight": (channels,),
        "attn.temperature": (heads, 1, 1),
        "attn.qkv.weight": (3 * channels, channels, 1, 1),
        "attn.qkv_dwconv.weight": (3 * channels, 1, 3, 3),
        "attn.project_out.weight": (channels, channels, 1, 1),
        "ffn.project_in.weight": (2 * hidden, channels, 1, 1),
        "ffn.dwconv.weight": (2 * hidden, 1, 3, 3),
        "ffn.project_out.weight": (channels, hidden, 1, 1),
    }
    if norm_bias:
        shapes["norm1.body.bias"] = shapes["norm2.body.bias"] = (channels,)
    if conv_bias:
        for name in list(shapes):
            if name.startswith(("attn", "ffn")) and name.endswith("weight"):
                shapes[name.replace("weight", "bias")] = shapes[name][:1]
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}


def restormer_shapes(*, body="", **kind):
    """Names and shapes of a small Restormer."""
    shapes = {"patch_embed.proj.weight": (4, 3, 3, 3), "output.weight": (3, 8, 3, 3)}
    for i, stage in enumerate(("encoder_level1", "encoder_level2", "encoder_level3", "latent")):
        shapes |= block(f"{stage}{body}.0", 4 * 2**i, 8 * 2**i, **kind)
    for stage, channels in (("decoder_level3", 16), ("decoder_level2", 8), ("decoder_level1", 8)):
        shapes |= block(f"{stage}{body}.0", channels, 2 * channels, **kind)
    return shapes | block(f"refinement{body}.0", 8, 16, **kind)


def state_of(shapes):
    return without_memory(shapes.items())


def test_assumptions_about_restormer_are_reported():
    found = recognise(state_of(restormer_shapes(body=".body")))
    assert found.arguments["attention"] == "relu" and "--attention" in found.remarks[0]
    found = recognise(state_of(restormer_shapes()))
    assert found.arguments["attention"] == "softmax" and "--attention" in found.remarks[0]
    found = recognise(state_of(restormer_shapes()), attention="relu")
    assert found.arguments["attention"] == "relu" and not found.remarks
    assert found.arguments["ffn_expansion"] == 2.0 and not found.arguments["bias"]


def test_biases_tell_restormer_s_attention():
    # The original's `bias` is for all convolutions, that of DCPT's for the last ones only.
    everywhere = restormer_shapes(conv_bias=True) | {"output.bias": (3,)}
    found = recognise(state_of(everywhere))
    assert found.arguments["attention"] == "softmax" and not found.remarks
    found = recognise(state_of(restormer_shapes() | {"output.bias": (3,)}))
    assert found.arguments["attention"] == "relu" and not found.remarks
    assert found.arguments["bias"]


def test_assumptions_about_swinir_are_reported():
    recorded = read_json("models/swinir_ws8_3conv/config.json")
    state = without_memory(recorded["params"])  # 16 channels
    found = recognise(state)
    assert found.arguments["window_size"] == 8 and found.arguments["num_heads"] == (4,) * 6
    assert "--window-size" in found.remarks[0] and "--num-heads" in found.remarks[1]
    found = recognise(state, window_size=4, num_heads=(2,))
    assert found.arguments["num_heads"] == (2,) * 6 and not found.remarks
    with pytest.raises(ValueError, match="--num-heads names 2 numbers"):
        recognise(state, num_heads=(2, 4))


def test_convolutions_that_promptir_never_uses_are_left_out():
    recorded = read_json("full/PromptIR_5d.json")
    unused = {
        "chnl_reduce1.weight": (64, 64, 1, 1),
        "chnl_reduce3.weight": (256, 320, 1, 1),
        "reduce_noise_channel_2.weight": (96, 224, 1, 1),
    }
    found = recognise(without_memory([*recorded["params"], *unused.items()]))
    assert found.state.keys() == dict(recorded["params"]).keys()
    assert len(found.remarks) == 1 and all(name in found.remarks[0] for name in unused)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"skip_conv.weight": (8, 4, 1, 1)}, "skip_conv.weight: .*dual-pixel"),
        ({"output.0.weight": (3, 8, 3, 3)}, "output.0.weight: it enlarges"),
        ({"patch_embed.proj.weight": (4, 1, 3, 3)}, "images of 1 channels"),
        ({"latent.0.attn.qkv.weight": (0, 8)}, "empty tensors: latent.0.attn.qkv.weight"),
    ],
)
def test_relatives_of_restormer_are_refused(extra, message):
    with pytest.raises(ValueError, match=message):
        recognise(state_of(restormer_shapes() | extra))


def test_the_published_swinir_is_refused_with_the_reason():
    published = {
        "conv_first.weight": (180, 3, 3, 3),
        "layers.0.residual_group.blocks.0.attn.relative_position_bias_table": (225, 6),
        "layers.0.residual_group.blocks.0.attn.qkv.weight": (540, 180),
    }
    with pytest.raises(ValueError, match=r"relative_position_bias_table: .*has neither"):
        recognise(state_of(published))


def test_unknown_names_are_shown():
    with pytest.raises(ValueError, match=r"no known architecture .*\(head.weight\); .*SwinIR"):
        recognise(state_of({"head.weight": (3, 3)}))


@pytest.mark.parametrize(
    ("case", "options", "message"),
    [
        ("nafnet_small", {"attention": "relu"}, "--attention is for a Restormer, .* a nafnet"),
        ("restormer_small", {"window_size": 8}, "--window-size is for a SwinIR, .* a restormer"),
        ("promptir_tiny", {"num_heads": (1,)}, "--num-heads is for a SwinIR, .* a promptir"),
    ],
)
def test_an_option_of_another_architecture_is_refused(case, options, message):
    recorded = read_json(f"models/{case}/config.json")
    with pytest.raises(ValueError, match=message):
        recognise(without_memory(recorded["params"]), **options)


@pytest.mark.parametrize(
    "case",
    ["nafnet_small", "restormer_small", "promptir_tiny", "swinir_small"],
)
def test_a_missing_name_does_not_change_the_recognised_network(case):
    recorded = read_json(f"models/{case}/config.json")
    whole = recognise(without_memory(recorded["params"]))
    # Only the prompts themselves say how many there are, and of what size.
    names = [name for name, _ in recorded["params"] if not name.endswith("prompt_param")]
    for name in names:
        state = without_memory(recorded["params"])
        del state[name]
        try:
            found = recognise(state)
        except ValueError as error:
            assert f"missing {name}" in str(error)
        else:
            differing = {
                key for key, value in whole.arguments.items() if found.arguments[key] != value
            }
            # A bias or norm that occurs only once, and only its name tells that it exists.
            assert not differing or name.startswith(("patch_embed.norm", "output.bias")), name


def test_factors_of_expansion():
    dims = (48, 96, 192, 384)

    def explained(factor):
        return [(dim, int(dim * factor)) for dim in dims]

    for factor in (2.66, 2.0, 1.0, 4.0, 0.5, 2.667, 3.14159):
        found = expansion_factor(explained(factor), 2.66)
        assert explained(found) == explained(factor)
        assert len(str(found)) <= len(str(factor))
    for factor in (2.66, 2.0, 1.0, 4.0):
        assert expansion_factor(explained(factor), 1.5) == factor
    # 2.6 and 2.5 explain it with fewer digits, but the published network has 2.66.
    assert expansion_factor([(2, 5)], 2.66) == 2.66
    assert expansion_factor([(2, 5)], 2.0) == 2.5
    # One damaged layer among many does not change the factor.
    assert expansion_factor([*explained(2.66), *explained(2.66), (48, 100)], 2.0) == 2.66


def test_numbered_parts():
    state = state_of({"blocks.0.a": (1,), "blocks.2.a": (1,), "blocks.2.b": (1,), "x": (1,)})
    assert count_numbered(state, r"blocks\.(\d+)\.") == 3
    assert count_numbered(state, r"others\.(\d+)\.") == 0
    with pytest.raises(ValueError, match=r"blocks\.999999999\.' is too high: there are 3"):
        count_numbered({**state, "blocks.999999999.a": state["x"]}, r"blocks\.(\d+)\.")
    assert size_of({"a": np.zeros(3), "b": np.zeros((4, 5))}, "size", ("a", 1), ("b", 1)) == 5
    with pytest.raises(ValueError, match="size cannot be determined: missing c, d"):
        size_of(state, "size", ("c", 0), ("d", 0))


X = np.zeros(3, np.float32)


@pytest.mark.parametrize(
    ("content", "key", "names", "entry"),
    [
        ({"params": {"a": X}, "params_ema": {"b": X}}, None, {"b"}, "params_ema"),
        ({"params": {"a": X}, "params_ema": {"b": X}}, "params", {"a"}, "params"),
        ({"a": X}, None, {"a"}, ""),
        ({"params": {"module.net.a": X, "module.net.b": X}}, None, {"a", "b"}, "params"),
        # As a Lightning module that keeps its network under `net` saves it.
        ({"epoch": 3, "state_dict": {"net.a": X}, "loops": {}}, None, {"a"}, "state_dict"),
        ({"module.a": X, "network.b": X}, None, {"module.a", "network.b"}, ""),
        # The only entry that holds tensors alone.
        ({"model": {"a": X}, "optimizer": {"state": {0: {"exp_avg": X}}}}, None, {"a"}, "model"),
        # Behind several wrappers.
        (
            {"checkpoint": {"model": {"state_dict": {"a": X}}}},
            None,
            {"a"},
            "checkpoint.model.state_dict",
        ),
        ({"nets": {"g": {"a": X}, "d": {"b": X}}}, "nets.d", {"b"}, "nets.d"),
        ({"net": {"sd": {"a": X}}, "optimizer": {"state": {"a": {"m": X}}}}, None, {"a"}, "net.sd"),
        # Only whole parts of names at the beginning are wrappers.
        ({"nafnet.a": X, "a.module.b": X}, None, {"nafnet.a", "a.module.b"}, ""),
    ],
)
def test_the_state_dict_is_found(content, key, names, entry):
    state, found = state_dict_of(content, key)
    assert set(state) == names and found == entry


@pytest.mark.parametrize("prefix", ["netG", "netG.", "module.netG.", "module.netG"])
def test_a_prefix_selects_a_part(prefix):
    state = {"module.netG.module.a": X, "module.netG.module.b": X, "module.netD.a": X}
    assert set(state_dict_of(state, prefix=prefix)[0]) == {"a", "b"}
    with pytest.raises(ValueError, match=r"--prefix net: no name .*start with netG\."):
        state_dict_of({"netG.a": X}, prefix="net")


@pytest.mark.parametrize(
    "prefix", ["model.", "netG.", "generator.", "network.", "backbone.", "nafnet.", "a.b."]
)
@pytest.mark.parametrize("case", ["nafnet_small", "promptir_tiny", "swinir_small"])
def test_a_common_prefix_is_stripped_and_reported(case, prefix):
    recorded = read_json(f"models/{case}/config.json")
    plain = recognise(without_memory(recorded["params"]))
    wrapped = {prefix + name: value for name, value in plain.state.items()}
    found = recognise(state_dict_of({"state_dict": wrapped, "epoch": 3})[0])
    assert found.arguments == plain.arguments and found.state.keys() == plain.state.keys()
    assert found.remarks[0] == f"stripped the prefix {prefix} that all names have"
    counters = {
        "global_step": np.int64([3]),
        "ema.initted": np.array(True),
        "ema.decay": np.array(0.9, np.float32),
    }
    counted = recognise({**wrapped, **counters})
    assert counted.state.keys() == plain.state.keys()
    assert f"left out, because they are counters: {', '.join(counters)}" in counted.remarks
    for others in ({"loss.vgg.0.weight": X}, {"netD" + name: X for name in wrapped}):
        with pytest.raises(ValueError, match=f"choose one with --prefix .*{prefix}"):
            recognise({**wrapped, **others})


@pytest.mark.parametrize(
    ("content", "key", "message"),
    [
        ([1, 2], None, "found list"),
        ({}, None, "it is empty"),
        ({"params": {"a": X}, "epoch": 3}, "ema", "no entry 'ema'; entries: params"),
        ({"a": X}, "params", "no entry 'params'; entries: none"),
        ({"ema": {"a": X}, "net": {"a": X}}, None, "not tensors: ema, net; --params .*: ema, net"),
        ({"nets": {"g": {"a": X}, "d": {"b": X}}}, None, "not tensors: nets; .*: nets.g, nets.d"),
        ({"optimizer": {"state": {}}, "epoch": 3}, None, "holds the state of an optimizer"),
        ({"params": {"a": X, "b": 3}}, None, "not tensors: b$"),
    ],
)
def test_files_without_a_state_dict_are_refused(content, key, message):
    with pytest.raises(ValueError, match=message):
        state_dict_of(content, key)


def test_empty_tensors_are_named():
    empty = np.zeros(0, np.float32)
    with pytest.raises(ValueError, match="empty tensors: a, b; DeepSpeed"):
        recognise({"a": empty, "b": empty})
    with pytest.raises(ValueError, match=r"empty tensors: a$"):
        recognise({"a": empty, "b": X})
