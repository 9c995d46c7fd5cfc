"""The transparency log's form: tree, proofs, signed notes, checkpoints, cosignatures and tiles. Pure: bytes in, bytes out."""
