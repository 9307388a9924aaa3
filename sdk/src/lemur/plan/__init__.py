"""What a run will do, before anything is spent."""

from lemur.plan.making import Plan, check_plan, make_plan
from lemur.plan.table import render_plan

__all__ = ["Plan", "check_plan", "make_plan", "render_plan"]
