"""The VLM³ protocol: one file a task, each with its question texts, its answer grammar and its parser.

The question texts are constants of the released checkpoints (arXiv 2605.30561 and its public notebook): they were
trained with the loss on the prompt too, so they are kept byte for byte.
"""

from vlm3_ros.tasks.answers import Grammar, Number, Question, Reason, Refusal, Words, describe

__all__ = ["Grammar", "Number", "Question", "Reason", "Refusal", "Words", "describe"]
