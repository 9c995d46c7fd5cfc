"""Names and typed messages of workflows and activities: the only thing that API, workflows and workers share.

What stands here travels through Temporal's history, so it carries ids, counters, codes and digests, never prompts or values.
"""
