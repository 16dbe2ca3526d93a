"""The practitioner's API: a learner that learns folder after folder, answers, and forgets; see `Learner`."""

from __future__ import annotations

from everclip.learner.directory import LearnerDirectory
from everclip.learner.learner import Learner
from everclip.learner.reports import Evaluation, ExportReport, ForgetReport, LearnedTask, LearnReport, Prediction

__all__ = [
    "Evaluation",
    "ExportReport",
    "ForgetReport",
    "LearnReport",
    "LearnedTask",
    "Learner",
    "LearnerDirectory",
    "Prediction",
]
