"""A zoo of classifiers for the diagnostics: kinds that mask their gradients, and honest ones. `make zoo` audits them all."""
