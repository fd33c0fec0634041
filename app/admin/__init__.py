"""The admins' face: every page under /admin.

A page lives in the face of whoever reads it, not in the highest room whose tables it reads: a face stands
above the domain rooms and holds pages and nothing else. Each module is one group of pages (a tab of a
project, or an entry of the menu) with its `router`; only `tabs`, which a project's pages share, has none.
What a page needs from the database, it asks the rooms' services and queries for. A domain room's API
stands in its `api.py`, and the pages that belong to no face (signing in, rating) in its `pages.py`.
"""
