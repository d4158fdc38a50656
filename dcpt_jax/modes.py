"""The table of modes: what each stage of training and the evaluation do.

Everything that depends on the mode of a run reads its row here; no other module knows a mode by
name. This module imports nothing of the package, so that configs and data can use it.
"""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Mode:
    """What a run does.

    Attributes:
        name: value of `config.mode`.
        stage: whose published training data it uses.
        learns: parts of the state that are trained; other parts are frozen. () = no training.
        step: builder of its training step in `dcpt_jax.train.steps`.
        modules: what the builder takes before the optimizers, in order.
        loss_keys: keys of the config that the builder takes as keyword arguments.
        restores: whether it trains on degraded images as the network's input and clean ones as its
            target, so that PSNR and SSIM are measured. (`first_pass = "degraded"` does, too.)
        needs_network: whether it needs a trained network to start from.
    """

    name: str
    stage: Literal["pretrain", "restore"]
    learns: tuple[str, ...] = ()
    step: str = ""
    modules: tuple[str, ...] = ("network",)
    loss_keys: tuple[str, ...] = ()
    restores: bool = False
    needs_network: bool = False

    @property
    def trains(self) -> bool:
        """Whether this is training, and not evaluation."""
        return bool(self.learns)

    @property
    def split(self) -> Literal["train", "held_out"]:
        """The part of the data that it reads, "train" or "held_out"."""
        return "train" if self.trains else "held_out"

    @property
    def classifies(self) -> bool:
        """Whether it trains a classifier; accuracy is then measured."""
        return "classifier" in self.learns

    @property
    def pretrains(self) -> bool:
        """Whether the network learns features, and not yet to restore."""
        return "network" in self.learns and not self.restores

    @property
    def is_guided(self) -> bool:
        """Whether a frozen classifier can guide the network (`config.guidance`)."""
        return "guidance" in self.loss_keys

    @property
    def masks(self) -> bool:
        """Whether patches of the image are hidden, and a head reconstructs them."""
        return "reconstruction" in self.learns


_JOINT_LOSS = ("pixel_weight", "class_weight", "focal_gamma")

MODES: dict[str, Mode] = {
    mode.name: mode
    for mode in (
        Mode(
            "pretrain",
            stage="pretrain",
            learns=("network", "classifier"),
            step="make_pretrain_step",
            modules=("network", "classifier"),
            loss_keys=(*_JOINT_LOSS, "first_pass"),
        ),
        Mode(
            "mask_pretrain",
            stage="restore",  # MaskDCPT pre-trains on the data of the fine-tuning
            learns=("network", "classifier", "reconstruction"),
            step="make_mask_pretrain_step",
            modules=("network", "classifier", "reconstruction"),
            loss_keys=(*_JOINT_LOSS, "mask_ratio", "mask_patch"),
        ),
        Mode(
            "restore",
            stage="restore",
            learns=("network",),
            step="make_restore_step",
            loss_keys=("fft_weight", "loss_terms"),
            restores=True,
        ),
        Mode(
            "transfer",
            stage="restore",
            learns=("network",),
            step="make_transfer_step",
            modules=("network", "classifier"),
            loss_keys=("fft_weight", "loss_terms", "guidance", "focal_gamma"),
            restores=True,
            needs_network=True,
        ),
        Mode(
            "classify",
            stage="pretrain",
            learns=("classifier",),
            step="make_classify_step",
            modules=("network", "classifier"),
            loss_keys=("focal_gamma",),
            needs_network=True,
        ),
        Mode("evaluate", stage="restore", restores=True, needs_network=True),
    )
}
