"""The loops: training in one or many processes, evaluation, and scoring."""
