"""Exercises: tasks, attempts at them, and verdicts that name the mistake."""

from attnlib.course.exercises.catalogue import TASKS
from attnlib.course.exercises.hints import hint
from attnlib.course.exercises.verdict import check, progress
