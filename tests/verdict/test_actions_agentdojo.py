"""AgentDojo's tools and the calls of its tasks: schemas of somebody else, and arguments that are all honest."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast_verdict.actions import Catalogue

VERSION = "v1.2.2"
SUITES = ("workspace", "banking", "slack", "travel")


@pytest.mark.parametrize("name", SUITES)
def test_every_call_of_every_task_has_a_canonical_form_that_means_the_same(name: str) -> None:
    from agentdojo.task_suite.load_suites import (
        get_suites,
    )  # brings the providers' libraries along, which takes seconds

    suite = get_suites(VERSION)[name]
    catalogue = Catalogue.of({tool.name: {"parameters": tool.parameters.model_json_schema()} for tool in suite.tools})
    forms: dict[str, Any] = {tool.name: tool.parameters for tool in suite.tools}
    environment = suite.load_and_inject_default_environment({})
    calls = [
        call
        for task in (*suite.user_tasks.values(), *suite.injection_tasks.values())
        for call in task.ground_truth(environment)
    ]
    assert len(calls) > 40
    for call in calls:
        action = catalogue.action(call.function, dict(call.args))
        executed = action.arguments(float)
        form = forms[call.function]
        assert form.model_validate(executed) == form.model_validate(dict(call.args))
        assert catalogue.action(call.function, executed) == action
