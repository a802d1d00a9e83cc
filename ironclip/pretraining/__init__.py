"""How the embedded backbones `mini` and `mini-robust` are made: `python -m ironclip.pretraining`."""
