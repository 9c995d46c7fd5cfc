"""Each layer is left out once: the canary must notice, by an attack that succeeds, and name the layer."""

from __future__ import annotations

import pytest

from sandbox.errors import LayerMissing
from sandbox.job import Because, Job
from sandbox.layers import REMEDY, Layer
from sandbox.service import Sandbox, Settings


@pytest.mark.parametrize("layer", list(Layer))
async def test_a_sandbox_without_a_layer_does_not_start(layer: Layer) -> None:
    with pytest.raises(LayerMissing) as raised:
        await Sandbox(Settings(idle_min=0), off=frozenset({layer})).start()
    assert raised.value.layer == layer, raised.value
    assert raised.value.remedy == REMEDY[layer]
    assert str(layer) in str(raised.value)


async def test_with_all_layers_it_starts_and_says_which_they_are(sandbox: Sandbox) -> None:
    receipt = (await sandbox.submit(Job("pass"))).receipt
    assert receipt.layers == tuple(layer.value for layer in Layer)
    assert receipt.missing == ()
    assert receipt.profile == "full"


async def test_a_layer_that_an_operator_let_go_stands_in_every_receipt() -> None:
    settings = Settings(idle_min=0, allow_missing=frozenset({Layer.UTS}))
    async with Sandbox(settings, off=frozenset({Layer.UTS})) as weaker:
        receipt = (await weaker.submit(Job("pass"))).receipt
    assert receipt.missing == ("uts",)
    assert "uts" not in receipt.layers
    assert receipt.weaker == ("The layer uts is missing.",)


async def test_what_is_allowed_to_be_missing_is_used_all_the_same_where_it_is_there() -> None:
    async with Sandbox(Settings(idle_min=0, allow_missing=frozenset({Layer.SECCOMP}))) as full:
        result = await full.submit(Job("import ctypes; ctypes.CDLL(None).ptrace(0, 0, 0, 0)"))
    assert result.receipt.missing == ()
    assert result.killed is not None
    assert result.killed.because == Because.FORBIDDEN_CALL
