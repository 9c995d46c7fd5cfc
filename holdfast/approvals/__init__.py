"""Approvals: the consent that a gate asks for, given by a person who may and bound to exact arguments."""
