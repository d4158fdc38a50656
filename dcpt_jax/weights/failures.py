"""One-line reasons for errors of the storage libraries, whose texts are long and of many kinds."""

import json
import os
import re

# TensorStore's errors for truncated, changed or missing files; their texts have many lines.
_DAMAGE = re.compile(
    r"(?:ValueError: )?(DATA_LOSS|OUT_OF_RANGE|NOT_FOUND|FAILED_PRECONDITION|INVALID_ARGUMENT): "
    r'Error (?:opening "zarr" driver: .*? |reading )"([^"]*?)(?:/\.zarray|/[\d.]+)?" in OCDBT'
)


def reason_of(error: BaseException) -> str:
    """The reason of an error, in one line of about 300 characters at most.

    For an error of the operating system it is the system's message, with the file name.
    """
    # Orbax wraps other errors in messages that name only the location; messages of this package
    # quote the error.
    while (cause := error.__cause__) is not None and not (str(cause) and str(cause) in str(error)):
        error = cause
    if isinstance(error, OSError) and error.errno:
        file = "" if error.filename is None else f": {error.filename}"
        return f"{os.strerror(error.errno)}{file}"
    if isinstance(error, KeyError | json.JSONDecodeError):
        lacks = f"lacks {error}" if isinstance(error, KeyError) else f"is not JSON ({error})"
        return f"one of its files {lacks}"
    text = " ".join(str(error).split()) or type(error).__name__
    if code := re.search(r"os_error_code='(\d+)'", text):
        return os.strerror(int(code[1]))
    if damage := _DAMAGE.match(text):
        return f"one of its files is damaged or missing ({damage[1]} at {damage[2]})"
    return text if len(text) <= 300 else f"{text[:150]} ... {text[-150:]}"
