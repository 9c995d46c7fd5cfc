"""Where the arguments of an action are from: the user's own words, a tool's output with its labels, or the model."""

from holdfast_verdict.provenance.origin import Origin, OriginInvalid, join
from holdfast_verdict.provenance.sources import Sources

__all__ = ["Origin", "OriginInvalid", "Sources", "join"]
