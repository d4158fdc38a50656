import ast
from pathlib import Path

import dcpt_jax
from dcpt_jax import config as configs
from dcpt_jax.modes import MODES
from dcpt_jax.train import steps

PACKAGE = Path(dcpt_jax.__file__).parent


def test_every_mode_has_keys_and_a_step():
    for name, mode in MODES.items():
        config = configs.base(name)
        assert set(mode.loss_keys) <= set(config)
        assert mode.trains == ("num_steps" in config)
        assert not mode.trains or callable(getattr(steps, f"make_{name}_step"))


def test_pretraining_and_fine_tuning_use_their_own_published_data():
    """MaskDCPT pre-trains on the data of the fine-tuning."""
    stages = {name: mode.stage for name, mode in MODES.items() if mode.trains}
    assert {name for name, stage in stages.items() if stage == "pretrain"} == {
        *("pretrain", "classify"),
    }
    assert MODES["evaluate"].split == "held_out" and MODES["mask_pretrain"].split == "train"


def test_no_other_module_compares_with_the_name_of_a_mode():
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Compare) or path == PACKAGE / "modes.py":
                continue
            names = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)}
            reads = any(
                (isinstance(part, ast.Name) and part.id == "mode")
                or (isinstance(part, ast.Attribute) and part.attr == "mode")
                for part in ast.walk(node)
            )
            if reads and names & set(MODES):
                found.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert not found
