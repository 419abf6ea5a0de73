"""What the export refuses beside what `segkit.errors` already names."""

from __future__ import annotations

from segkit.errors import SegkitError


class ExportFailed(SegkitError):
    """A network that cannot be turned into ONNX, or ONNX that cannot be turned into an engine; nothing was written."""


class NothingToQuantise(ExportFailed):
    """A network without a convolution that int8 could be for, or all of whose convolutions are to stay in fp32."""
