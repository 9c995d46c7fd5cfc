"""What has to be put so that a server has what a project says: compared by content, in an order that can work."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from cli.project.files import Project, ProjectInvalid, Role
from holdfast.runs.definition import AgentDefinition
from holdfast.tools.definition import OwnTool, ToolForm
from holdfast.tools.toolset import Toolset

if TYPE_CHECKING:
    from sdk import Agent as StoredAgent
    from sdk import Holdfast, PolicyText
    from sdk import Role as StoredRole
    from sdk import Tool as StoredTool

Kind = Literal["tool", "policy", "role", "agent"]
Change = Literal["new", "changed", "unchanged"]


class _Stored(Protocol):
    @property
    def version(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Item:
    """One thing of the project beside what the server has.

    Attributes:
        kind: What it is.
        name: Its name.
        change: How the two compare.
        version: The version that the server has, 0 if none.
        put: Puts it and returns the new version.
    """

    kind: Kind
    name: str
    change: Change
    version: int
    put: Callable[[], int]


@dataclass(frozen=True, slots=True)
class Server:
    """What a server had when it was asked, by name."""

    client: Holdfast
    tools: Mapping[str, StoredTool]
    roles: Mapping[str, StoredRole]
    agents: Mapping[str, StoredAgent]
    policy: PolicyText | None

    @classmethod
    def read(cls, client: Holdfast) -> Server:
        """Asks a server for all that it has."""
        return cls(
            client,
            {tool.name: tool for tool in client.tools()},
            {role.name: role for role in client.roles()},
            {agent.name: agent for agent in client.agents()},
            _active(client),
        )

    def own_tools(self) -> dict[str, OwnTool]:
        """The tenant's own tools."""
        return {
            name: OwnTool(name, tool.version, ToolForm.model_validate(tool.definition))
            for name, tool in self.tools.items()
        }

    def items(self, project: Project) -> Iterator[Item]:
        """Yields the project's things, each after what it refers to."""
        yield from self._tools(project)
        yield from self._policy(project)
        yield from self._roles(project)
        yield from self._agents(project)

    def _tools(self, project: Project) -> Iterator[Item]:
        for name, tool in project.tools.items():
            there = self.tools.get(name)

            def put(name: str = name, tool: OwnTool = tool) -> int:
                return self.client.put_tool(name, tool.form.to_json()).version

            yield _item("tool", name, there, there is not None and there.digest == tool.digest, put)

    def _policy(self, project: Project) -> Iterator[Item]:
        written, there = project.policy, self.policy
        if written is None:
            return
        same = there is not None and (there.source, there.cases) == (written.source, written.cases)

        def put() -> int:
            stored = self.client.policies.push(
                written.source, cases=written.cases, note=f"applied from {written.place}"
            )
            self.client.policies.activate(stored.version, reason=f"applied from {written.place}")
            return stored.version

        yield _item("policy", written.name, there, same, put)

    def _roles(self, project: Project) -> Iterator[Item]:
        for name, role in project.roles.items():
            there = self.roles.get(name)
            same = there is not None and _says_the_same(there, role)

            def put(name: str = name, role: Role = role) -> int:
                policy, cases = (role.text.source, role.text.cases) if role.text is not None else ("", "")
                return self.client.put_role(
                    name, policy, cases=cases, max_tokens_default=role.max_tokens_default
                ).version

            yield _item("role", name, there, same, put)

    def _agents(self, project: Project) -> Iterator[Item]:
        for name, agent in project.agents.items():
            there = self.agents.get(name)
            same = there is not None and AgentDefinition.model_validate(there.definition) == agent.definition

            def put(name: str = name, definition: AgentDefinition = agent.definition) -> int:
                return self.client.put_agent(name, definition.model_dump(mode="json")).version

            yield _item("agent", name, there, same, put)


def _active(client: Holdfast) -> PolicyText | None:
    newest = next((each for each in client.policies.log(count=200) if each.use == "active"), None)
    return None if newest is None or newest.version is None else client.policies.show(newest.version)


def _item(kind: Kind, name: str, stored: _Stored | None, same: bool, put: Callable[[], int]) -> Item:
    change: Change = "new" if stored is None else "unchanged" if same else "changed"
    return Item(kind, name, change, 0 if stored is None else stored.version, put)


def _says_the_same(there: StoredRole, role: Role) -> bool:
    said = (role.text.source, role.text.cases) if role.text is not None else ("", "")
    return (there.policy, there.cases, there.max_tokens_default) == (*said, role.max_tokens_default)


def check_references(project: Project, tools: Toolset, roles: Collection[str]) -> None:
    """Checks that everything that is named exists, here or on the server.

    Args:
        project: What is to be put.
        tools: All tools that there will be.
        roles: Names of the roles that the server has.

    Raises:
        ProjectInvalid: Something does not; all such places are named.
    """
    problems = []
    if project.policy is not None:
        problems += [
            f"{role.text.place}: says what the role may do, and {project.policy.place} decides: say it there"
            for role in project.roles.values()
            if role.text is not None
        ]
    for agent in project.agents.values():
        problems += [
            f"{agent.place}: tools: there is no tool {name!r}" for name in agent.definition.tools if name not in tools
        ]
        if agent.definition.role not in project.roles and agent.definition.role not in roles:
            problems.append(f"{agent.place}: role: there is no role {agent.definition.role!r}")
    if problems:
        raise ProjectInvalid("\n  ".join(["what is named does not exist:", *problems]))
