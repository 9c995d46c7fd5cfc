"""Under which licence each installed package comes, as an SPDX expression, read from what the package says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata
from types import MappingProxyType
from typing import Final

_SPELLINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "2-Clause BSD License": "BSD-2-Clause",
        "3-Clause BSD License": "BSD-3-Clause",
        "Apache 2.0": "Apache-2.0",
        "Apache License 2.0": "Apache-2.0",
        "Apache License, Version 2.0": "Apache-2.0",
        "Apache Software License": "Apache-2.0",
        "BSD 2-Clause License": "BSD-2-Clause",
        "BSD 3-Clause License": "BSD-3-Clause",
        "ISC License": "ISC",
        "ISC License (ISCL)": "ISC",
        "MIT License": "MIT",
        "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
        "PSFL": "PSF-2.0",
        "Python Software Foundation License": "PSF-2.0",
    }
)
"""Words in which packages name a licence that SPDX has an identifier for."""
_NAMED: Final[Mapping[str, str]] = MappingProxyType(
    {
        # these say only "BSD"; the files that come with them are the three-clause licence
        "colorama": "BSD-3-Clause",
        "jinja2": "BSD-3-Clause",
        # says "BSD"; the file that comes with it is the two-clause licence
        "pyasn1-modules": "BSD-2-Clause",
        # says nothing in its metadata; the file that comes with it is this licence
        "cedarpy": "Apache-2.0",
        # only other systems or older Pythons need these, so that they cannot be asked here
        "async-timeout": "Apache-2.0",
        "httpx2-jsfetch": "BSD-3-Clause",
        "tzdata": "Apache-2.0",
    }
)
"""Licences of packages that cannot be asked, or answer with less than an identifier."""
_CLASSIFIER: Final = "License :: OSI Approved :: "
_LICENCE_TEXT_FROM: Final = 60
"""A `License` field that is longer is the licence's text."""


class LicenceUnknown(Exception):
    """A package does not say under which licence it comes, in words that are known here."""


def licence_of(name: str) -> str:
    """Returns a package's licence: its expression, else its classifier, else its words.

    Raises:
        LicenceUnknown: It says nothing that is known here.
    """
    if name.lower() in _NAMED:
        return _NAMED[name.lower()]
    try:
        about = metadata(name)
    except PackageNotFoundError:
        raise LicenceUnknown(f"{name} is not installed here: name its licence in deploy/licences.py") from None
    if expression := about["License-Expression"]:
        return str(expression)
    stated = (about["License"] or "").strip().strip('"')
    if stated != "UNKNOWN" and 0 < len(stated) < _LICENCE_TEXT_FROM:
        return _SPELLINGS.get(stated, stated)
    found = sorted({_SPELLINGS.get(text, text) for text in _classified(about)})
    if not found:
        raise LicenceUnknown(f"{name} does not say its licence: look at its files, and name it in deploy/licences.py")
    return " OR ".join(found)


def _classified(about: PackageMetadata) -> list[str]:
    texts = about.get_all("Classifier") or []
    return [str(text).removeprefix(_CLASSIFIER) for text in texts if str(text).startswith(_CLASSIFIER)]
