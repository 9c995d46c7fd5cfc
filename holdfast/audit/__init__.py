"""Exports of the decision log that anybody can check without trusting this server; `holdfast_verdict.verify` does."""
