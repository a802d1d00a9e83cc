"""What every room stands on: interfaces, errors, tensors, losses, threats, options, files. No room is below it."""
