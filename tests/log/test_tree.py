"""Trees: the vectors of RFC 6962's reference, every proof of small trees, and proofs that have been tampered with."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_verdict.log import tiles, tree
from holdfast_verdict.log.invalid import LogInvalid, ProofInvalid
from holdfast_verdict.log.tree import Node

from .go_oracle import Oracle, raw

# Leaves and roots of the reference implementation of RFC 6962, which all of the field's libraries are tested with.
VECTOR_LEAVES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
VECTOR_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
SIZES = st.integers(1, 700)


def leaves_of(count: int) -> list[bytes]:
    return [tree.leaf_hash(index.to_bytes(4, "big")) for index in range(count)]


def subtree(leaves: list[bytes], node: Node) -> bytes:
    return tree.root_of(leaves[node.index << node.level : (node.index + 1) << node.level])


def inclusion(leaves: list[bytes], index: int, size: int) -> list[bytes]:
    ranges = tree.inclusion_ranges(index, size)
    return tree.proof_of(ranges, {node: subtree(leaves, node) for node in tree.nodes_of(ranges)})


def consistency(leaves: list[bytes], old_size: int, size: int) -> list[bytes]:
    ranges = tree.consistency_ranges(old_size, size)
    return tree.proof_of(ranges, {node: subtree(leaves, node) for node in tree.nodes_of(ranges)})


def test_the_vectors_of_the_rfcs_reference() -> None:
    leaves = [tree.leaf_hash(bytes.fromhex(leaf)) for leaf in VECTOR_LEAVES]
    assert [tree.root_of(leaves[:size]).hex() for size in range(1, 9)] == VECTOR_ROOTS
    assert tree.root_of([]) == tree.EMPTY_ROOT == hashlib.sha256(b"").digest()
    # RFC 6962's reference: the proofs of leaf 5 in 8, and of 6 in 8
    assert [each.hex()[:8] for each in inclusion(leaves, 5, 8)] == ["bc1a0643", "ca854ea1", "d37ee418"]
    assert [each.hex()[:8] for each in consistency(leaves, 6, 8)] == ["0ebc5d34", "ca854ea1", "d37ee418"]


def test_every_proof_of_small_trees_holds_and_for_nothing_else() -> None:
    leaves = leaves_of(34)
    roots = [tree.root_of(leaves[:size]) for size in range(35)]
    for size in range(1, 34):
        for index in range(size):
            proof = inclusion(leaves, index, size)
            tree.verify_inclusion(index=index, size=size, leaf=leaves[index], proof=proof, root=roots[size])
            for other in range(size):
                if other != index:
                    with pytest.raises(ProofInvalid):
                        tree.verify_inclusion(index=other, size=size, leaf=leaves[index], proof=proof, root=roots[size])
            with pytest.raises(ProofInvalid):
                tree.verify_inclusion(index=index, size=size, leaf=leaves[index], proof=proof, root=roots[size + 1])
        for old in range(size + 1):
            proof = consistency(leaves, old, size)
            tree.verify_consistency(old_size=old, old_root=roots[old], size=size, root=roots[size], proof=proof)
            with pytest.raises(ProofInvalid):
                tree.verify_consistency(
                    old_size=old, old_root=roots[size + 1], size=size, root=roots[size], proof=proof
                )
            with pytest.raises(ProofInvalid):
                tree.verify_consistency(
                    old_size=size + 1, old_root=roots[old], size=size, root=roots[size], proof=proof
                )


@given(SIZES, st.data())
def test_a_proof_that_was_tampered_with_is_refused(size: int, data: st.DataObject) -> None:
    leaves = leaves_of(size)
    root = tree.root_of(leaves)
    index = data.draw(st.integers(0, size - 1))
    old = data.draw(st.integers(1, size))
    old_root = tree.root_of(leaves[:old])
    included, consistent = inclusion(leaves, index, size), consistency(leaves, old, size)
    tree.verify_inclusion(index=index, size=size, leaf=leaves[index], proof=included, root=root)
    tree.verify_consistency(old_size=old, old_root=old_root, size=size, root=root, proof=consistent)
    with pytest.raises(ProofInvalid):
        tree.verify_inclusion(index=index, size=size, leaf=leaves[index], proof=_tampered(included, data), root=root)
    with pytest.raises(ProofInvalid):
        tree.verify_consistency(
            old_size=old, old_root=old_root, size=size, root=root, proof=_tampered(consistent, data)
        )


def _tampered(proof: list[bytes], data: st.DataObject) -> list[bytes]:
    kind = data.draw(st.sampled_from(["flip", "drop", "add", "twice"] if proof else ["add"]))
    place = data.draw(st.integers(0, max(0, len(proof) - 1)))
    if kind == "flip":
        changed = bytearray(proof[place])
        changed[data.draw(st.integers(0, 31))] ^= 1 << data.draw(st.integers(0, 7))
        return [*proof[:place], bytes(changed), *proof[place + 1 :]]
    if kind == "drop":
        return [*proof[:place], *proof[place + 1 :]]
    more = proof[place] if kind == "twice" else data.draw(st.binary(min_size=32, max_size=32))
    return [*proof[:place], more, *proof[place:]]


def test_what_is_no_hash_no_leaf_or_no_older_tree_is_refused() -> None:
    leaves = leaves_of(3)
    root = tree.root_of(leaves)
    for index in (-1, 3):
        with pytest.raises(ProofInvalid, match="no leaf"):
            tree.inclusion_ranges(index, 3)
        with pytest.raises(ProofInvalid, match="no leaf"):
            tree.verify_inclusion(index=index, size=3, leaf=leaves[0], proof=[], root=root)
    with pytest.raises(ProofInvalid, match="never one of"):
        tree.consistency_ranges(4, 3)
    with pytest.raises(ProofInvalid, match="32 bytes"):
        tree.verify_inclusion(index=0, size=1, leaf=b"short", proof=[], root=root)
    with pytest.raises(ProofInvalid, match="went back"):
        tree.verify_consistency(old_size=4, old_root=root, size=3, root=root, proof=[])
    with pytest.raises(ProofInvalid, match="forked"):
        tree.verify_consistency(old_size=3, old_root=leaves[0], size=3, root=root, proof=[])


@given(st.lists(st.integers(0, 300), min_size=1, max_size=6))
def test_tiles_that_grow_by_appends_are_those_of_the_whole_tree(steps: list[int]) -> None:
    leaves = leaves_of(sum(steps))
    stored: dict[tuple[int, int], bytes] = {}
    size = 0
    for step in steps:
        edge = {(tile.level, tile.index): stored[tile.level, tile.index] for tile in tiles.edge(size)}
        changed = tiles.append(edge, size, leaves[size : size + step])
        assert all(data.startswith(stored.get(key, b"")) for key, data in changed.items()), "a tile only grows"
        changed_levels = {tile for tile in tiles.tiles_between(size, size + step) if tile.level != tiles.ENTRIES}
        assert {(tile.level, tile.index): tile.width * 32 for tile in changed_levels} == {
            key: len(data) for key, data in changed.items()
        }
        stored |= changed
        size += step
        assert tiles.root(stored, size) == tree.root_of(leaves[:size])
    for index in {0, size // 2, size - 1} if size else set():
        ranges = tree.inclusion_ranges(index, size)
        proof = tiles.prove(ranges, {key: stored[key] for key in tiles.keys_of(ranges)})
        tree.verify_inclusion(index=index, size=size, leaf=leaves[index], proof=proof, root=tree.root_of(leaves))
    for old in {size // 3, size - size // 3, size - 1} if size else set():
        ranges = tree.consistency_ranges(old, size)
        proof = tiles.prove(ranges, {key: stored[key] for key in tiles.keys_of(ranges)})
        tree.verify_consistency(
            old_size=old, old_root=tree.root_of(leaves[:old]), size=size, root=tree.root_of(leaves), proof=proof
        )


def test_a_large_tree_has_three_rows_of_tiles() -> None:
    leaves = leaves_of(65_536 + 300)
    stored = tiles.append({}, 0, leaves)
    assert max(level for level, _ in stored) == 2
    assert tiles.root(stored, len(leaves)) == tree.root_of(leaves)
    ranges = tree.inclusion_ranges(65_540, len(leaves))
    proof = tiles.prove(ranges, stored)
    tree.verify_inclusion(
        index=65_540, size=len(leaves), leaf=leaves[65_540], proof=proof, root=tiles.root(stored, len(leaves))
    )


def test_a_short_tile_is_not_taken_for_a_whole_one() -> None:
    stored = tiles.append({}, 0, leaves_of(100))
    with pytest.raises(LogInvalid, match="has 99 hashes and should have 100"):
        tiles.append({(0, 0): stored[0, 0][:-32]}, 100, leaves_of(1))
    with pytest.raises(LogInvalid, match="shorter"):
        tiles.root({(0, 0): stored[0, 0][:-32]}, 100)


def test_the_oracle_has_the_same_roots_and_proofs(oracle: Oracle) -> None:
    for size in (1, 2, 7, 8, 64, 91):
        entries = [bytes([index]) * 64 for index in range(size)]
        leaves = [tree.leaf_hash(entry) for entry in entries]
        found = oracle.ask("tree", entries=entries)
        assert raw(found["roots"]) == [tree.root_of(leaves[: index + 1]) for index in range(size)]
        for index in range(size):
            assert raw(found["inclusion"][index]) == inclusion(leaves, index, size)
            theirs = raw(found["consistency"][index])
            assert theirs == consistency(leaves, index + 1, size)


@given(st.integers(1, 2000), st.data())
def test_the_oracle_accepts_our_proofs_and_refuses_what_we_refuse(
    oracle: Oracle, size: int, data: st.DataObject
) -> None:
    leaves = leaves_of(size)
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    root, old_root = tree.root_of(leaves), tree.root_of(leaves[:old])
    included, consistent = inclusion(leaves, index, size), consistency(leaves, old, size)
    record = {"size": size, "index": index, "leaf": leaves[index], "root": root}
    older = {"size": size, "old_size": old, "root": root, "old_root": old_root}
    assert oracle.ask("check_record", **record, proof=included) == {}
    assert oracle.ask("check_tree", **older, proof=consistent) == {}
    assert "error" in oracle.ask("check_record", **record, proof=_tampered(included, data))
    assert "error" in oracle.ask("check_tree", **older, proof=_tampered(consistent, data))
