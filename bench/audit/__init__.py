"""`python -m bench audit`: what a transparency log costs, how fast decisions are verified offline, and whether a forgery is missed."""
