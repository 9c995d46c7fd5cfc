"""What touches the world, and may be retried?"""
