"""Validation during training: metrics and example pictures on held-out crops."""

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
_SHOWN_SIDE = 160  # largest side of the enlarged crops in pictures, in pixels

# Sample, restored image, logits; the arrays are empty if not requested.
Result = tuple[held_out.Sample, np.ndarray, np.ndarray]


class Validation:
    """Evaluates the network and classifier of a run on its held-out crops.

    Crops have the size of the training crops and are the same at every call: one from the centre of
    each photo or pair, or several from a regular grid. Batches are split over devices and processes
    as in training.
    """

    def __init__(self, run: Run):
        """Opens the data.

        Args:
            run: the training run.

        Raises:
            SourceError: if a source in the config cannot be opened.
            FileNotFoundError: if there are no photos.
            ImageError: if all files are bad, or for the first bad one if the config refuses them.
        """
        self._run = run
        self._classes = run.held_out.open()
        for c in self._classes if run.intervals.validation else ():
            if any(c is trained for trained in run.training_classes):
                _logger.warning(
                    "%s is validated on its training pairs; select other data with "
                    "--config.validation.sources.%s",
                    *(c.name, c.name),
                )
        self._metrics = run.held_out.metrics
        self._truth = run.labels.rows(run.tasks)
        # If the metrics need images, one compiled program serves both metrics and pictures.
        self._needs_images = bool(set(scores.IMAGE_METRICS) & set(self._metrics))
        self._forward = jax.jit(
            traced_for(run.platform)(matmul_precision(run.matmul_precision)(self._apply)),
            static_argnames="images",
            out_shardings=sharding.split(run.mesh),
        )

    def measure(self, state: TrainState) -> dict[str, float]:
        """Measures the moving average of the parameters, or the parameters without one.

        Args:
            state: of the run.

        Returns:
            Means over classes, and as "<metric>_<class>" those of each class: `psnr` (dB) and
            `ssim` of 8-bit RGB images if the run restores; `accuracy` if it classifies (with
            multi-hot labels, the share of samples with all components right).

        Raises:
            ImageError: in all processes, if nothing of a class can be read; or for the first bad
                file if the config refuses them.
        """
        names = [c.name for c in self._classes]
        sums = np.zeros((len(names), len(self._metrics) + 1))
        samples = self._samples(part=(jax.process_index(), jax.process_count()))
        for sample, restored, logits in self._results(state, samples):
            sums[sample.task] += (*self._scores(sample, restored, logits), 1)
        sums = processes.total(sums)
        unread = [name for name, count in zip(names, sums[:, -1], strict=True) if not count]
        if unread:
            raise ImageError(
                f"none of the photos tried for {', '.join(unread)} can be read; select other "
                f"data with --config.validation.sources.{unread[0]}"
            )
        means = sums[:, :-1] / sums[:, -1:]
        results = dict(zip(self._metrics, means.mean(axis=0).tolist(), strict=True))
        for metric, column in zip(self._metrics, means.T.tolist(), strict=True):
            results |= {f"{metric}_{n}": mean for n, mean in zip(names, column, strict=True)}
        return results

    def sheet(self, state: TrainState) -> np.ndarray | None:
        """A labelled picture, uint8 [h, w, 3]: degraded, restored and clean crop of each class.

        Masked pre-training shows the visible part and its reconstruction instead. Small crops are
        enlarged by an integer factor.

        Args:
            state: of the run.

        Returns:
            The picture in the main process, None in the others, which must call this too.
        """
        labels = range(len(self._classes)) if processes.is_main() else ()
        firsts = (next(self._samples([label])) for label in labels)
        rows = []
        for sample, image, _ in self._results(state, firsts, images=True):
            # In masked pre-training, `_masked` returns both pictures side by side.
            pictures = [sample.degraded, image]
            if self._run.reconstruction is not None:
                pictures = np.split(image, 2, axis=1)
            rows.append([*pictures, sample.clean])
        if not rows:
            return None
        headings = ["degraded", "restored", "clean"]
        if self._run.reconstruction is not None:
            headings = ["visible", "reconstructed", "clean"]
        factor = max(1, _SHOWN_SIDE // self._run.crop_size)
        rows = [[np.kron(image, np.ones((factor, factor, 1))) for image in row] for row in rows]
        captions = [[c.name, "", ""] for c in self._classes]
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
        """Results for the samples of this process; with images if requested or measured.

        Processes may have different numbers of samples: all continue until none has any left.
        """
        images = images or self._needs_images
        params, size = state.averaged_params(), self._run.crop_size
        share = self._run.batch_size // jax.process_count()
        while True:
            batch = list(itertools.islice(samples, share))
            if not processes.total(np.array(len(batch))):
                return
            degraded = np.zeros(
                (share, size, size, 3), np.float32
            )  # padded, so that one compiled program is enough
            for i, sample in enumerate(batch):
                degraded[i] = sample.degraded
            batch_on_devices = sharding.put_batch({"degraded": degraded}, self._run.mesh)
            results = self._forward(params, batch_on_devices["degraded"], images=images)
            yield from zip(batch, *map(processes.local_rows, results), strict=False)

    def _apply(
        self, params: weights.Params, degraded: jax.Array, *, images: bool
    ) -> tuple[jax.Array, jax.Array]:
        """(images, logits); without `images`, only the features are computed."""
        run = self._run
        # The parameters are gathered: only the batch is split here, however the state is held.
        params = jax.lax.with_sharding_constraint(params, sharding.replicated(run.mesh))
        network = {"params": params["network"]}
        restored = logits = degraded[:, 0, 0, :0]
        if images and run.reconstruction is not None:
            return self._masked(params, degraded), logits
        if images:
            restored, features = run.network.apply(
                network, degraded, method="restored_and_features"
            )
        else:
            features = run.network.apply(network, degraded, method="features")
        if "accuracy" in self._metrics and images == self._needs_images:
            logits = run.classifier.apply({"params": params["classifier"]}, features)
        return restored, logits

    def _masked(self, params: weights.Params, degraded: jax.Array) -> jax.Array:
        """Visible part and reconstruction of masked images, side by side: [b, h, 2w, 3]."""
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
                prediction = self._run.labels.predictions(logits)
                yield float((prediction == self._truth[sample.task]).all())
            else:
                yield from scores.of_image(restored, sample.clean, [metric])
