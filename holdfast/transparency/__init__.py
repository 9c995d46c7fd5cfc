"""The transparency log of a tenant's decision records: numbering, signing, proving, and what witnesses say."""
