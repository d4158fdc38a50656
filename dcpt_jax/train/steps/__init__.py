"""One optimisation step of each training mode, as a function of state and batch.

A step builder takes what is static (modules, optimisers, constants) and returns a pure function
`(state, batch) -> (state, metrics)`; the loop jits it with shardings and donates the state. A batch
is `degraded` and `clean`, float [b, h, w, 3], and `task`, int [b].

All builders take `optimizers` by trained part (other parts of the state are frozen, and get no
gradient), and the keyword arguments of `update.make_step`. Builders with a classifier take
`label_rows`: None if it has a logit per class (softmax); the multi-hot labels, 0/1 [classes,
components], if it has a logit per component of the mixtures (sigmoid).
"""

from dcpt_jax.train.steps.classify import make_classify_step
from dcpt_jax.train.steps.mask_pretrain import make_mask_pretrain_step
from dcpt_jax.train.steps.pretrain import make_pretrain_step
from dcpt_jax.train.steps.restore import make_restore_step
from dcpt_jax.train.steps.transfer import make_transfer_step

__all__ = [
    "make_classify_step",
    "make_mask_pretrain_step",
    "make_pretrain_step",
    "make_restore_step",
    "make_transfer_step",
]
