"""Measuring a run while it trains, best on photos that it is not trained on; pictures of it."""

import itertools
import logging
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dcpt_jax import weights
from dcpt_jax.data import held_out
from dcpt_jax.evaluate import gallery, scores
from dcpt_jax.images import ImageError
from dcpt_jax.models import masking
from dcpt_jax.models.formulation import traced_for
from dcpt_jax.precision import matmul_precision
from dcpt_jax.train import processes, sharding
from dcpt_jax.train.run import Run
from dcpt_jax.train.state import TrainState

_logger = logging.getLogger(__name__)
_SHOWN_SIDE = 160  # pixels to which crops are enlarged in pictures, at most

# Sample, image that comes of it, logits; empty what was not asked for.
Result = tuple[held_out.Sample, np.ndarray, np.ndarray]


class Validation:
    """The held-out crops of a run, and what its network and classifier make of them.

    Crops have the size of those of training and are the same at every call: one from the middle of
    each photo or pair, or several from a regular grid. Batches are
    split over devices and processes like those of training.
    """

    def __init__(self, run: Run):
        """Opens the data.

        Args:
            run: what is trained.

        Raises:
            SourceError: if a source that the config names cannot be opened.
            FileNotFoundError: if there are no photos.
            ImageError: for a bad file where the config refuses them, or if all are bad.
        """
        self._run = run
        self._classes = run.held_out.open()
        for one in self._classes if run.intervals.validation else ():
            if any(one is trained for trained in run.training_classes):
                _logger.warning(
                    "%s is validated on the pairs that it is trained on; name others with "
                    "--config.validation.sources.%s",
                    *(one.name, one.name),
                )
        self._metrics = run.held_out.metrics
        self._truth = run.labels.rows(run.tasks)
        # One program for measures and pictures where the measures need the images, too.
        self._needs_images = bool(set(scores.IMAGE_METRICS) & set(self._metrics))
        self._forward = jax.jit(
            traced_for(run.platform)(matmul_precision(run.matmul_precision)(self._apply)),
            static_argnames="images",
            out_shardings=sharding.split(run.mesh),
        )

    def measure(self, state: TrainState) -> dict[str, float]:
        """Measures the moving average of a state, where it has one, else its parameters.

        Args:
            state: of the run.

        Returns:
            Means over classes, and under "<metric>_<class>" those of each class: `psnr` (dB) and
            `ssim` of 8-bit RGB images if the run restores, `accuracy` if it classifies (with
            multi-hot labels: the share of samples with all components right).

        Raises:
            ImageError: in all processes, if none of them can read anything of a class; for a bad
                file where the config refuses them.
        """
        names = [one.name for one in self._classes]
        sums = np.zeros((len(names), len(self._metrics) + 1))
        mine = self._samples(part=(jax.process_index(), jax.process_count()))
        for sample, restored, logits in self._results(state, mine):
            sums[sample.task] += (*self._scores(sample, restored, logits), 1)
        sums = processes.total(sums)
        unread = [name for name, count in zip(names, sums[:, -1], strict=True) if not count]
        if unread:
            raise ImageError(
                f"none of the photos of {', '.join(unread)} that were tried can be read; name "
                f"others with --config.validation.sources.{unread[0]}"
            )
        means = sums[:, :-1] / sums[:, -1:]
        found = dict(zip(self._metrics, means.mean(axis=0).tolist(), strict=True))
        for metric, column in zip(self._metrics, means.T.tolist(), strict=True):
            found |= {f"{metric}_{n}": mean for n, mean in zip(names, column, strict=True)}
        return found

    def sheet(self, state: TrainState) -> np.ndarray | None:
        """Degraded, restored and clean crop of a sample of every class, labelled: uint8 [h, w, 3].

        A masked pre-training shows what the network sees and what the head makes of that. Small
        crops are enlarged by a whole factor.

        Args:
            state: of the run.

        Returns:
            The picture; None in processes other than the main one, which have to call this too.
        """
        labels = range(len(self._classes)) if processes.is_main() else ()
        firsts = (next(self._samples([label])) for label in labels)
        rows = []
        for sample, image, _ in self._results(state, firsts, images=True):
            # The image of a masked run is half what is seen, half what comes of it, see `_masked`.
            seen = [sample.degraded, image]
            if self._run.reconstruction is not None:
                seen = np.split(image, 2, axis=1)
            rows.append([*seen, sample.clean])
        if not rows:
            return None
        headings = ["degraded", "restored", "clean"]
        if self._run.reconstruction is not None:
            headings = ["visible", "reconstructed", "clean"]
        factor = max(1, _SHOWN_SIDE // self._run.crop_size)
        rows = [[np.kron(image, np.ones((factor, factor, 1))) for image in row] for row in rows]
        captions = [[one.name, "", ""] for one in self._classes]
        return gallery.sheet(rows, headings=headings, captions=captions)

    def _samples(
        self, labels: Sequence[int] | None = None, part: tuple[int, int] = (0, 1)
    ) -> Iterator[held_out.Sample]:
        for label in range(len(self._classes)) if labels is None else labels:
            yield from held_out.samples_of(
                label,
                self._classes[label],
                size=self._run.crop_size,
                per_photo=self._run.held_out.crops_per_photo,
                most_photos=self._run.held_out.photos_per_class,
                part=part,
            )

    def _results(
        self, state: TrainState, samples: Iterator[held_out.Sample], *, images: bool = False
    ) -> Iterator[Result]:
        """What comes of the samples of this process; images if wanted or measured.

        The processes need not have equally many: they work until none has any left.
        """
        images = images or self._needs_images
        params, size = state.best_params(), self._run.crop_size
        share = self._run.batch_size // jax.process_count()
        while True:
            batch = list(itertools.islice(samples, share))
            if not processes.total(np.array(len(batch))):
                return
            degraded = np.zeros((share, size, size, 3), np.float32)  # so that one program is enough
            for i, sample in enumerate(batch):
                degraded[i] = sample.degraded
            batch_on_devices = sharding.put_batch({"degraded": degraded}, self._run.mesh)
            results = self._forward(params, batch_on_devices["degraded"], images=images)
            yield from zip(batch, *map(processes.local_rows, results), strict=False)

    def _apply(
        self, params: weights.Params, degraded: jax.Array, *, images: bool
    ) -> tuple[jax.Array, jax.Array]:
        """(images, logits); without images, the part of the network behind the features rests."""
        run = self._run
        # However the devices hold them, the images alone are shared out here.
        params = jax.lax.with_sharding_constraint(params, sharding.replicated(run.mesh))
        network = {"params": params["network"]}
        found = logits = degraded[:, 0, 0, :0]
        if images and run.reconstruction is not None:
            return self._masked(params, degraded), logits
        if images:
            found, features = run.network.apply(network, degraded, method="restored_and_features")
        else:
            features = run.network.apply(network, degraded, method="features")
        if "accuracy" in self._metrics and images == self._needs_images:
            logits = run.classifier.apply({"params": params["classifier"]}, features)
        return found, logits

    def _masked(self, params: weights.Params, degraded: jax.Array) -> jax.Array:
        """Beside each other what a masked network sees, and the reconstruction: [b, h, 2w, 3]."""
        run = self._run
        visible = masking.random_mask(
            jax.random.PRNGKey(run.seed),
            degraded.shape[:3],
            ratio=run.mask.ratio,
            patch=run.mask.patch,
            dtype=degraded.dtype,
        )
        network, head = ({"params": params[part]} for part in ("network", "reconstruction"))
        features = run.network.apply(network, degraded, visible, method="features")
        painted = run.reconstruction.apply(head, features, visible)
        return jnp.concatenate([masking.hide(degraded, visible), painted], axis=2)

    def _scores(
        self, sample: held_out.Sample, restored: np.ndarray, logits: np.ndarray
    ) -> Iterator[float]:
        for metric in self._metrics:
            if metric == "accuracy":
                answer = self._run.labels.answers(logits)
                yield scores.of_answer(answer, self._truth[sample.task])
            else:
                yield from scores.of_image(restored, sample.clean, [metric])
