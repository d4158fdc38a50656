"""Table of the modes of a run: the training stages and the evaluation.

Everything that depends on the mode is read from its row here; no other module compares names of
modes. This module imports nothing from the package, so that configs and data can use it.
"""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Mode:
    """Properties of a mode.

    Attributes:
        name: value of `config.mode`.
        stage: stage whose published training data are used.
        learns: parts of the state that are trained; other parts are frozen. () = no training.
        loss_keys: keys of the config that set keyword arguments of its step's builder,
            `make_NAME_step` in `dcpt_jax.train.steps`.
        restores: whether it trains with degraded images as input and clean ones as target, so that
            PSNR and SSIM are measured (as also with `first_pass = "degraded"`).
        needs_network: whether it needs a trained network to start from.
    """

    name: str
    stage: Literal["pretrain", "restore"]
    learns: tuple[str, ...] = ()
    loss_keys: tuple[str, ...] = ()
    restores: bool = False
    needs_network: bool = False

    @property
    def trains(self) -> bool:
        """Whether this is a training stage, not an evaluation."""
        return bool(self.learns)

    @property
    def split(self) -> Literal["train", "held_out"]:
        """The split of the data that it uses, "train" or "held_out"."""
        return "train" if self.trains else "held_out"

    @property
    def classifies(self) -> bool:
        """Whether it trains a classifier; accuracy is then measured."""
        return "classifier" in self.learns

    @property
    def pretrains(self) -> bool:
        """Whether the network learns features, not yet restoration."""
        return "network" in self.learns and not self.restores

    @property
    def is_guided(self) -> bool:
        """Whether a frozen classifier can guide the network (`config.guidance`)."""
        return "guidance" in self.loss_keys

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that it uses, in the order of the step's builder."""
        classifier = ("classifier",) if self.classifies or self.is_guided else ()
        return ("network", *classifier, *(("reconstruction",) if self.masks else ()))

    @property
    def masks(self) -> bool:
        """Whether patches of the image are hidden and reconstructed by a decoder."""
        return "reconstruction" in self.learns


_JOINT_LOSS = ("pixel_weight", "class_weight", "focal_gamma")

MODES: dict[str, Mode] = {
    mode.name: mode
    for mode in (
        Mode(
            "pretrain",
            stage="pretrain",
            learns=("network", "classifier"),
            loss_keys=(*_JOINT_LOSS, "first_pass"),
        ),
        Mode(
            "mask_pretrain",
            stage="restore",  # MaskDCPT pre-trains on the fine-tuning data
            learns=("network", "classifier", "reconstruction"),
            loss_keys=(*_JOINT_LOSS, "mask_ratio", "mask_patch"),
        ),
        Mode(
            "restore",
            stage="restore",
            learns=("network",),
            loss_keys=("fft_weight", "loss_terms"),
            restores=True,
        ),
        Mode(
            "transfer",
            stage="restore",
            learns=("network",),
            loss_keys=("fft_weight", "loss_terms", "guidance", "focal_gamma"),
            restores=True,
            needs_network=True,
        ),
        Mode(
            "classify",
            stage="pretrain",
            learns=("classifier",),
            loss_keys=("focal_gamma",),
            needs_network=True,
        ),
        Mode("evaluate", stage="restore", restores=True, needs_network=True),
    )
}
