"""Artefacts: files of a run, in object storage by digest, each tenant's in a folder of its own."""
