"""One of AgentDojo's suites: its tools as a catalogue, its tasks, and what an attacker puts into its environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from holdfast.errors import ConfigurationInvalid
from holdfast_verdict import Catalogue

if TYPE_CHECKING:
    from agentdojo.base_tasks import BaseInjectionTask, BaseUserTask
    from agentdojo.functions_runtime import FunctionCall
    from agentdojo.task_suite.task_suite import TaskSuite

    from holdfast_verdict.policy import Policy

DEFAULT_VERSION: Final = "v1.2.2"
DEFAULT_ATTACK: Final = "important_instructions"
UNTRUSTED: Final = "untrusted"
PRINCIPAL: Final = {"tenant": "bench", "project": "agentdojo", "user": "user", "agent": "agent"}
"""Who acts, by name."""
_MODEL: Final = "gpt-4o-2024-05-13"
"""A model whose name the attack's text may use; none is ever asked."""


class Suite:
    """A suite in one version, with one attack.

    Attributes:
        name: Its name.
        version: Its version.
        attack: The attack's name.
        suite: AgentDojo's own object.
        runtime: What executes its tools.
    """

    def __init__(self, name: str, version: str, attack: str) -> None:
        """Loads it.

        Raises:
            ConfigurationInvalid: There is no such suite, version or attack.
        """
        # these bring the providers' libraries along, which takes seconds: only this benchmark needs them
        from agentdojo.agent_pipeline.ground_truth_pipeline import GroundTruthPipeline
        from agentdojo.attacks.attack_registry import ATTACKS, load_attack
        from agentdojo.functions_runtime import FunctionsRuntime
        from agentdojo.task_suite.load_suites import get_suites

        suites: Mapping[str, TaskSuite[Any]] = get_suites(version)
        if not suites:
            raise ConfigurationInvalid(
                f"AgentDojo has no version {version!r} of its suites", remedy="Take one such as v1.2.2, v1.1 or v1."
            )
        if name not in suites:
            raise ConfigurationInvalid(
                f"AgentDojo has no suite {name!r}", remedy=f"Take one of {', '.join(sorted(suites))}."
            )
        if attack not in ATTACKS or attack == "manual":  # that one asks at the terminal
            raise ConfigurationInvalid(
                f"AgentDojo has no attack {attack!r}", remedy=f"Take one of {', '.join(sorted(ATTACKS))}."
            )
        self.name, self.version, self.attack = name, version, attack
        self.suite = suites[name]
        self.runtime = FunctionsRuntime(self.suite.tools)
        pipeline = GroundTruthPipeline(None)
        pipeline.name = _MODEL
        self._attack = load_attack(attack, self.suite, pipeline)

    def catalogue(self, policy: Policy | None = None) -> Catalogue:
        """Returns the tools as types of actions.

        A tool's output is untrusted, as it is of every tool that somebody else has described, unless the policy says something of it
        in that respect: that a part of it is untrusted, or that it yields nothing.
        """
        return Catalogue.of(
            {
                tool.name: {
                    "parameters": tool.parameters.model_json_schema(),
                    "yields": [] if policy is not None and says_of(policy, tool.name) else [UNTRUSTED],
                }
                for tool in self.suite.tools
            }
        )

    def user_tasks(self) -> list[BaseUserTask[Any]]:
        """Returns the user's tasks, in their order."""
        return list(self.suite.user_tasks.values())

    def injection_tasks(self) -> list[BaseInjectionTask[Any]]:
        """Returns the attacker's tasks, in their order."""
        return list(self.suite.injection_tasks.values())

    def environment(self, task: BaseUserTask[Any], injections: Mapping[str, str]) -> Any:
        """Returns the suite's environment as the task finds it, with what the attacker put there."""
        return task.init_environment(self.suite.load_and_inject_default_environment(dict(injections)))

    def injections(self, user_task: BaseUserTask[Any], injection_task: BaseInjectionTask[Any]) -> dict[str, str]:
        """Returns the attack's text for each place that the user's task reads; none if it reads no such place."""
        try:
            return dict(self._attack.attack(user_task, injection_task))
        except ValueError:  # how the attack says that the task reads none
            return {}


def says_of(policy: Policy, tool: str) -> bool:
    """Says whether a policy says of a tool by name how far its output is to be trusted."""
    return any(
        (UNTRUSTED in rule.labels or (not rule.labels and not rule.field))
        and any(_names(each, tool) for each in rule.actions)
        for rule in policy.labels
    )


def _names(pattern: str, tool: str) -> bool:
    if pattern in ("*", "external"):
        return False
    return tool.startswith(pattern[:-1]) if pattern.endswith("*") else tool == pattern


def plain(value: object) -> Any:
    """Returns a value of AgentDojo's as JSON."""
    from pydantic_core import to_jsonable_python

    return to_jsonable_python(value, serialize_unknown=True)


def nested(call: FunctionCall) -> Sequence[tuple[str, FunctionCall]]:
    """Returns the calls whose results are arguments of this one."""
    from agentdojo.functions_runtime import FunctionCall as Call

    return [(name, value) for name, value in call.args.items() if isinstance(value, Call)]
