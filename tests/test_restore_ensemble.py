import numpy as np

from dcpt_jax.restore.ensemble import self_ensemble


def test_a_function_of_single_pixels_is_unchanged():
    image = np.random.default_rng(0).random((5, 8, 3))
    np.testing.assert_allclose(self_ensemble(np.square, image), image**2, rtol=1e-12)


def test_the_function_sees_all_eight_orientations_once():
    image = np.random.default_rng(0).random((4, 6, 3))
    seen = []

    def predict(turned):
        seen.append(turned.copy())
        return turned

    self_ensemble(predict, image)
    flips = [image, image[:, ::-1], image[::-1], image[::-1, ::-1]]
    expected = {view.tobytes() for flip in flips for view in (flip, flip.swapaxes(0, 1))}
    assert {view.tobytes() for view in seen} == expected
    assert len(expected) == 8


def test_a_directed_function_is_averaged_over_its_directions():
    def shift_right(image):
        return np.pad(image, ((0, 0), (1, 0), (0, 0)))[:, :-1]

    image = np.zeros((5, 5, 1))
    image[2, 2] = 1
    expected = np.zeros((5, 5, 1))
    expected[[1, 3, 2, 2], [2, 2, 1, 3]] = 1 / 4
    np.testing.assert_allclose(self_ensemble(shift_right, image), expected)


def test_neither_the_image_nor_the_outputs_are_changed():
    image = np.random.default_rng(0).random((3, 3, 3))
    before = image.copy()

    def predict(turned):
        turned.setflags(write=False)  # as views of device memory are
        return turned

    self_ensemble(predict, image)
    assert (image == before).all()
