"""The figures of the published runs (DCPT, appendix; its released training options)."""

from typing import Any

# The paper's networks (DCPT, appendix; MaskDCPT, table of architectures).
_LEVELS: dict[str, Any] = {
    "dim": 48,
    "num_blocks": (4, 6, 6, 8),
    "num_refinement_blocks": 4,
    "heads": (1, 2, 4, 8),
    "ffn_expansion": 2.66,
    "bias": False,
}
BACKBONES: dict[str, dict[str, Any]] = {
    "nafnet": {
        "width": 64,
        "encoder_blocks": (1, 1, 1, 28),
        "middle_blocks": 1,
        "decoder_blocks": (1, 1, 1, 1),
    },
    "restormer": {**_LEVELS, "norm": "bias_free", "attention": "relu"},
    "promptir": {
        **_LEVELS,
        "norm": "with_bias",
        "prompt_dims": (64, 128, 320),
        "prompt_sizes": (64, 32, 16),
        "prompt_len": 5,
    },
    "swinir": {
        "embed_dim": 180,
        "depths": (6, 6, 6, 6, 6, 6),
        "num_heads": (6, 6, 6, 6, 6, 6),
        "window_size": 8,
        "mlp_ratio": 2.0,
        "qkv_bias": True,
        "patch_norm": True,
        "resi_connection": "1conv",
    },
}

# The transfer experiments start from Restormers of the original publication.
ORIGINAL_RESTORMER = {"norm": "with_bias", "attention": "softmax"}

# Small enough to learn something in minutes on two CPU cores.
DEMO_BACKBONE = {
    "width": 16,
    "encoder_blocks": (1, 1, 2),
    "middle_blocks": 1,
    "decoder_blocks": (1, 1, 1),
}

# Global batch, and the learning rates of network and classifier.
_SMALLER_BATCH = {"batch_size": 16, "learning_rate": 2e-4, "classifier_learning_rate": 5e-5}
PRETRAINING: dict[str, dict[str, Any]] = {
    "nafnet": {"batch_size": 32, "learning_rate": 3e-4, "classifier_learning_rate": 1e-4},
    "restormer": _SMALLER_BATCH,
    "promptir": _SMALLER_BATCH,
    "swinir": _SMALLER_BATCH,
}

# Global batch, learning rate, and bound on the gradient norm (0 = none).
_CLIPPED = {"batch_size": 24, "learning_rate": 3e-4, "clip_norm": 0.01}
RESTORATION: dict[str, dict[str, Any]] = {
    "nafnet": _CLIPPED,
    "restormer": _CLIPPED,
    "promptir": _CLIPPED,
    "swinir": {"batch_size": 16, "learning_rate": 1.5e-4, "clip_norm": 0.0},
}
