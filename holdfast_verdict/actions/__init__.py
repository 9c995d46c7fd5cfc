"""Canonical actions: the one form of what a model wants done, which is decided and executed byte for byte."""

from holdfast_verdict.actions.action import CanonicalAction
from holdfast_verdict.actions.catalogue import ActionType, Catalogue
from holdfast_verdict.actions.readings import (
    cidr_matcher,
    domain_matcher,
    host_matcher,
    host_of,
    ip_of,
    mail_domain,
    path_matcher,
    path_of,
    url_of,
)
from holdfast_verdict.actions.refused import ActionRefused, CatalogueInvalid, FormRefused
from holdfast_verdict.actions.texts import folded_text

__all__ = [
    "ActionRefused",
    "ActionType",
    "CanonicalAction",
    "Catalogue",
    "CatalogueInvalid",
    "FormRefused",
    "cidr_matcher",
    "domain_matcher",
    "folded_text",
    "host_matcher",
    "host_of",
    "ip_of",
    "mail_domain",
    "path_matcher",
    "path_of",
    "url_of",
]
