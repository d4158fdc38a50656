"""XMP of a restored photo: upright, without thumbnails and without what refers to data left out.

Motion photos, gain maps and depth maps are files after the picture, which are left out: a viewer
that trusts their properties would look for them.
"""

import re

_THUMBNAILS = re.compile(rb"<(xmp|xap):Thumbnails\b.*?</\1:Thumbnails\s*>", re.DOTALL)
_BINDING = re.compile(rb"xmlns:([\w.-]+)\s*=\s*[\"']([^\"']*)[\"']")
_GOOGLE = b"http://ns.google.com/photos/"
# Namespaces of which no property is kept.
_OF_PARTS = (
    *(_GOOGLE + name for name in (b"1.0/container/", b"1.0/depthmap/", b"1.0/image/")),
    *(_GOOGLE + name for name in (b"1.0/audio/", b"dd/1.0/")),
    b"http://ns.adobe.com/hdr-gain-map/",
    b"http://ns.apple.com/HDRGainMap/",
    b"http://ns.apple.com/pixeldatainfo/",
)
# Namespaces with such properties among others.
_CAMERAS = (
    *(b"http://ns.google.com/photos/1.0/camera/", b"http://ns.xiaomi.com/photos/1.0/camera/"),
    *(b"http://ns.oplus.com/photos/1.0/camera/", b"http://ns.adobe.com/xmp/note/"),
)
_PARTS = rb"(?:MotionPhoto|MicroVideo|OLivePhoto|VideoLength|XMPMeta|HasExtendedXMP)[\w.-]*"


def cleaned_xmp(xmp: bytes | str, *, turned: bool) -> bytes | None:
    """The XMP for the result of a photo; None if what has to be removed cannot be found.

    Args:
        xmp: XML text.
        turned: whether the pixels have been turned upright, for which EXIF counts.
    """
    xmp = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
    xmp = _THUMBNAILS.sub(b"", xmp.rstrip(b"\0"))
    if turned:
        xmp = re.sub(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)[2-8]", rb"\g<1>1", xmp)
    for prefix, namespace in set(_BINDING.findall(xmp)):
        if namespace.startswith(_OF_PARTS):
            name = rb"[\w.-]+"
        elif namespace in _CAMERAS:
            name = _PARTS
        else:
            continue
        name = b"(" + re.escape(prefix) + b":" + name + b")"
        element = b"<" + name + rb"(?:\s[^<>]*)?(?:/>|>.*?</\1\s*>)"
        xmp = re.sub(element, b"", xmp, flags=re.DOTALL)
        xmp = re.sub(rb"\s" + name + rb"\s*=\s*(?:\"[^\"]*\"|'[^']*')", b"", xmp)
        if re.search(rb"[<\s/]" + name, xmp):
            return None
    return xmp
