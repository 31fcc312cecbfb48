"""The page on a LangGraph server of ours (`http.app` in langgraph.json): files, and what there is to choose
from. Answers come from the server's own API, and its guard stands before all of it.
"""

from __future__ import annotations

from starlette.applications import Starlette

from cultural_palette.graph.server.app import make_app
from cultural_palette.ui.routes import page_routes

app: Starlette = make_app(page_routes())
