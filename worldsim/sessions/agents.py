"""Agents that a session can hand its controls to: registered ones, and those that are shipped.

A client's text names them, so nothing else is imported or opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from worldsim.errors import NotFoundError, WorldsimError
from worldsim.protocols import Policy
from worldsim.runtime.arguments import shown
from worldsim.runtime.registries import PLANNERS, POLICIES
from worldsim.runtime.types import Space
from worldsim.sessions.protocol import AgentInfo
from worldsim.shipped.agent_files import read_card, shipped_agents
from worldsim.shipped.policies import make_policy

if TYPE_CHECKING:
    from worldsim.state import WorldState
    from worldsim.world.world import World


class Source(Protocol):
    """What planners imagine in: the present state of a session."""

    @property
    def world(self) -> World:
        """The world."""
        ...

    @property
    def state(self) -> WorldState:
        """Its present state, a batch of one."""
        ...


def installed_policy(name: str, space: Space) -> Policy:
    """Return a registered policy or a shipped agent.

    Raises NotFoundError for other names, and InvalidInputError for one of another action space.
    """
    if name not in POLICIES and name not in shipped_agents():
        raise NotFoundError(
            f"no agent {shown(name)}: there are {', '.join((*POLICIES, *shipped_agents()))}"
        )
    return make_policy(name, space)


def make_agent(name: str, source: Source, seed: int) -> Policy:
    """Return an agent for a session, reset with ``seed``.

    Raises NotFoundError, InvalidInputError or MissingGeometryError.
    """
    if name in PLANNERS:
        agent: Policy = PLANNERS.of_user(name)(source)
    else:
        agent = installed_policy(name, source.world.action_space)
    agent.reset(seed)
    return agent


def agents_for(source: Source) -> list[AgentInfo]:
    """Return the agents that can act in a session.

    Each is made once, since only its class knows what it needs.
    """
    found = []
    for name in (*POLICIES, *shipped_agents(), *PLANNERS):
        kind = "planner" if name in PLANNERS else "policy"
        try:
            agent = make_agent(name, source, 0)
        except WorldsimError:
            continue
        summary = _summary(name, agent)
        found.append(AgentInfo.model_validate({"name": name, "summary": summary, "kind": kind}))
    return found


def _summary(name: str, agent: Policy) -> str:
    if name in shipped_agents():
        return f"Trained in {read_card(name).world or 'a world'}."
    return (type(agent).__doc__ or "").strip().split("\n")[0][:200]
