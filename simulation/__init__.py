"""Use of Plackett without people: what tests and benches share, and nothing else needs.

It knows neither of them. Nothing of it is shipped.
"""
