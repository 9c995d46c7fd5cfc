"""Which evaluator reads which engine version. One that has decided anything stays here for ever: its records are read for ever."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from holdfast_verdict.verify import policy_engine, rules_engine
from holdfast_verdict.verify.engine import EnginePolicy
from holdfast_verdict.verify.policy_engine import CompiledPolicy
from holdfast_verdict.verify.rules_engine import RulesPolicy

ENGINES: Final[Mapping[str, type[EnginePolicy]]] = {
    rules_engine.VERSION: RulesPolicy,
    policy_engine.VERSION: CompiledPolicy,
}
