"""From a configuration to a run: training, evaluation and audit. One file per protocol."""
