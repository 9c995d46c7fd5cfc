"""Policies of a tenant: kept in versions, made active or looked at in the shadow, and read for the runs that they decide."""
