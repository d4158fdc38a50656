"""Image files: reading, writing, and what they hold besides pixels.

`codec` reads and writes RGB pixels; its public names are those of this package. `photo_files` also
keeps colour profile, alpha and metadata; `listing` finds the images in a folder.
"""

from dcpt_jax.images.codec import (
    COLOURS,
    MAX_PIXELS,
    SUFFIXES_OF_16_BITS,
    WRITABLE_SUFFIXES,
    ImageError,
    check_image,
    checked_image,
    decode_pixels,
    read_image,
    read_pixels,
    to_float,
    to_uint8,
    write_image,
)

__all__ = [
    "COLOURS",
    "MAX_PIXELS",
    "SUFFIXES_OF_16_BITS",
    "WRITABLE_SUFFIXES",
    "ImageError",
    "check_image",
    "checked_image",
    "decode_pixels",
    "read_image",
    "read_pixels",
    "to_float",
    "to_uint8",
    "write_image",
]
