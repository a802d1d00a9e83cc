"""From a configuration to a run: what is trained on what, evaluated how. One file a protocol."""
