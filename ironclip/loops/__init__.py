"""The loops: training in one or many processes, evaluation, and the scores that both are read by."""
