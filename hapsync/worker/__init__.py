"""Joins the decisions and the edge: one pass, the file and the reload, and the agent's loop around them."""
