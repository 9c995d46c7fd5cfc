"""Notes, checkpoints, cosignatures and tiles' paths: vectors, the oracle, and every byte flipped."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from holdfast_verdict.log import note, tiles
from holdfast_verdict.log.checkpoint import Checkpoint, SignedCheckpoint
from holdfast_verdict.log.invalid import LogInvalid, NoteInvalid
from holdfast_verdict.log.note import Note, Signature, VerifierKey
from holdfast_verdict.log.tiles import Tile

from .go_oracle import Oracle

# The example of the Go module's documentation.
VECTOR_SEED = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
VECTOR_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
VECTOR_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
VECTOR_NOTE = (
    f"{VECTOR_TEXT}\n— PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
ORIGIN = "holdfast.example/tenant"
SECRET = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = VerifierKey(ORIGIN, note.ED25519, SECRET.public_key().public_bytes_raw())
WITNESS_SEED = bytes(range(1, 33))
WITNESS_SECRET = Ed25519PrivateKey.from_private_bytes(WITNESS_SEED)
WITNESS = VerifierKey("witness.example/w", note.COSIGNATURE, WITNESS_SECRET.public_key().public_bytes_raw())
CHECKPOINT = Checkpoint(ORIGIN, 20_852_163, bytes(range(32)))


def signed(checkpoint: Checkpoint = CHECKPOINT) -> Note:
    return Note(checkpoint.text, (note.sign(checkpoint.text, KEY, SECRET.sign),))


def test_the_example_of_the_go_module() -> None:
    key = VerifierKey.parse(VECTOR_KEY)
    Note.parse(VECTOR_NOTE).verified(key)
    signature = note.sign(VECTOR_TEXT, key, Ed25519PrivateKey.from_private_bytes(VECTOR_SEED).sign)
    assert Note(VECTOR_TEXT, (signature,)).message == VECTOR_NOTE


def test_a_signed_checkpoint_is_read_back() -> None:
    opened = SignedCheckpoint.open(signed().message.encode(), [KEY])
    assert opened.checkpoint == CHECKPOINT
    assert Checkpoint.parse(CHECKPOINT.text) == CHECKPOINT
    assert VerifierKey.parse(KEY.text) == KEY


def test_every_flipped_bit_of_a_signed_checkpoint_is_found() -> None:
    message = signed().message.encode()
    for place in range(len(message)):
        for bit in range(8):
            changed = bytearray(message)
            changed[place] ^= 1 << bit
            with pytest.raises(LogInvalid):
                SignedCheckpoint.open(bytes(changed), [KEY])


def test_another_key_of_the_same_name_and_another_log_are_refused() -> None:
    other = VerifierKey(ORIGIN, note.ED25519, WITNESS.public_key)
    with pytest.raises(NoteInvalid, match="none of the known keys"):
        SignedCheckpoint.open(signed().message, [other])
    with pytest.raises(NoteInvalid, match="none of the known keys"):
        SignedCheckpoint.open(signed().message, [])
    foreign = Checkpoint("other.example/log", 1, bytes(32))
    message = Note(foreign.text, (note.sign(foreign.text, KEY, SECRET.sign),)).message
    with pytest.raises(NoteInvalid, match="none of the known keys"):
        SignedCheckpoint.open(message, [KEY])


def test_a_cosignature_counts_with_its_time_and_is_no_signature_of_the_log() -> None:
    cosignature = note.cosign(CHECKPOINT.text, WITNESS, WITNESS_SECRET.sign, 1_700_000_000)
    opened = SignedCheckpoint.open(signed().with_signatures([cosignature]).message, [KEY])
    assert opened.cosigned_by([WITNESS]) == [(WITNESS, cosignature)]
    assert cosignature.time_s == 1_700_000_000
    later = Signature(WITNESS.name, WITNESS.key_id, (1_700_000_001).to_bytes(8, "big") + cosignature.value[8:])
    with pytest.raises(NoteInvalid, match="wrong"):
        SignedCheckpoint.open(signed().with_signatures([later]).message, [KEY]).cosigned_by([WITNESS])
    with pytest.raises(NoteInvalid, match="algorithm"):
        note.sign(CHECKPOINT.text, WITNESS, WITNESS_SECRET.sign)
    with pytest.raises(NoteInvalid, match="algorithm"):
        note.cosign(CHECKPOINT.text, KEY, SECRET.sign, 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\n1\n",
        f"a\n01\n{base64.b64encode(bytes(32)).decode()}\n",
        f"a\n-1\n{base64.b64encode(bytes(32)).decode()}\n",
        f"a\n1 \n{base64.b64encode(bytes(32)).decode()}\n",
        f"a\n{1 << 63}\n{base64.b64encode(bytes(32)).decode()}\n",
        f"a\n1\n{base64.b64encode(bytes(31)).decode()}\n",
        f"a\n1\n{base64.b64encode(bytes(32)).decode()}",
        f"a\n1\n{base64.b64encode(bytes(32)).decode()}\n\n",
        f"\n1\n{base64.b64encode(bytes(32)).decode()}\n",
        f"a\n¹\n{base64.b64encode(bytes(32)).decode()}\n",
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(NoteInvalid):
        Checkpoint.parse(text)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\u00a0b"])
def test_a_name_that_cannot_stand_on_a_line_is_refused(name: str) -> None:
    with pytest.raises(NoteInvalid):
        VerifierKey(name, note.ED25519, bytes(32))


@given(st.text())
def test_no_text_breaks_the_readers(text: str) -> None:
    for read in (Note.parse, Checkpoint.parse, VerifierKey.parse, Tile.parse, Signature.parse):
        try:
            read(text)
        except LogInvalid:
            continue


tiles_strategy = st.builds(Tile, st.integers(-1, 63), st.integers(0, 10**10), st.integers(1, 256))


@given(tiles_strategy)
def test_paths_of_tiles_are_read_back(tile: Tile) -> None:
    assert Tile.parse(tile.path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/00",
        "tile/0/x000/001",
        "tile/00/001",
        "tile/64/001",
        "tile/-1/001",
        "tile/0/1",
        "tile/0/x001/x002",
        "tile/0/001/002",
        "tile/entries/001/",
        "tile/0/000.p/01",
        "tile/data/000",
        "tile/0/٠٠٠",
    ],
)
def test_what_is_no_path_of_a_tile_is_refused(path: str) -> None:
    with pytest.raises(LogInvalid):
        Tile.parse(path)


@given(st.lists(st.binary(max_size=70), max_size=5))
def test_bundles_of_entries_are_read_back(entries: list[bytes]) -> None:
    bundle = tiles.entry_bundle(entries)
    assert tiles.entries_of(bundle) == entries
    for broken in ([bundle[:-1]] if bundle else []) + [bundle + b"\xff"]:
        with pytest.raises(LogInvalid):
            tiles.entries_of(broken)


def test_the_oracle_opens_our_notes_and_signs_the_same(oracle: Oracle) -> None:
    assert oracle.ask("open", message=signed().message, keys=[KEY.text]) == {"text": CHECKPOINT.text}
    theirs = oracle.ask("sign", message=CHECKPOINT.text, name=ORIGIN, seed=bytes(range(32)))
    assert theirs == {"message": signed().message, "key": KEY.text}
    changed = signed().message.replace("20852163", "20852164")
    assert "error" in oracle.ask("open", message=changed, keys=[KEY.text])


def test_the_oracle_and_we_accept_each_others_cosignatures(oracle: Oracle) -> None:
    theirs = oracle.ask("cosign", message=CHECKPOINT.text, name=WITNESS.name, seed=WITNESS_SEED)
    Note.parse(theirs["message"]).verified(VerifierKey.parse(theirs["key"]))
    assert theirs["key"] == WITNESS.text
    ours = Note(CHECKPOINT.text, (note.cosign(CHECKPOINT.text, WITNESS, WITNESS_SECRET.sign, 1_700_000_000),))
    found = oracle.ask("verify_cosignature", message=ours.message, name=WITNESS.name, seed=WITNESS_SEED)
    assert found == {"text": CHECKPOINT.text, "time": 1_700_000_000}


@given(st.lists(tiles_strategy, min_size=1, max_size=20))
def test_the_oracle_has_the_same_paths(oracle: Oracle, some: list[Tile]) -> None:
    found = oracle.ask("paths", tiles=[[tile.level, tile.index, tile.width] for tile in some])
    assert found["paths"] == [tile.path for tile in some]
