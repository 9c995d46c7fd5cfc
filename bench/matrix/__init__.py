"""The overspend matrix: everything that makes others overspend, in every combination, with the books checked after each."""
