"""What went wrong, in a line: the storage libraries raise many kinds of errors, with long texts."""

import json
import os
import re

# TensorStore, of a file that is cut off, changed or not there; its texts go on for lines.
_DAMAGE = re.compile(
    r"(?:ValueError: )?(DATA_LOSS|OUT_OF_RANGE|NOT_FOUND|FAILED_PRECONDITION|INVALID_ARGUMENT): "
    r'Error (?:opening "zarr" driver: .*? |reading )"([^"]*?)(?:/\.zarray|/[\d.]+)?" in OCDBT'
)


def reason_of(error: BaseException) -> str:
    """What went wrong, in a line of at most some 300 characters.

    Where the system refused something it is the system's word, with the file it is about.
    """
    # What Orbax says of another error is no more than the place; ours quote it.
    while (cause := error.__cause__) is not None and not (str(cause) and str(cause) in str(error)):
        error = cause
    if isinstance(error, OSError) and error.errno:
        file = "" if error.filename is None else f": {error.filename}"
        return f"{os.strerror(error.errno)}{file}"
    if isinstance(error, KeyError | json.JSONDecodeError):
        lacks = f"lacks {error}" if isinstance(error, KeyError) else f"is not JSON ({error})"
        return f"a file of it {lacks}"
    text = " ".join(str(error).split()) or type(error).__name__
    if damage := _DAMAGE.match(text):
        return f"a file of it is damaged or missing ({damage[1]} at {damage[2]})"
    if code := re.search(r"os_error_code='(\d+)'", text):
        return os.strerror(int(code[1]))
    return text if len(text) <= 300 else f"{text[:150]} ... {text[-150:]}"
